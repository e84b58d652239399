"""Durations: seconds as a number, a ``timedelta``, or text like ``"1h30m"``."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import TypeAlias

from pgqueue.checks import shown
from pgqueue.errors import ConfigError

Duration: TypeAlias = int | float | str | timedelta

MOST_CHARACTERS = 100
LONGEST = 365 * 86_400.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_WHOLE = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d|w))+|\d+(?:\.\d+)?")


def seconds(value: Duration, *, name: str = "duration") -> float:
    """Return a duration in seconds.

    Args:
        value: ``60``, ``timedelta(minutes=1)``, ``"60"``, ``"60s"``, ``"1h30m"``, ``"250ms"``;
            units are ms, s, m, h, d and w.
        name: what the duration is, for the error.

    Raises:
        ConfigError: not a duration, negative, not finite, or over 365 days.
    """
    result = _parse(value, name)
    if not math.isfinite(result) or not 0 <= result <= LONGEST:
        raise ConfigError(f"{name} must be from 0 to 365 days, got {shown(value)}")
    return result


def check_timeout(value: Duration) -> float:
    """Return a timeout in seconds, or raise ConfigError below 1 ms."""
    length = seconds(value, name="timeout")
    if length < 0.001:
        raise ConfigError(f"timeout must be at least 1 ms, got {shown(value)}")
    return length


def _parse(value: Duration, name: str) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError(
            f'{name} must be seconds, a timedelta or text like "90s", got {shown(value)}'
        )
    if not isinstance(value, str):
        return float(value) if abs(value) < 1e15 else math.inf
    text = value.strip().replace(" ", "")
    if not _WHOLE.fullmatch(text):
        raise ConfigError(f'{name} must look like "90s", "10m" or "1h30m", got {shown(value)}')
    if len(text) > MOST_CHARACTERS:
        return math.inf
    parts = _PART.findall(text)
    return sum(float(n) * _UNITS[unit] for n, unit in parts) if parts else float(text)


def duration_text(length: float) -> str:
    """Seconds as ``1h30m``: what ``seconds`` reads back, to the millisecond."""
    left, parts = round(length * 1000), []
    for unit in ("d", "h", "m", "s", "ms"):
        number, left = divmod(left, round(_UNITS[unit] * 1000))
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"
