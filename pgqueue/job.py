"""The job as a row: its statuses, the moves between them, and what is inserted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple
from uuid import UUID

from pgqueue.checks import shown, whole_number
from pgqueue.errors import ConfigError
from pgqueue.reference import filled, may_refer, names_in

QUEUE_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
MOST_RETRIES = 1000
# Later ones, and what is reckoned from them, are dates that not every client can read.
EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
PRIORITY = 0
MAX_RETRIES = 10


class Status(StrEnum):
    """Where a job stands. ``pending`` includes waiting for a future ``run_at``; ``blocked`` waits for jobs."""

    BLOCKED = "blocked"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


TRANSITIONS: Mapping[Status, Mapping[Status, str]] = {
    Status.BLOCKED: {
        Status.PENDING: "the jobs it waited for ended",
        Status.CANCELLED: "one of them failed, or cancelled before",
    },
    Status.PENDING: {
        Status.RUNNING: "claimed by a worker",
        Status.CANCELLED: "cancelled before it ran",
    },
    Status.RUNNING: {
        Status.SUCCEEDED: "the handler returned",
        Status.PENDING: "retry, snooze, release at shutdown, or rescue",
        Status.DEAD: "out of retries or crashes, or raise Dead",
        Status.CANCELLED: "raise Cancel, or cancelled while it ran",
    },
    Status.SUCCEEDED: {},
    Status.DEAD: {
        Status.PENDING: "retried by hand",
        Status.BLOCKED: "retried with its workflow",
    },
    Status.CANCELLED: {
        Status.PENDING: "retried by hand",
        Status.BLOCKED: "retried with its workflow",
    },
}


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job not yet inserted. ``args`` is JSON text; ``delay`` and ``expires`` are in seconds.

    A ``priority``, ``max_retries``, ``backoff`` or ``expires`` of None is its queue's, or else the usual. ``by_name``:
    its task's code is not here, so the database fills in what workers have declared of it, also an empty ``queue``.
    """

    task: str
    args: str = field(repr=False)
    queue: str = "default"
    priority: int | None = None
    max_retries: int | None = None
    backoff: Mapping[str, float] | None = None
    run_at: datetime | None = None
    delay: float | None = None
    expires: float | None = None
    key: UniqueKey | None = None
    limit_key: str | None = None
    by_name: bool = False

    @property
    def priority_or_usual(self) -> int:
        return PRIORITY if self.priority is None else self.priority

    @property
    def retries_or_usual(self) -> int:
        return MAX_RETRIES if self.max_retries is None else self.max_retries

    @property
    def bare(self) -> bool:
        """Is all but its task and arguments as usual?"""
        return (
            self.queue == "default"
            and not self.priority
            and self.max_retries in (None, MAX_RETRIES)
            and self.backoff is None
            and self.run_at is None
            and not self.delay
            and self.plain
        )

    @property
    def plain(self) -> bool:
        """Can it be inserted without a look at what is there?"""
        return (
            self.key is None
            and self.expires is None
            and self.limit_key is None
            and not self.by_name
        )


class UniqueKey(NamedTuple):
    """The key of a unique job, and how it holds it: see ``unique.Unique``. ``within`` in seconds."""

    key: str
    until: str = "finished"
    within: float | None = None
    on_conflict: str = "ignore"


Placed = Literal["inserted", "existing", "replaced", "rescheduled"]


class Added(NamedTuple):
    """What became of a job that was enqueued; no id if another transaction's job has its key."""

    id: int
    placed: Placed = "inserted"


class ClaimedJob(NamedTuple):
    """A row as the claim returns it. ``args`` is JSON text, decoded per job, and not part of its ``repr``.

    ``created``: when it was enqueued, in seconds since the epoch.
    """

    id: int
    task: str
    args: str
    queue: str
    priority: int
    attempt: int
    max_retries: int
    crashes: int
    run_at: datetime
    workflow_id: int | None
    tick: datetime | None
    created: float
    claim_id: UUID

    @property
    def wants(self) -> list[str]:
        """The jobs of its workflow whose results are among its arguments, by name."""
        return [] if self.workflow_id is None else names_in(self.args)

    def filled(self, results: dict[str, Any]) -> ClaimedJob:
        """The same with results in place of their names."""
        return self._replace(args=filled(self.args, results))

    def __repr__(self) -> str:
        return f"ClaimedJob(id={self.id}, task={self.task!r}, attempt={self.attempt})"


