"""The schedule as a row, what is written of it, and which of its ticks are due. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from pgqueue import cron
from pgqueue.checks import shown
from pgqueue.durations import Duration
from pgqueue.errors import ConfigError
from pgqueue.job import NewJob, Status

CatchUp: TypeAlias = Literal["none", "latest", "all"]
Overlap: TypeAlias = Literal["allow", "skip"]

MOST_CAUGHT_UP = 100
UNSEEN = timedelta(seconds=60)
AHEAD = timedelta(days=1)
START_OVER = "to start over, remove the schedule and add it again"


class When(TypedDict, total=False):
    """The arguments of a schedule besides its job.

    ``cron`` or ``every``; ``tz`` (default UTC); ``catch_up`` (default latest); ``overlap`` (default allow).
    """

    cron: str | None
    every: Duration | None
    tz: str
    catch_up: CatchUp
    overlap: Overlap


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule not yet written."""

    name: str
    expression: str
    job: NewJob
    tz: str = "UTC"
    catch_up: CatchUp = "latest"
    overlap: Overlap = "allow"
    identity: str | None = None  # the arguments, where those of the job hold what differs each time

    def as_row(self) -> dict[str, Any]:
        """The columns, by name; ``args`` is JSON text."""
        return {
            "name": self.name,
            "expression": self.expression,
            "tz": self.tz,
            "task": self.job.task,
            "args": self.job.args,
            "queue": self.job.queue,
            "priority": self.job.priority,
            "max_retries": self.job.max_retries,
            "backoff": self.job.backoff,
            "expires": self.job.expires,
            "catch_up": self.catch_up,
            "overlap": self.overlap,
        }

    @property
    def digest(self) -> str:
        """SHA-256 of all columns: tells one declaration from another."""
        row = self.as_row() | {"args": self.identity or self.job.args}
        text = json.dumps(row, sort_keys=True, default=dict)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule with its last run, for people to look at.

    ``source`` is "code" or "hand". ``pause_reason`` is "hand", or "undeclared" for one that no live worker declares;
    None while it is not paused. ``undeclared_at``: since when no live worker declares it; None for one of source "hand".
    """

    name: str
    expression: str
    tz: str
    task: str
    queue: str
    priority: int
    max_retries: int
    catch_up: str
    overlap: str
    source: str
    paused_at: datetime | None
    pause_reason: str | None
    undeclared_at: datetime | None
    last_tick: datetime
    next_tick: datetime | None
    error: str | None
    skipped: int
    last_job_id: int | None
    last_status: Status | None
    last_run_at: datetime | None
    created_at: datetime
    updated_at: datetime
    read_at: datetime

    def next_runs(self, count: int = 3, *, after: datetime | None = None) -> list[datetime]:
        """The next ticks in the schedule's time zone, from when it was read, by the database's clock.

        Empty while it is paused.

        Raises:
            ConfigError: the expression or the time zone cannot be read.
        """
        ticks, zone = cron.parse(self.expression, self.tz), cron.zone_of(self.tz)
        if self.paused_at is not None:
            return []
        start = after or self.read_at
        return [tick.astimezone(zone) for tick in cron.upcoming(ticks, start, count)]


@dataclass(frozen=True, slots=True)
class ScheduleRun:
    """A run of a schedule; ``tick`` is None for a run by hand."""

    tick: datetime | None
    job_id: int
    status: Status
    attempt: int
    created_at: datetime
    finished_at: datetime | None
    run_seconds: float | None


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """What a worker sees of a schedule that is due.

    ``last_tick``: None if the row holds no time that can be read; ``last_job_id``: its latest run.
    """

    name: str
    expression: str
    tz: str
    catch_up: CatchUp
    overlap: Overlap
    last_tick: datetime | None
    last_job_id: int | None


@dataclass(frozen=True, slots=True)
class Firing:
    """What a worker makes of it: the ticks that get a job, and how far that goes.

    ``seen`` and ``last_job_id``: what it saw; if the row says otherwise by then, nothing happens.
    """

    name: str
    seen: datetime | None
    last_job_id: int | None
    ticks: list[datetime]
    last_tick: datetime | None
    next_tick: datetime
    error: str | None = None


def fire(schedule: DueSchedule, now: datetime) -> Firing:
    """Decide which ticks up to now get a job, and when the schedule is due again.

    Raises:
        ConfigError: the expression, the time zone or the last tick cannot be read.
    """
    ticks, last_tick = cron.parse(schedule.expression, schedule.tz), schedule.last_tick
    if last_tick is None:
        raise ConfigError(f"its last_tick in pgqueue.schedules is no usable time: {START_OVER}")
    several = schedule.catch_up == "all" and schedule.overlap == "allow"
    passed = ticks.latest(last_tick, now, MOST_CAUGHT_UP if several else 1)
    upto = passed[-1] if passed else last_tick
    if schedule.catch_up == "none":
        passed = [tick for tick in passed if now - tick <= UNSEEN]
    next_tick = ticks.next_after(max(now, upto))
    return Firing(schedule.name, last_tick, schedule.last_job_id, passed, upto, next_tick)


def ahead(schedule: DueSchedule, now: datetime) -> str | None:
    """Why a schedule waits for the clock, if it does: ticks never go back."""
    if schedule.last_tick is None or schedule.last_tick <= now + AHEAD:
        return None
    return (
        f"its last tick, {schedule.last_tick:%Y-%m-%d %H:%M %Z}, is ahead of the database's clock, and ticks"
        f" only go forward: it waits until then, or {START_OVER}"
    )


def checked_job(job: NewJob) -> NewJob:
    """What a schedule is to enqueue.

    Raises:
        ConfigError: it is something else, the task itself perhaps.
    """
    if not isinstance(job, NewJob):
        raise ConfigError(
            "the job of a schedule is what task.call(...) or app.dispatch(job).call() returns, got"
            f" {type(job).__name__}"
        )
    if job.by_name:
        raise ConfigError(
            f"a schedule of {job.task} by its name: declare it where the task is imported, or add it with"
            " `pgqueue cron add` or pgqueue.schedule() in SQL"
        )
    return job


def check_schedule(name: str) -> str:
    """Return the name of a schedule, or raise ConfigError if it is empty or over 200 characters."""
    if not isinstance(name, str) or not 1 <= len(name) <= 200 or not name.isprintable():
        raise ConfigError(f"schedule name {shown(name)} must be 1 to 200 printable characters")
    return name


def new_schedule(name: str, job: NewJob, when: Mapping[str, Any]) -> NewSchedule:
    """A checked schedule.

    Raises:
        ConfigError: the name, the job or anything about its times cannot be used.
    """
    check_schedule(name)
    if checked_job(job).delay is not None or job.run_at is not None:
        raise ConfigError(f"schedule {name}: a delay or run_at does not go with a schedule")
    unknown = set(when) - set(When.__annotations__)
    if unknown:
        raise TypeError(f"a schedule takes {', '.join(When.__annotations__)}; not {unknown.pop()}")
    expression = _expression(name, when.get("cron"), when.get("every"))
    tz = when.get("tz", "UTC")
    cron.parse(expression, tz)
    return NewSchedule(
        name,
        " ".join(expression.split()),
        job,
        tz,
        _one_of("catch_up", when.get("catch_up", "latest"), get_args(CatchUp)),
        _one_of("overlap", when.get("overlap", "allow"), get_args(Overlap)),
    )


def _expression(name: str, expression: str | None, every: Duration | None) -> str:
    if (expression is None) == (every is None):
        raise ConfigError(
            f'schedule {name}: give either cron, such as cron="0 9 * * 1-5", or every, such as every="30s"'
        )
    if every is not None:
        return cron.every(every)
    if not isinstance(expression, str) or not expression.strip():
        raise ConfigError(f'cron must be text such as "0 9 * * 1-5", got {shown(expression)}')
    return expression


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> Any:
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {shown(value)}")
    return value
