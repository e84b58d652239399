"""Limits of tasks and queues over all workers: how many at once, how fast, in which order, whose turn. Pure."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from pgqueue.checks import shown, whole_number
from pgqueue.codec import Signature
from pgqueue.durations import seconds
from pgqueue.errors import ConfigError, TaskError
from pgqueue.models import canonical

Ordered = Literal["strict", "skip"]
MOST_CHARACTERS = 200  # of a key as it is; a longer one goes by its digest
_LIKE_JSON = re.compile(r'["\[{0-9-]|(null|true|false)?\Z')
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(.+)")
_UNITS = {"s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0,
          "h": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for the jobs of one key of a task, or for a queue; ``rate`` in jobs per second."""

    max_running: int | None = None
    rate: float | None = None
    burst: int | None = None
    ordered: Ordered | None = None
    weights: Mapping[str, int] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "max_running": self.max_running,
            "rate": self.rate,
            "burst": self.burst,
            "ordered": self.ordered,
            "weights": None if self.weights is None else dict(self.weights),
        }


@dataclass(frozen=True, slots=True)
class Gate:
    """The limits of a task, and the argument whose value is the key; None: all its jobs have one."""

    limits: Limits
    per: str | None

    def check(self, signature: Signature, task: str) -> None:
        """Can the key be made of this task's arguments? Raises TaskError."""
        if self.per is not None and self.per not in signature.names:
            raise TaskError(f"{task}: limited by {self.per!r}, which is no parameter of it")
        if self.per in signature.encrypted:
            raise TaskError(
                f"{task}: limited by {self.per!r}, which is encrypted: its value would show"
            )

    def key_of(self, signature: Signature, args: str) -> str:
        """The key of a call, from its arguments as JSON text; its task's name comes before it."""
        if self.per is None:
            return "*"
        return key_text(signature.canonical(args, [self.per])[self.per])

    def declared(self, signature: Signature) -> dict[str, Any]:
        """What is written of it, by column of ``tasks``; with it SQL gives jobs the same keys."""
        written = {n: value for n, value in self.limits.as_dict().items() if value is not None}
        written["keyed"] = True
        if self.per is not None:
            written["per"] = self.per
            default = signature.canonical("{}", [self.per])[self.per]
            written |= {} if default is None else {"per_default": default}
        return written


def key_text(value: Any) -> str:
    """A value of JSON as a key: another one for each value, and the same as ``pgqueue.key_text`` in SQL.

    Text is its own key, unless it reads like other JSON: 7 has the key ``7``, and "7" the key ``"7"``. Of more than 200
    characters a key has the first 200, ``~`` and the SHA-256 in hexadecimal digits.
    """
    text = value if isinstance(value, str) and not _LIKE_JSON.match(value) else _json_text(value)
    if len(text) <= MOST_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[:MOST_CHARACTERS]}~{digest}"


def _json_text(value: Any) -> str:
    """As PostgreSQL writes ``jsonb``: the shorter of two names comes first."""
    if isinstance(value, dict):
        order = sorted(value, key=lambda name: (len(name.encode()), name.encode()))
        return "{" + ", ".join(f"{_json_text(n)}: {_json_text(value[n])}" for n in order) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_json_text, value)) + "]"
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    return json.dumps(value, ensure_ascii=False)


def gate_from(
    *,
    limit: int | None = None,
    rate: str | float | None = None,
    burst: int | None = None,
    per: str | None = None,
    order_by: str | None = None,
    ordered: Ordered = "strict",
    fair_by: str | None = None,
    weights: Mapping[Any, int] | None = None,
) -> Gate | None:
    """The gate of a task; None if nothing limits it.

    Raises:
        ConfigError: an option is not usable, or they do not go together.
    """
    for option, value in (("per", per), ("order_by", order_by), ("fair_by", fair_by)):
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigError(f"{option} must be the name of an argument, got {shown(value)}")
    named = {name for name in (per, order_by, fair_by) if name is not None}
    if len(named) > 1:
        raise ConfigError(
            f"per, order_by and fair_by name different arguments ({', '.join(sorted(named))}): a job"
            " has one key"
        )
    if not isinstance(ordered, str) or ordered not in ("strict", "skip"):
        raise ConfigError(f'ordered must be "strict" or "skip", got {shown(ordered)}')
    if weights is not None and fair_by is None:
        raise ConfigError("weights go with fair_by=")
    limits = Limits(
        check_limit(limit),
        None if rate is None else rate_from(rate),
        check_burst(burst, rate),
        None if order_by is None else ordered,
        None if weights is None else _weights(weights),
    )
    if limits == Limits() and not named:
        return None
    if limits == Limits() and fair_by is None:
        raise ConfigError("per= says for what a limit counts: give limit=, rate= or both with it")
    return Gate(limits, next(iter(named), None))


def limits_of(limit: int | None, rate: str | float | None, burst: int | None) -> Limits:
    """Checked limits; raises ConfigError."""
    per_second = None if rate is None else rate_from(rate)
    return Limits(check_limit(limit), per_second, check_burst(burst, rate))


def check_limit(limit: int | None) -> int | None:
    """Return how many may run at once, or raise ConfigError unless it is 1 to 2,147,483,647."""
    return None if limit is None else whole_number(limit, "limit", least=1)


def check_burst(burst: int | None, rate: object) -> int | None:
    """Return how many may start at once after a quiet time, or raise ConfigError."""
    if burst is None:
        return None
    if rate is None:
        raise ConfigError("burst goes with rate=")
    return whole_number(burst, "burst", least=1)


def rate_from(rate: str | float) -> float:
    """Jobs per second, of a number or of text such as ``100/min``, ``5/s``, ``10/30s``.

    Raises:
        ConfigError: it is not a rate, or not more than nothing.
    """
    if isinstance(rate, int | float) and not isinstance(rate, bool):
        result = float(rate) if abs(rate) < 1e15 else math.inf
    else:
        match = _RATE.fullmatch(rate.strip()) if isinstance(rate, str) else None
        if match is None:
            raise ConfigError(f'a rate looks like "100/min", "5/s" or "10/30s", got {shown(rate)}')
        unit = match[2].strip()
        length = _UNITS[unit] if unit in _UNITS else seconds(unit, name="rate")
        result = float(match[1]) / length if length > 0 else 0.0
    if not 1e-9 <= result <= 1e6:
        raise ConfigError(
            f"a rate must be from 1 in 30 years to 1,000,000 a second, got {shown(rate)}"
        )
    return result


def _weights(weights: Mapping[Any, int]) -> Mapping[str, int]:
    if not isinstance(weights, Mapping):
        raise ConfigError(f"weights are a dict of whole numbers by value, got {shown(weights)}")
    found = {}
    for value, weight in weights.items():
        whole = isinstance(weight, int) and not isinstance(weight, bool)
        if not isinstance(value, str | int | float | None) or not whole or not 1 <= weight <= 1000:
            raise ConfigError(
                "weights are whole numbers from 1 to 1000 by the value of the argument, got"
                f" {shown(value)}: {shown(weight)}"
            )
        found[key_text(canonical(value))] = weight
    return found
