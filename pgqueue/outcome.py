"""What an attempt ended as, decided without touching the database."""

from __future__ import annotations

import traceback as tb
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pgqueue.control import Cancel, Control, Dead, Retry, Snooze
from pgqueue.durations import LONGEST

Kind = Literal["succeeded", "retry", "snooze", "cancelled", "dead"]

MESSAGE_LIMIT = 8_000
TRACEBACK_LIMIT = 16_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. ``delay`` in seconds; None means the job's backoff."""

    kind: Kind
    delay: float | None = None
    error_type: str | None = None
    error: str | None = None
    traceback: str | None = None


SUCCEEDED = Outcome("succeeded")
RELEASED = Outcome("snooze", delay=0.0)


def clean(text: str, limit: int) -> str:
    """Make text storable: no NUL, no lone surrogates, at most ``limit`` characters."""
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]} [{len(text) - limit} characters cut] {text[-half:]}"
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")


def describe(error: BaseException) -> tuple[str, str, str]:
    """Type, message and traceback of an error whose own methods may be broken."""
    try:
        message = str(error)
    except BaseException as broken:  # a hostile __str__ must not stop the failure's record
        message = f"(its __str__ raised {type(broken).__name__})"
    try:
        lines = "".join(tb.format_exception(error))
    except BaseException:
        lines = "".join(tb.format_tb(error.__traceback__))
    name = type(error).__qualname__
    if type(error).__module__ not in ("builtins", "__main__"):
        name = f"{type(error).__module__}.{name}"
    return clean(name, 200), clean(message, MESSAGE_LIMIT), clean(lines, TRACEBACK_LIMIT)


def decide(
    error: BaseException,
    *,
    attempt: int,
    retry_on: tuple[type[BaseException], ...] | None = None,
    backoff: Callable[[int], float] | None = None,
) -> Outcome:
    """Turn what a handler raised into an outcome.

    Args:
        attempt: number of the attempt that failed, from 1.
        retry_on: if given, any other exception is dead at once.
        backoff: delay in seconds by attempt, for a class that computes its own.
    """
    if isinstance(error, Control):
        return _decide_control(error)
    kind: Kind = "retry"
    if retry_on is not None and not isinstance(error, retry_on):
        kind = "dead"
    delay = None
    if kind == "retry" and backoff is not None:
        try:
            delay = min(max(float(backoff(attempt)), 0.0), LONGEST)
        except Exception as broken:
            error.add_note(f"its backoff({attempt}) raised {broken!r}: the default was used")
    name, message, lines = describe(error)
    return Outcome(kind, delay, name, message, lines)


def _decide_control(error: Control) -> Outcome:
    name = type(error).__name__
    reason = clean(str(getattr(error, "reason", "")), MESSAGE_LIMIT)
    match error:
        case Retry():
            return Outcome("retry", error.after, name, reason)
        case Snooze():
            return Outcome("snooze", error.after, name, reason)
        case Dead():
            return Outcome("dead", None, name, reason)
        case Cancel():
            return Outcome("cancelled", None, name, reason)
    return Outcome("retry", None, name, reason)
