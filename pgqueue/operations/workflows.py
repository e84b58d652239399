"""Operations on workflows: jobs that wait for each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias, Unpack
from uuid import UUID

from pgqueue.checks import MOST_ID, check_id, shown, storable_text, whole_number
from pgqueue.errors import ConfigError
from pgqueue.job import NewJob, Status
from pgqueue.operations import Chosen, Operation, Row, chosen, ids
from pgqueue.operations.enqueue import as_json

STATES = ("running", "succeeded", "dead", "cancelled", "expired")
EXPIRED = "expired"
Deadline: TypeAlias = datetime | float | None  # a time, or seconds from when it is enqueued
MOST_PARENTS = 1000  # that are listed of a job


class Added(NamedTuple):
    """The ids of a workflow and of its jobs, in the order given."""

    id: int
    job_ids: list[int]


@dataclass(frozen=True, slots=True)
class Member:
    """A job of a workflow not yet inserted. ``after``: places of jobs before it, from 1 on.

    ``after_jobs``, ``after_names``: the ids and names of jobs of the workflow that it waits for, too, if it is running.
    """

    job: NewJob
    name: str | None
    after: Sequence[int]
    if_failed: str
    after_jobs: Sequence[int] = ()
    after_names: Sequence[str] = ()

    @property
    def waits(self) -> bool:
        """Does it wait for any other?"""
        return bool(self.after or self.after_jobs or self.after_names)

    def as_json(self) -> str:
        return as_json(
            self.job,
            {
                "name": self.name,
                "after": self.after,
                "if_failed": self.if_failed,
                "expires": self.job.expires,
                "limit_key": self.job.limit_key,
                **({"after_jobs": self.after_jobs} if self.after_jobs else {}),
                **({"after_names": self.after_names} if self.after_names else {}),
            },
        )


def enqueue(
    members: Sequence[Member], *, name: str, notify: bool, deadline: Deadline = None
) -> Operation[Added]:
    """Insert jobs that wait for each other, all or none."""
    values = {
        "jobs": _text(members),
        "name": name,
        "notify": notify,
        "deadline_at": deadline if isinstance(deadline, datetime) else None,
        "deadline_in": None if isinstance(deadline, datetime) else deadline,
    }
    return Operation("enqueue_workflow", values, _added)


def add(
    members: Sequence[Member], *, job_id: int, claim_id: UUID, notify: bool
) -> Operation[Added]:
    """Add jobs to the workflow of a running job, all or none. Raises ClaimLost, WorkflowClosed, ConfigError."""
    values = {"id": job_id, "claim_id": str(claim_id), "jobs": _text(members), "notify": notify}
    return Operation("add_to_workflow", values, _added)


def _text(members: Sequence[Member]) -> str:
    return "[" + ",".join(member.as_json() for member in members) + "]"


def _added(rows: Sequence[Row]) -> Added:
    return Added(rows[0][0], [row[1] for row in rows])


class Settled(NamedTuple):
    """How many jobs are pending now, and which are to be settled next, in another transaction.

    ``locked``: what waited for these is locked by others, and was passed by: settle them again later.
    """

    released: int
    again: list[int]
    locked: list[int]


def settle(job_ids: Sequence[int], **which: Unpack[Chosen]) -> Operation[Settled]:
    """These jobs have ended: let those that waited for them go on, or cancel them.

    Args:
        which: of those that waited.
    """
    values = {"ids": list(job_ids), **chosen(which)}
    return Operation("settle", values, lambda rows: Settled(*rows[0]))


def waiting(job_ids: Sequence[int], *, without: Sequence[int] = ()) -> Operation[list[int]]:
    """Jobs that may wait for these, a thousand at most."""
    return Operation("waiting_jobs", {"ids": list(job_ids), "not_ids": list(without)}, ids)


class Unsettled(NamedTuple):
    """Jobs that have ended while others wait for them; the id to go on after, None at the end."""

    ended: list[int]
    last: int | None


def unsettled(*, after: int, limit: int) -> Operation[Unsettled]:
    """Look at jobs that are waited for, from an id on."""

    def decode(rows: Sequence[Row]) -> Unsettled:
        ended = [row[0] for row in rows if row[1]]
        return Unsettled(ended, max(row[0] for row in rows) if len(rows) >= limit else None)

    return Operation("unsettled", {"after": after, "limit": limit}, decode)


def results(workflow_id: int | None, names: Sequence[str]) -> Operation[dict[str, Any]]:
    """What jobs of a workflow returned, by name; without those that returned nothing."""
    return Operation(
        "workflow_results",
        {"id": workflow_id, "names": list(names)},
        lambda rows: {row[0]: json.loads(row[1]) for row in rows if row[1] is not None},
    )


@dataclass(frozen=True, slots=True)
class WorkflowRow:
    """A workflow and how many of its jobs have which status. ``status`` is running until all have ended.

    ``deadline_at``: when its jobs that have not ended are cancelled; ``expired_at``: when the first was, for that.
    """

    id: int
    name: str
    status: str
    created_at: datetime
    finished_at: datetime | None
    jobs: int
    blocked: int
    pending: int
    running: int
    succeeded: int
    dead: int
    cancelled: int
    deadline_at: datetime | None
    expired_at: datetime | None


def find(
    workflow_id: int | None = None,
    *,
    name: str | None = None,
    status: str | None = None,
    limit: int = 50,
    before: int | None = None,
) -> Operation[list[WorkflowRow]]:
    """Workflows that match, newest first."""
    if status is not None and status not in STATES:
        raise ConfigError(
            f"the status of a workflow is {', '.join(STATES[:-1])} or {STATES[-1]}, not {shown(status)}"
        )
    values = {
        "id": None if workflow_id is None else check_id(workflow_id, "workflow_id"),
        "name": None if name is None else storable_text(name, "name"),
        "status": status,
        "limit": whole_number(limit, "limit"),
        "before": None if before is None else whole_number(before, "before", most=MOST_ID),
    }
    return Operation("list_workflows", values, lambda rows: [WorkflowRow(*row) for row in rows])


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A job of a workflow, and those it waits for (the first 1,000)."""

    id: int
    name: str | None
    task: str
    status: Status
    if_failed: str
    last_error: str | None
    after: list[int]


