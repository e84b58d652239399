"""Checks of what callers pass: whole numbers, ids and text. Pure."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from pgqueue.errors import ConfigError

MOST_ID = (1 << 63) - 1  # a bigint
MOST_INTEGER = (1 << 31) - 1
NO_ID = 0  # ids begin with 1


def _whole(value: Any) -> int | None:
    """The value if it is a whole number (an ``int``, or one of NumPy), else None."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole_number(value: Any, name: str, *, least: int = 0, most: int = MOST_INTEGER) -> int:
    """Return a whole number, or raise ConfigError if it is none, or outside the range."""
    number = _whole(value)
    if number is None or not least <= number <= most:
        raise ConfigError(
            f"{name} must be a whole number from {least} to {most:,}, got {shown(value)}"
        )
    return number


def real_number(value: Any, name: str, least: float, most: float) -> float:
    """Return a number, or raise ConfigError if it is none, or outside the range."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        raise ConfigError(f"{name} must be a number from {least:g} to {most:g}, got {shown(value)}")
    return float(value)


def check_id(value: Any, name: str = "job_id") -> int:
    """Return an id, or one that no row has if it is outside the range of ids.

    Raises:
        ConfigError: it is no whole number.
    """
    number = _whole(value)
    if number is None:
        raise ConfigError(f"{name} must be a whole number, got {shown(value)}")
    return number if 1 <= number <= MOST_ID else NO_ID


def check_ids(values: Any, name: str = "job_ids") -> list[int]:
    """Return the ids, without those that no row can have.

    Raises:
        ConfigError: it is no list of whole numbers.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} must be a list of whole numbers, got {shown(values)}")
    found = [check_id(value, f"each of {name}") for value in values]
    return [job_id for job_id in found if job_id != NO_ID]


def flag(value: Any, name: str) -> bool:
    """Return True or False, or raise ConfigError if it is neither."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {shown(value)}")
    return value


def several(values: Any, name: str, what: str) -> tuple[Any, ...]:
    """Return what a list holds, or raise ConfigError if it is none; text is no list of characters.

    Args:
        what: it is a list of, for the error.
    """
    if isinstance(values, str):
        raise ConfigError(f'{name} takes several {what}, got the text {shown(values)}: use ["..."]')
    if isinstance(values, bytes) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} takes a list of {what}, got {shown(values)}")
    return tuple(values)


def storable_text(value: Any, name: str) -> str:
    """Return text that PostgreSQL can store, or raise ConfigError."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be text, got {shown(value)}")
    if "\0" in value or value.encode("utf-8", "ignore").decode() != value:
        raise ConfigError(f"{name} holds a character that PostgreSQL cannot store: {shown(value)}")
    return value


def shown(value: Any) -> str:
    """A wrong value for an error message: at most 200 characters, also where its ``repr`` fails."""
    try:
        text = repr(value)
    except Exception:  # a number of too many digits, or the caller's own class
        text = f"a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."
