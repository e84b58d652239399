"""Backoff: how long a failed job waits before its next run, evaluated by PostgreSQL; and for which errors it runs again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pgqueue.checks import real_number, shown
from pgqueue.durations import Duration, seconds
from pgqueue.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Backoff:
    """``min(cap, base * factor ** (attempt - 1))``, less a random share of up to ``jitter``.

    Times in seconds. Raises ConfigError when one is out of range. SQL ``pgqueue.backoff(attempt, policy)`` computes it, so plain SQL, a rescue
    and every worker agree. Jitter as in "Exponential Backoff and Jitter", AWS Architecture Blog.
    """

    base: float = 10.0
    factor: float = 2.0
    cap: float = 3600.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        for name, value in (
            ("base", seconds(self.base, name="backoff base")),
            ("factor", real_number(self.factor, "backoff factor", 1, 100)),
            ("cap", seconds(self.cap, name="backoff cap")),
            ("jitter", real_number(self.jitter, "backoff jitter", 0, 1)),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def exponential(
        cls, base: Duration, *, factor: float = 2.0, cap: Duration = "1h", jitter: float = 0.5
    ) -> Backoff:
        """Double (or multiply by ``factor``) the wait after each failure, up to ``cap``."""
        return cls(
            seconds(base, name="backoff base"), factor, seconds(cap, name="backoff cap"), jitter
        )

    @classmethod
    def constant(cls, delay: Duration, *, jitter: float = 0.0) -> Backoff:
        """Wait the same time after each failure."""
        wait = seconds(delay, name="backoff")
        return cls(wait, 1.0, wait, jitter)

    def as_json(self) -> dict[str, float]:
        return {
            "base": self.base,
            "factor": self.factor,
            "cap": self.cap,
            "jitter": self.jitter,
        }


BackoffLike: TypeAlias = Backoff | Duration


def backoff_from(value: BackoffLike) -> Backoff:
    """Return a policy; a bare duration is the base of an exponential one.

    Raises:
        ConfigError: not a duration or a ``Backoff``, negative, or over 365 days.
    """
    if isinstance(value, Backoff):
        return value
    base = seconds(value, name="backoff")
    return Backoff(base, cap=max(3600.0, base))


RetryOn: TypeAlias = type[BaseException] | Sequence[type[BaseException]] | None


def errors_of(retry_on: RetryOn) -> tuple[type[BaseException], ...] | None:
    """The exceptions that are retried: of one class, or several.

    Raises:
        ConfigError: one of them is no class of exceptions.
    """
    if retry_on is None:
        return None
    given: Any = retry_on
    listed = isinstance(given, Iterable) and not isinstance(given, str)
    errors = tuple(given) if listed else (given,)
    for each in errors:
        if not isinstance(each, type) or not issubclass(each, BaseException):
            raise ConfigError(
                f"retry_on takes classes of exceptions, such as (ConnectionError, TimeoutError), got {shown(each)}"
            )
    return errors
