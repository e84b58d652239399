"""Operations that keep the queue in order, and its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Unpack
from uuid import UUID

from pgqueue.job import Status, check_name, check_queue
from pgqueue.operations import Chosen, Operation, chosen, ids
from pgqueue.operations.quarantine import TOGETHER
from pgqueue.stamp import Stamp, parse

ALL = "*"
WorkerState = Literal["running", "stopping"]
ListedState = Literal["running", "stopping", "lost"]
MOST_ID = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Jobs of one queue by status, each count capped at 10,000; lag in seconds."""

    queue: str
    due: int
    scheduled: int
    running: int
    succeeded: int
    dead: int
    cancelled: int
    oldest_due_at: datetime | None
    lag_seconds: float | None
    paused_at: datetime | None


@dataclass(frozen=True, slots=True)
class Rescued:
    """A job taken back from a worker whose lease ran out."""

    id: int
    task: str
    queue: str
    status: Status
    attempt: int
    max_retries: int
    quarantine: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker process. One that is "stopping" claims no more jobs; one that is "lost" was not heard of for a whole lease.

    ``quarantine``: it runs suspects, jobs that may have killed their workers, and nothing else.
    """

    id: UUID
    host: str
    pid: int
    version: str
    queues: list[str] | None
    state: ListedState
    tasks: list[str] | None
    started_at: datetime
    seen_at: datetime
    quarantine: bool


def rescue(
    *,
    max_crashes: int,
    limit: int = 500,
    after: int = -1,
    until: int = MOST_ID,
    **which: Unpack[Chosen],
) -> Operation[list[Rescued]]:
    """Take back running jobs whose lease ran out, of ids from behind one on up to another."""
    values = {
        "max_crashes": max_crashes,
        "together": TOGETHER,
        **_stretch(limit, after, until),
        **chosen(which),
    }
    return Operation(
        "rescue",
        values,
        lambda rows: [Rescued(r[0], r[1], r[2], Status(r[3]), r[4], r[5], r[6]) for r in rows],
    )


def lapsed(
    *, limit: int = 500, after: int = -1, until: int = MOST_ID, **which: Unpack[Chosen]
) -> Operation[list[int]]:
    """The jobs that ``rescue`` takes back."""
    return Operation("lapsed_jobs", _stretch(limit, after, until) | chosen(which), ids)


def _stretch(limit: int, after: int, until: int) -> dict[str, object]:
    return {"limit": limit, "after": after, "until": until}


def last_id() -> Operation[int]:
    """The last id that a job was given."""
    return Operation("last_id", {}, lambda rows: int(rows[0][0]))


def expire(*, limit: int = 1000, **which: Unpack[Chosen]) -> Operation[list[int]]:
    """Cancel pending jobs that were not started in time; returns their ids."""
    return Operation("expire", {"limit": limit, **chosen(which)}, ids)


def late(*, limit: int = 1000, **which: Unpack[Chosen]) -> Operation[list[int]]:
    """The jobs that ``expire`` cancels."""
    return Operation("late_jobs", {"limit": limit, **chosen(which)}, ids)


def prune(
    status: Status, *, age: float | None, limit: int = 1000, **which: Unpack[Chosen]
) -> Operation[list[int]]:
    """Delete one batch of jobs that finished more than ``age`` seconds ago, or than their queue keeps them.

    Args:
        age: None leaves those of queues without a retention of their own.
    """
    return Operation("prune", _older(status, age, limit) | chosen(which), ids)


def old(
    status: Status, *, age: float | None, limit: int = 1000, **which: Unpack[Chosen]
) -> Operation[list[int]]:
    """The jobs that ``prune`` deletes."""
    return Operation("old_jobs", _older(status, age, limit) | chosen(which), ids)


def _older(status: Status, age: float | None, limit: int) -> dict[str, object]:
    return {"status": status.value, "age": age, "limit": limit}


def stats() -> Operation[list[QueueStats]]:
    return Operation("queue_stats", {}, lambda rows: [QueueStats(*r) for r in rows])


def pause(queue: str) -> Operation[None]:
    """Stop claims from a queue; ``*`` stands for all."""
    return Operation("pause_queue", {"queue": _queue_or_all(queue)}, lambda rows: None)


def resume(queue: str) -> Operation[bool]:
    """Resume a queue; False if it was not paused."""
    return Operation("resume_queue", {"queue": _queue_or_all(queue)}, lambda rows: bool(rows))


def _queue_or_all(queue: str) -> str:
    return queue if queue == ALL else check_queue(queue)


def worker_seen(
    worker_id: UUID,
    *,
    host: str,
    pid: int,
    version: str,
    queues: Sequence[str] | None,
    state: WorkerState,
    tasks: Sequence[str],
    declares: Sequence[str],
    declarations: Sequence[str] = (),
    limits: str | None = None,
    lease: float,
    forget: float,
    quarantine: bool = False,
) -> Operation[None]:
    """Say that a worker is alive, for ``lease`` seconds; forget others unseen for ``forget`` seconds."""
    values = {
        "id": str(worker_id),
        "host": host,
        "pid": pid,
        "version": version,
        "queues": None if queues is None else list(queues),
        "state": state,
        "tasks": list(tasks),
        "declares": list(declares),
        "declarations": list(declarations),
        "limits": limits,
        "lease": lease,
        "forget": forget,
        "quarantine": quarantine,
    }
    return Operation("worker_seen", values, lambda rows: None)


def pause_task(task: str) -> Operation[None]:
    """Stop claims of jobs of a task; running ones go on."""
    return Operation("pause_task", {"task": check_name(task)}, lambda rows: None)


def resume_task(task: str) -> Operation[bool]:
    """Let jobs of a task be claimed again; False if it was not paused."""
    return Operation("resume_task", {"task": check_name(task)}, lambda rows: bool(rows))


@dataclass(frozen=True, slots=True)
class Paused:
    """A queue or a task that is paused; the queue ``*`` stands for all."""

    kind: str
    name: str
    paused_at: datetime


def paused() -> Operation[list[Paused]]:
    return Operation("list_paused", {}, lambda rows: [Paused(*row) for row in rows])


def worker_lacks() -> Operation[list[str]]:
    """The privileges a worker needs that this connection's role has not."""
    return Operation("worker_lacks", {}, lambda rows: [row[0] for row in rows])


def schema_id() -> Operation[UUID]:
    """What tells the jobs of the schema from those of any other."""
    return Operation("schema_id", {}, lambda rows: UUID(rows[0][0]))


def worker_gone(worker_id: UUID) -> Operation[None]:
    return Operation("worker_gone", {"id": str(worker_id)}, lambda rows: None)


def workers() -> Operation[list[WorkerRow]]:
    return Operation("list_workers", {}, lambda rows: [WorkerRow(UUID(r[0]), *r[1:]) for r in rows])


def channels(queues: Sequence[str]) -> Operation[list[str]]:
    """The NOTIFY channels of queues."""
    return Operation("channels", {"queues": list(queues)}, lambda rows: [r[0] for r in rows])


def notify_self(channel: str) -> Operation[bool]:
    """Notify a channel, with an empty payload; False if the server has no room for notifications."""
    return Operation("notify_self", {"channel": channel}, bool)


def read_only() -> Operation[bool]:
    """Whether the server refuses writes: a standby, or set to."""
    return Operation("read_only", {}, lambda rows: bool(rows[0][0]))


def schema_stamp(schema: str) -> Operation[Stamp | None]:
    """The stamp on the schema; None if there is none."""
    return Operation(
        "schema_version", {"schema": schema}, lambda rows: parse(rows[0][0]) if rows else None
    )