def members(workflow_id: int, *, after: int = 0, limit: int = 1000) -> Operation[list[MemberRow]]:
    """The jobs of a workflow in order, from an id on."""

    def decode(rows: Sequence[Row]) -> list[MemberRow]:
        return [MemberRow(*row[:3], Status(row[3]), *row[4:]) for row in rows]  # type: ignore[call-arg]

    values = {
        "id": check_id(workflow_id, "workflow_id"),
        "after": whole_number(after, "after", most=MOST_ID),
        "limit": whole_number(limit, "limit"),
        "parents": MOST_PARENTS,
    }
    return Operation("list_workflow_jobs", values, decode)


def cancel(workflow_id: int) -> Operation[int]:
    """Cancel all jobs of a workflow that have not ended; how many."""
    values = {"id": check_id(workflow_id, "workflow_id")}
    return Operation("cancel_workflow", values, lambda rows: int(rows[0][0]))


def retry(workflow_id: int) -> Operation[int]:
    """Put the dead and cancelled jobs of a workflow back; how many."""
    values = {"id": check_id(workflow_id, "workflow_id")}
    return Operation("retry_workflow", values, lambda rows: int(rows[0][0]))


class Expired(NamedTuple):
    """The jobs that were cancelled, how many were asked to stop, and whether there may be more to do."""

    cancelled: list[int]
    stopped: int
    more: bool


def expire(*, limit: int = 1000, **which: Unpack[Chosen]) -> Operation[Expired]:
    """Cancel a batch of jobs of workflows that have passed their deadline; running ones are asked to stop."""

    def decode(rows: Sequence[Row]) -> Expired:
        done = [row[0] for row in rows if row[1]]
        stopped = len(rows) - len(done)
        return Expired(done, stopped, len(done) + stopped >= limit)

    return Operation("expire_workflows", {"limit": limit, **chosen(which)}, decode)


def overdue(*, limit: int = 1000, **which: Unpack[Chosen]) -> Operation[list[int]]:
    """The jobs that ``expire`` cancels or stops."""
    return Operation("overdue_members", {"limit": limit, **chosen(which)}, ids)


def prune(
    status: Status | Literal["expired"], *, age: float, limit: int = 1000, **which: Unpack[Chosen]
) -> Operation[list[int]]:
    """Delete one batch of jobs of workflows that ended more than ``age`` seconds ago.

    Returns the id of the workflow of each job that was deleted, and of each workflow that had none left.
    """
    values = {"status": str(status), "age": age, "limit": limit, **chosen(which)}
    return Operation("prune_workflows", values, ids)


def old(
    status: Status | Literal["expired"], *, age: float, limit: int = 1000, **which: Unpack[Chosen]
) -> Operation[list[int]]:
    """The jobs that ``prune`` deletes."""
    values = {"status": str(status), "age": age, "limit": limit, **chosen(which)}
    return Operation("old_members", values, ids)
