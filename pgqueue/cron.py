"""When a schedule ticks: cron fields in a time zone, or an interval. Pure; instants are UTC datetimes."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from importlib.resources import files
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pgqueue.checks import shown
from pgqueue.durations import Duration, seconds
from pgqueue.errors import ConfigError

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
FIELDS = ("second", "minute", "hour", "day-of-month", "month", "day-of-week")
LONGEST_TEXT = 200
SHORTEST_EVERY = 1.0
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A year of every length and weekday of its first day passes within 28, or 40 around 2100.
SAMPLE = datetime(2024, 1, 1)
_EVERY = re.compile(r"every\s+(.+)", re.I)


class Ticks(ABC):
    """The instants of a schedule, whoever computes them and whenever."""

    @abstractmethod
    def next_after(self, instant: datetime) -> datetime:
        """The first tick after an instant."""

    def after(self, instant: datetime) -> Iterator[datetime]:
        """Every tick after an instant, in order."""
        while True:
            instant = self.next_after(instant)
            yield instant

    def latest(self, after: datetime, until: datetime, count: int) -> list[datetime]:
        """The last ``count`` ticks after one instant and not after the other, in order.

        Looks at ever longer stretches before ``until``, so that a long absence costs no more than a
        short one.
        """
        stretch = timedelta(minutes=1)
        while True:
            start = max(after, until - stretch) if until - after > stretch else after
            found: list[datetime] = []
            for tick in self.after(start):
                if tick > until:
                    break
                found.append(tick)
            if len(found) >= count or start <= after:
                return found[-count:]
            stretch *= 2


@dataclass(frozen=True, slots=True)
class Every(Ticks):
    """Multiples of an interval since the Unix epoch: the same for every worker that computes them."""

    interval: timedelta

    def next_after(self, instant: datetime) -> datetime:
        """The first tick after an instant."""
        return EPOCH + ((instant - EPOCH) // self.interval + 1) * self.interval


@dataclass(frozen=True, slots=True)
class Fields(Ticks):
    """Cron fields in a time zone, by the rules of Debian's cron(8) for changes of the clock.

    With a ``*`` at the start of the minute or hour, whatever instant shows a matching local time is a
    tick: twice in an hour that comes twice, never in one that does not come. All others are times of
    the day: once, at the first, when it comes twice; at the first instant after the gap when it does
    not come.
    """

    text: str
    zone: tzinfo

    @property
    def follows_instants(self) -> bool:
        minute, hour = self.text.split()[-5:-3]
        return minute.startswith("*") or hour.startswith("*")

    def next_after(self, instant: datetime) -> datetime:
        """The first tick after an instant."""
        instant = instant.astimezone(UTC)
        return self._matching(instant) if self.follows_instants else self._time_of_day(instant)

    def _time_of_day(self, instant: datetime) -> datetime:
        naive = _local(instant, self.zone)
        while True:
            naive = _next(self.text, naive)
            tick = _first_instant(naive, self.zone)
            if tick > instant:
                return tick

    def _matching(self, instant: datetime) -> datetime:
        """Iterates in one offset from UTC at a time."""
        while True:
            naive = _next(self.text, _local(instant, self.zone))
            tick = (naive - _offset(instant, self.zone)).replace(tzinfo=UTC)
            change = _next_change(instant, tick, self.zone)
            if change is None:
                return tick
            if _matches(self.text, _local(change, self.zone)):
                return change
            instant = change


def parse(expression: str, tz: str = "UTC") -> Ticks:
    """Read a schedule.

    Args:
        expression: five cron fields (minute hour day-of-month month day-of-week), six with seconds
            first, ``@hourly`` ``@daily`` ``@midnight`` ``@weekly`` ``@monthly`` ``@yearly``
            ``@annually``, or ``every 30s``. Fields take ``*`` ``,`` ``-`` ``/``, names, ``L`` ``LW`` and
            ``5#2`` as https://github.com/cuu508/cronsim does.
        tz: a time zone of the IANA database, such as ``Europe/Oslo``.

    Raises:
        ConfigError: it cannot be read, names the field that is wrong, or never comes.
    """
    if not isinstance(tz, str):
        raise ConfigError(f'no time zone {shown(tz)}: tz must be text such as "Europe/Oslo"')
    zone = zone_of(tz)
    if not isinstance(expression, str) or not expression.strip():
        raise ConfigError(f'a schedule is text such as "0 9 * * 1-5", got {shown(expression)}')
    if len(expression) > LONGEST_TEXT:
        raise ConfigError(f"the cron text of a schedule has at most {LONGEST_TEXT} characters")
    text = " ".join(expression.split())
    if every := _EVERY.fullmatch(text):
        return Every(_interval(every[1]))
    fields = ALIASES.get(text.lower(), text)
    if fields.startswith("@"):
        raise ConfigError(f"cron {text!r}: there is no {text}; there are {', '.join(ALIASES)}")
    _check(fields)
    return Fields(_for_cronsim(fields), zone)


def every(interval: Duration) -> str:
    """The expression of an interval: digits only, which is what ``parse`` reads back exactly."""
    text = f"{_interval(interval).total_seconds():.6f}"
    return f"every {text.rstrip('0').rstrip('.')}s"


def _interval(value: Duration) -> timedelta:
    length = seconds(value, name="every")
    if length < SHORTEST_EVERY:
        raise ConfigError(f"every must be from 1s to 365d, got {shown(value)}")
    return timedelta(seconds=length)


def _check(text: str) -> None:
    parts = text.split()
    if len(parts) not in (5, 6):
        raise ConfigError(
            f"cron {text!r} has {len(parts)} fields: five are needed (minute hour day-of-month month"
            " day-of-week), or six with seconds first"
        )
    names = FIELDS[-len(parts) :]
    for i, (name, part) in enumerate(zip(names, parts, strict=True)):
        alone = ["*"] * len(parts)
        alone[i] = part
        try:
            CronSim(" ".join(alone), SAMPLE)
        except (CronSimError, ValueError, AssertionError, TypeError, IndexError):
            raise ConfigError(f"cron {text!r}: the {name} {part!r} is not usable") from None
    _next(text, SAMPLE)


def _for_cronsim(text: str) -> str:
    """The same fields, but ranges of a single value without their step.

    cronsim 2.8 reads ``5-5/1`` as ``5/1``, which goes on to the end of the field.
    """
    parts = text.split()
    offset = len(FIELDS) - len(parts)
    return " ".join(
        ",".join(_without_idle_step(term, i + offset) for term in part.split(","))
        for i, part in enumerate(parts)
    )


def _without_idle_step(term: str, field: int) -> str:
    values, slash, _ = term.partition("/")
    if not slash or "-" not in values:
        return term
    alone = ["*"] * len(FIELDS)
    alone[field] = values
    sim = CronSim(" ".join(alone), SAMPLE)
    fields = (sim.seconds, sim.minutes, sim.hours, sim.days, sim.months, sim.weekdays)
    return term if len(fields[field]) > 1 else values


def _next(text: str, naive: datetime) -> datetime:
    """The first matching local time after another."""
    try:
        return next(CronSim(text, naive))
    except (CronSimError, StopIteration):
        raise ConfigError(f"cron {text!r} never comes: no month has such a day") from None


@lru_cache
def zone_of(tz: str) -> tzinfo:
    """A time zone from the package ``tzdata``, so that it is the same on every machine.

    Raises:
        ConfigError: there is none of this name.
    """
    if tz == "UTC":
        return UTC
    if tz not in _zone_names():
        raise ConfigError(
            f'no time zone {shown(tz)}: it must be one such as "Europe/Oslo" or "UTC"'
        )
    with files("tzdata").joinpath("zoneinfo", *tz.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=tz)


@lru_cache
def _zone_names() -> frozenset[str]:
    return frozenset(files("tzdata").joinpath("zones").read_text("utf-8").split())


def _offset(instant: datetime, zone: tzinfo) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta(0)


def _local(instant: datetime, zone: tzinfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def _matches(text: str, naive: datetime) -> bool:
    return _next(text, naive - SECOND) == naive


def _first_instant(naive: datetime, zone: tzinfo) -> datetime:
    """The first instant with this local time; if there is none, the first after the gap."""
    # PEP 495: fold=0 takes the offset before the change, so a time in a gap ends up behind it.
    tick = naive.replace(tzinfo=zone).astimezone(UTC)
    if _local(tick, zone) == naive:
        return tick
    before = naive.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return _change_between(before, tick, zone)


def _next_change(start: datetime, end: datetime, zone: tzinfo) -> datetime | None:
    """The first instant after ``start``, up to ``end``, with another offset from UTC than before."""
    offset = _offset(start, zone)
    while start < end:
        step = min(start + DAY, end)
        if _offset(step, zone) != offset:
            return _change_between(start, step, zone)
        start = step
    return None


def _change_between(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """The first instant of the new offset, by bisection to the second."""
    offset = _offset(before, zone)
    while after - before > SECOND:
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if middle <= before:
            break
        if _offset(middle, zone) == offset:
            before = middle
        else:
            after = middle
    return after


def upcoming(ticks: Ticks, instant: datetime, count: int) -> list[datetime]:
    """The next ticks after an instant."""
    return list(islice(ticks.after(instant), count))
