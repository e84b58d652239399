"""Operations on schedules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pgqueue.checks import whole_number
from pgqueue.job import Status
from pgqueue.operations import Operation, Row
from pgqueue.schedule import (
    DueSchedule,
    Firing,
    NewSchedule,
    Schedule,
    ScheduleRun,
    check_schedule,
)


@dataclass(frozen=True, slots=True)
class Look:
    """What is due; ``now`` by the database's clock, None without schedules; ``wait`` in seconds."""

    due: list[DueSchedule]
    now: datetime | None
    wait: float | None


@dataclass(frozen=True, slots=True)
class Declared:
    """What became of a declared schedule.

    ``kept``: "hand" or "newer" when the row says otherwise and was left as it is.
    """

    name: str
    written: bool
    kept: str | None


Became = Literal["undeclared", "paused", "declared", "resumed"]


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What became of a schedule of the code: no live worker declares it (any more), or one does again."""

    name: str
    became: Became
    undeclared_at: datetime | None


def look(*, limit: int) -> Operation[Look]:
    """The schedules that are due, at most ``limit``, and the time until the next is."""
    return Operation("look_at_schedules", {"limit": limit}, _look)


def _look(rows: Sequence[Row]) -> Look:
    due = [DueSchedule(*row[:7]) for row in rows if row[8] <= 0]
    ahead = [row[8] for row in rows if row[8] > 0]
    return Look(due, rows[0][7] if rows else None, min(ahead, default=None))


def fire(firings: Sequence[Firing]) -> Operation[dict[str, int]]:
    """Insert the jobs of ticks; returns their number by schedule, for those nobody else has moved."""
    values = {
        "names": [f.name for f in firings],
        "seen": [f.seen for f in firings],
        "last_job_ids": [f.last_job_id for f in firings],
        "last_ticks": [f.last_tick for f in firings],
        "next_ticks": [f.next_tick for f in firings],
        "errors": [f.error for f in firings],
        "tick_names": [f.name for f in firings for _ in f.ticks],
        "ticks": [tick for f in firings for tick in f.ticks],
    }
    return Operation("fire_schedules", values, lambda rows: {r[0]: r[1] for r in rows})


def changed(schedules: Sequence[NewSchedule]) -> Operation[list[str]]:
    """The names of those that are not as they are declared here, or of which something is to be noted."""
    values = {
        "names": [schedule.name for schedule in schedules],
        "declarations": [schedule.digest for schedule in schedules],
    }
    return Operation("changed_schedules", values, lambda rows: [row[0] for row in rows])


def declare(
    schedules: Sequence[NewSchedule], *, force: bool = False, patience: float = 0.0
) -> Operation[list[Declared]]:
    """Write declared schedules.

    Args:
        force: also over changes by hand and newer declarations.
        patience: for how many seconds no live worker must have declared a newer one before an older is written again.
    """
    text = json.dumps([_declaration(schedule) for schedule in schedules], ensure_ascii=False)
    return Operation(
        "declare_schedules", {"schedules": text, "force": force, "patience": patience}, _declared
    )


def _declaration(schedule: NewSchedule) -> dict[str, Any]:
    row = schedule.as_row()
    return {**row, "args": json.loads(schedule.job.args), "declaration": schedule.digest}


def _declared(rows: Sequence[Row]) -> list[Declared]:
    found = []
    for name, written, by_hand, differs in rows:
        kept = None if written else "hand" if by_hand else "newer" if differs else None
        found.append(Declared(name, written, kept))
    return found


def review(own: Sequence[str], *, patience: float) -> Operation[list[Reviewed]]:
    """Compare the schedules that code declared with what live workers declare; returns those that changed.

    Args:
        own: the names that the caller declares.
        patience: for how many seconds one must have been undeclared before it is paused.
    """
    values = {"own": list(own), "patience": patience}
    return Operation("review_schedules", values, lambda rows: [Reviewed(*row) for row in rows])


def keep(names: Sequence[str]) -> Operation[None]:
    """Let schedules of the code tick without a worker that declares them, until one has."""
    return Operation("keep_schedules", {"names": list(names)}, lambda rows: None)


def find(name: str | None = None) -> Operation[list[Schedule]]:
    """Every schedule, or the one of a name."""
    values = {"name": None if name is None else check_schedule(name)}
    return Operation("list_schedules", values, lambda rows: [_schedule(r) for r in rows])


def _schedule(row: Row) -> Schedule:
    fields = list(row)
    fields[18] = None if fields[18] is None else Status(fields[18])
    return Schedule(*fields)


def runs(name: str, *, limit: int = 50) -> Operation[list[ScheduleRun]]:
    """The runs of a schedule, newest first."""
    return Operation(
        "list_runs",
        {"name": check_schedule(name), "limit": whole_number(limit, "limit")},
        lambda rows: [ScheduleRun(r[0], r[1], Status(r[2]), *r[3:]) for r in rows],
    )


def add(schedule: NewSchedule) -> Operation[None]:
    """Add a schedule, or change the one of its name."""
    row = schedule.as_row()
    backoff = None if row["backoff"] is None else json.dumps(dict(row["backoff"]))
    return Operation("add_schedule", {**row, "backoff": backoff}, lambda rows: None)


class EncryptedSchedule(NamedTuple):
    """A schedule with encrypted arguments, which are JSON text."""

    name: str
    task: str
    args: str


def encrypted() -> Operation[list[EncryptedSchedule]]:
    """The schedules with encrypted arguments."""
    return Operation("encrypted_schedules", {}, lambda rows: [EncryptedSchedule(*r) for r in rows])


def replace_args(name: str, old: str, new: str) -> Operation[bool]:
    """Give a schedule that still has the old arguments others; False if it has not."""
    values = {"name": name, "old_args": old, "new_args": new}
    return Operation("replace_schedule_args", values, bool)


def remove(name: str) -> Operation[bool | None]:
    return Operation("remove_schedule", {"name": check_schedule(name)}, _flag)


def pause(name: str) -> Operation[bool | None]:
    return Operation("pause_schedule", {"name": check_schedule(name)}, _flag)


def resume(name: str) -> Operation[bool | None]:
    return Operation("resume_schedule", {"name": check_schedule(name)}, _flag)


def run(name: str) -> Operation[int | None]:
    """Enqueue a run now; the job's id, None without such a schedule."""
    return Operation("run_schedule", {"name": check_schedule(name)}, lambda rows: rows[0][0])


def _flag(rows: Sequence[Row]) -> bool | None:
    return rows[0][0] or None