# In place of arguments that are not fetched.
TOO_LARGE = "[too large to show here]"


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job, for people to look at. The arguments are not part of its ``repr``.

    ``args``: a mapping; text where they are none that can be read. In a list, arguments of more than 16,000
    characters of JSON are left out, and so are those of older jobs where the newer ones have 2,000,000 together:
    ``TOO_LARGE`` stands in their place, as for one job over 2,000,000 characters. ``last_error``: its first
    1,000 characters in a list. ``waiting_because``: what the workers lack that could have run it; None if
    nothing is known of that.
    """

    id: int
    task: str
    queue: str
    status: Status
    priority: int
    attempt: int
    max_retries: int
    crashes: int
    run_at: datetime
    created_at: datetime
    claimed_at: datetime | None
    finished_at: datetime | None
    lease_expires_at: datetime | None
    run_seconds: float | None
    expires_at: datetime | None
    unique_key: str | None
    progress: Any
    workflow_id: int | None
    worker_id: UUID | None
    cancel_requested: bool
    last_error: str | None
    waiting_because: str | None
    args: Any

    def __repr__(self) -> str:
        return f"JobRow(id={self.id}, task={self.task!r}, status={self.status.value!r})"


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that did not succeed, or one that did and logged with ``ctx.log``."""

    job_id: int
    attempt: int
    outcome: str
    error_type: str | None
    error: str | None
    traceback: str | None
    started_at: datetime | None
    ended_at: datetime
    run_seconds: float | None
    log: str | None
    worker_id: UUID | None


def check_queue(name: str) -> str:
    """Return the queue name, or raise ConfigError if it has other than ``A-Z a-z 0-9 _ . : -``."""
    if not isinstance(name, str) or not QUEUE_NAME.fullmatch(name):
        raise ConfigError(
            f"queue name {shown(name)} is not usable: 1 to 64 characters of A-Z a-z 0-9 _ . : -"
        )
    return name


def check_name(name: str) -> str:
    """Return a task name, or raise ConfigError if it is empty or over 200 characters."""
    if not isinstance(name, str) or not 1 <= len(name) <= 200 or not name.isprintable():
        raise ConfigError(f"task name {shown(name)} must be 1 to 200 printable characters")
    return name


def check_priority(value: int) -> int:
    """Return the priority, or raise ConfigError outside -32768..32767. Higher runs first."""
    return whole_number(value, "priority", least=-32768, most=32767)


def check_run_at(value: datetime, name: str = "run_at") -> datetime:
    """Return the time, or raise ConfigError unless it has a time zone and is from 1900 to 9000."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ConfigError(
            f"{name} must be a datetime with a time zone, got {shown(value)}; for example"
            " datetime.now(timezone.utc) + timedelta(hours=1)"
        )
    if not EARLIEST <= value <= LATEST:
        raise ConfigError(
            f"{name} must be from {EARLIEST:%Y-%m-%d} to {LATEST:%Y-%m-%d}, got {value.isoformat()}"
        )
    return value


def check_max_retries(value: int) -> int:
    """Return max_retries, or raise ConfigError outside 0..1000."""
    return whole_number(value, "max_retries", most=MOST_RETRIES)


def check_jobs(jobs: Sequence[object]) -> None:
    """Raise ConfigError unless all are NewJob, without results of others; does not show what it got."""
    for job in jobs:
        if not isinstance(job, NewJob):
            raise ConfigError(
                "enqueue_many takes what task.call(...) or app.dispatch(job).call() returns, got"
                f" {type(job).__name__}"
            )
        if may_refer(job.args) and names_in(job.args):
            raise ConfigError(
                f"{job.task} takes the result of another job: add it to the workflow of that one"
            )
