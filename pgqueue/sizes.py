"""Sizes of memory: bytes as a number, or text like ``"500MB"`` and ``"1GiB"``."""

from __future__ import annotations

import re

from pgqueue.checks import shown as as_given
from pgqueue.errors import ConfigError

_UNITS = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)", re.I)
LARGEST = 2**50


def size(value: int | str, *, name: str = "size") -> int:
    """Return a size in bytes.

    Args:
        value: ``500_000_000``, ``"500MB"`` (10**6 bytes each), ``"1GiB"`` or ``"1G"`` (2**30).
        name: what the size is, for the error.

    Raises:
        ConfigError: not a size, not above 0, or over 1 PiB.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        result: float = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        unit = _UNITS.get(match[2].lower())
        if unit is None:
            raise ConfigError(f'{name} must look like "500MB" or "1GiB", got {as_given(value)}')
        result = float(match[1]) * unit
    else:
        raise ConfigError(
            f'{name} must be bytes or text like "500MB" or "1GiB", got {as_given(value)}'
        )
    if not 1 <= result <= LARGEST:
        raise ConfigError(f"{name} must be from 1 byte to 1 PiB, got {as_given(value)}")
    return int(result)


def shown(count: int) -> str:
    """Bytes for people, in units of 2**20."""
    return f"{count / 2**20:.0f} MiB"
