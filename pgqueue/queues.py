"""Queues as data: how many jobs may wait in one, how long ended ones are kept, what its jobs get. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

from pgqueue.checks import shown, whole_number
from pgqueue.durations import Duration, check_timeout, seconds
from pgqueue.errors import ConfigError
from pgqueue.job import check_max_retries, check_priority
from pgqueue.limits import check_burst, check_limit, rate_from
from pgqueue.retry import BackoffLike, backoff_from

WhenFull = Literal["raise", "wait"]
# 1,000 years, as PostgreSQL compares intervals: 12,000 months of 30 days.
FOREVER = 360_000 * 86_400.0
MOST_PENDING = 100_000_000


class QueueGiven(TypedDict, total=False):
    """The settings of a queue, as they are declared or changed; None takes one off."""

    limit: int | None
    rate: str | float | None
    burst: int | None
    max_pending: int | None
    keep_succeeded: Duration | None
    keep_dead: Duration | None
    keep_cancelled: Duration | None
    priority: int | None
    max_retries: int | None
    backoff: BackoffLike | None
    expires: Duration | None
    timeout: Duration | None


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What holds for a queue; None: nothing of its own. ``rate`` in jobs per second, times in seconds."""

    max_running: int | None = None
    rate: float | None = None
    burst: int | None = None
    max_pending: int | None = None
    keep_succeeded: float | None = None
    keep_dead: float | None = None
    keep_cancelled: float | None = None
    priority: int | None = None
    max_retries: int | None = None
    backoff: Mapping[str, float] | None = None
    expires: float | None = None
    timeout: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Those that are set, by column."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class DeclaredQueue(NamedTuple):
    """A queue as the code declares it, and what enqueuing does while it is full."""

    settings: QueueSettings
    when_full: WhenFull = "raise"
    max_wait: float = 30.0


def declared_queue(
    *, when_full: WhenFull = "raise", max_wait: Duration = 30.0, **given: Unpack[QueueGiven]
) -> DeclaredQueue:
    """Checked settings of a queue.

    Raises:
        ConfigError: one of them is not usable, or they do not go together.
    """
    if when_full not in ("raise", "wait"):
        raise ConfigError(f'when_full must be "raise" or "wait", got {shown(when_full)}')
    check_burst(given.get("burst"), given.get("rate"))
    settings = QueueSettings(**changes(**given))
    return DeclaredQueue(settings, when_full, seconds(max_wait, name="max_wait"))


def changes(**given: Unpack[QueueGiven]) -> dict[str, Any]:
    """What is given, checked, by column; None takes a setting off.

    Raises:
        ConfigError: one of them is not usable.
        TypeError: there is no such setting.
    """
    unknown = given.keys() - _CHECKS.keys()
    if unknown:
        raise TypeError(f"a queue has no setting {min(unknown)!r}; there are {', '.join(_CHECKS)}")
    return {
        "max_running" if name == "limit" else name: None if value is None else _CHECKS[name](value)
        for name, value in given.items()
    }


def by_hand(settings: Mapping[str, Any], declared: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that are not what the code declares: somebody has changed them."""
    return tuple(name for name, value in settings.items() if value != declared.get(name))


def _pending(value: Any) -> int:
    return whole_number(value, "max_pending", least=1, most=MOST_PENDING)


def _keep(name: str) -> Callable[[Any], float]:
    return lambda value: FOREVER if value == "forever" else seconds(value, name=name)


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "limit": check_limit,
    "rate": rate_from,
    "burst": lambda value: check_burst(value, "with a rate"),
    "max_pending": _pending,
    "keep_succeeded": _keep("keep_succeeded"),
    "keep_dead": _keep("keep_dead"),
    "keep_cancelled": _keep("keep_cancelled"),
    "priority": check_priority,
    "max_retries": check_max_retries,
    "backoff": lambda value: backoff_from(value).as_json(),
    "expires": lambda value: seconds(value, name="expires"),
    "timeout": check_timeout,
}
