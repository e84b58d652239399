"""Operations of a worker on the jobs it claims; every write is fenced by the claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, NotRequired, TypedDict, Unpack
from uuid import UUID

from pgqueue.job import ClaimedJob, Status
from pgqueue.operations import Operation, Row, ids
from pgqueue.outcome import Outcome

MOST_LANES = 256

Place = tuple[datetime, int]
WhatBecame = Literal["held", "succeeded", "gone", "lost"]


class Finished(NamedTuple):
    """The end of an attempt; ``run_seconds`` by the monotonic clock.

    ``doubtful``: it may have been recorded already, by a statement or COMMIT without an answer.
    ``job``: for the log. ``by_itself``: its handler came to an end, and took no worker with it.
    """

    id: int
    claim_id: UUID
    outcome: Outcome
    run_seconds: float
    doubtful: bool = False
    job: ClaimedJob | None = None
    by_itself: bool = False

    @property
    def in_workflow(self) -> bool:
        """May other jobs wait for it?"""
        return self.job is not None and self.job.workflow_id is not None


class Recorded(NamedTuple):
    """The status a job has now, and in how many seconds it is due if that is pending; whether a job waits for it."""

    status: Status
    wait: float
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class Lane:
    """One (queue, priority) and the place up to which it has been claimed."""

    queue: str
    priority: int
    after_at: datetime
    after_id: int


class Taking(TypedDict):
    """How many jobs to claim, by which token and worker, for how many seconds.

    ``only`` of these tasks; ``not_ids``: without these jobs, which the database has refused to let run.
    """

    limit: int
    claim_id: UUID
    worker_id: UUID
    lease: float
    only: NotRequired[list[str] | None]
    not_ids: NotRequired[list[int]]


class Candidate(NamedTuple):
    """A job that a claim would take."""

    id: int
    task: str


def candidates(rows: Sequence[Row]) -> list[Candidate]:
    return [Candidate(*row) for row in rows]


WHATEVER: dict[str, object] = {"only": None, "not_ids": []}


def claim(
    lanes: Sequence[Lane],
    *,
    skip_touched: bool = False,
    without: Sequence[str] = (),
    **taking: Unpack[Taking],
) -> Operation[list[ClaimedJob]]:
    """Claim due jobs from the cursors on, perhaps without those that others seem to have in hand.

    Args:
        without: tasks whose jobs are left to others.
    """
    values = _ahead(lanes, skip_touched, without) | WHATEVER | taking
    return Operation("claim", values, lambda rows: claimed_jobs(rows, taking["claim_id"]))


def look_ahead(
    lanes: Sequence[Lane],
    *,
    skip_touched: bool = False,
    without: Sequence[str] = (),
    **taking: Unpack[Taking],
) -> Operation[list[Candidate]]:
    """Which jobs a claim would take."""
    values = _ahead(lanes, skip_touched, without) | WHATEVER | taking
    return Operation("look_ahead", values, candidates)


def claim_these(job_ids: Sequence[int], **taking: Unpack[Taking]) -> Operation[list[ClaimedJob]]:
    """Claim those of some jobs that may be claimed still, wherever they are; none under limits, no suspects."""
    values = {**WHATEVER, **taking, "ids": list(job_ids)}
    return Operation("claim_these", values, lambda rows: claimed_jobs(rows, taking["claim_id"]))


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece of a lane: what comes after one place, up to another and with it."""

    queue: str
    priority: int
    after: Place
    until: Place


class Swept(NamedTuple):
    """What a sweep claimed, the (queue, priority) of unknown lanes with pending jobs, and the database's time."""

    jobs: list[ClaimedJob]
    lanes: list[tuple[str, int]]
    at: datetime


def sweep(
    queues: Sequence[str] | None,
    slices: Sequence[Slice] = (),
    *,
    without: Sequence[str] = (),
    **taking: Unpack[Taking],
) -> Operation[Swept]:
    """Claim due jobs of the queues (None: all): in slices of known lanes, and in all lanes that are not known.

    Args:
        without: tasks whose jobs are left to others.
    """

    def decode(rows: Sequence[Row]) -> Swept:
        heading, *claimed = map(tuple, rows)
        names, priorities, at = heading[0] or [], heading[1] or [], heading[10]
        jobs = claimed_jobs([row[2:] for row in claimed], taking["claim_id"])
        return Swept(jobs, list(zip(names, priorities, strict=True)), at)

    values = _behind(queues, slices, without) | taking
    return Operation("sweep", values, decode)


class Seen(NamedTuple):
    """What a sweep would claim, the (queue, priority) of unknown lanes with pending jobs, and the database's time."""

    jobs: list[Candidate]
    lanes: list[tuple[str, int]]
    at: datetime


def look_behind(
    queues: Sequence[str] | None,
    slices: Sequence[Slice] = (),
    *,
    without: Sequence[str] = (),
    **taking: Unpack[Taking],
) -> Operation[Seen]:
    """Which jobs a sweep would take."""

    def decode(rows: Sequence[Row]) -> Seen:
        (names, priorities, at, *_), *found = map(tuple, rows)
        lanes = list(zip(names or [], priorities or [], strict=True))
        return Seen(candidates([row[3:] for row in found]), lanes, at)

    return Operation("look_behind", _behind(queues, slices, without) | taking, decode)


def _behind(
    queues: Sequence[str] | None, slices: Sequence[Slice], without: Sequence[str]
) -> dict[str, object]:
    return {
        "queues": None if queues is None else list(queues),
        "slice_queues": [each.queue for each in slices],
        "slice_priorities": [each.priority for each in slices],
        "after_at": [each.after[0] for each in slices],
        "after_ids": [each.after[1] for each in slices],
        "until_at": [each.until[0] for each in slices],
        "until_ids": [each.until[1] for each in slices],
        "lanes": MOST_LANES,
        "without": list(without),
        **WHATEVER,
    }


def last_places(queues: Sequence[str] | None) -> Operation[list[Lane]]:
    """Where the last succeeded job of each queue stood: claims may go on from there."""
    values = {"queues": None if queues is None else list(queues)}
    return Operation("last_places", values, lambda rows: [Lane(*row) for row in rows])


def trade(
    done: Sequence[Finished],
    lanes: Sequence[Lane],
    *,
    delete: bool,
    skip_touched: bool = False,
    without: Sequence[str] = (),
    **taking: Unpack[Taking],
) -> Operation[tuple[list[int], list[ClaimedJob]]]:
    """Record success and claim from the cursors on: the ids as ``complete``, the jobs as ``claim``."""

    def decode(rows: Sequence[Row]) -> tuple[list[int], list[ClaimedJob]]:
        recorded = [row[1] for row in rows if row[0]]
        claimed = [tuple(row[1:]) for row in rows if not row[0]]
        return recorded, claimed_jobs(claimed, taking["claim_id"])

    values = _ended(done) | _ahead(lanes, skip_touched, without) | WHATEVER | taking
    return Operation("trade_and_delete" if delete else "trade", values, decode, patient=False)


def _ahead(lanes: Sequence[Lane], skip_touched: bool, without: Sequence[str]) -> dict[str, object]:
    return {
        "without": list(without),
        "skip_touched": skip_touched,
        "queues": [lane.queue for lane in lanes],
        "priorities": [lane.priority for lane in lanes],
        "after_at": [lane.after_at for lane in lanes],
        "after_ids": [lane.after_id for lane in lanes],
    }


def claimed_jobs(rows: Sequence[Row], claim_id: UUID) -> list[ClaimedJob]:
    jobs = [ClaimedJob._make((*row, claim_id)) for row in rows]
    jobs.sort(key=lambda job: (-job.priority, job.run_at, job.id))
    return jobs


def complete(done: Sequence[Finished], *, delete: bool) -> Operation[list[int]]:
    """Record success; returns the ids that were still this worker's."""
    statement = "complete_and_delete" if delete else "complete"
    return Operation(statement, _ended(done), ids, patient=False)


def complete_with(done: Sequence[Finished]) -> Operation[dict[int, bool]]:
    """Record success of jobs with a result or a log: the ids that were still this worker's, and whether a job waits for each."""
    values = _ended(done) | _kept(done) | {"errors": [f.outcome.error for f in done]}
    return Operation("complete_with", values, _awaited)


def add_results(done: Sequence[Finished]) -> Operation[dict[int, bool]]:
    """The results and logs of jobs that completed in transactions of their handlers; returns as ``complete_with`` does."""
    values = _ended(done) | _kept(done) | _attempts(done)
    # What a handler raised after it had completed its job is no error of the job.
    values["errors"] = [None if f.outcome.error_type else f.outcome.error for f in done]
    return Operation("add_results", values, _awaited)


def _awaited(rows: Sequence[Row]) -> dict[int, bool]:
    return {row[0]: row[1] for row in rows}


def recorded(ended: Sequence[Finished]) -> Operation[dict[int, WhatBecame]]:
    """What became of attempts that may have been recorded already, by id."""
    values = _ended(ended) | _attempts(ended)
    del values["run_seconds"]
    return Operation("recorded", values, lambda rows: {row[0]: row[1] for row in rows})


def _attempts(ended: Sequence[Finished]) -> dict[str, object]:
    return {"attempts": [f.job.attempt if f.job else 0 for f in ended]}


def _kept(done: Sequence[Finished]) -> dict[str, object]:
    return {"results": [f.outcome.result for f in done], "logs": [f.outcome.log for f in done]}


def note_progress(said: Sequence[tuple[int, UUID, str]]) -> Operation[list[int]]:
    """How far running jobs are: id, claim and JSON text; returns those that were still held."""
    values = {
        "ids": [job_id for job_id, _, _ in said],
        "claim_ids": [claim_id for _, claim_id, _ in said],
        "progresses": [text for _, _, text in said],
    }
    return Operation("note_progress", values, ids)


def _ended(finished: Sequence[Finished]) -> dict[str, object]:
    return {
        "ids": [f.id for f in finished],
        "claim_ids": [f.claim_id for f in finished],
        "run_seconds": [f.run_seconds for f in finished],
    }


def fail(ended: Sequence[Finished]) -> Operation[dict[int, Recorded]]:
    """Record every other outcome; returns what became of those still this worker's."""
    values = _ended(ended) | {
        "outcomes": [f.outcome.kind for f in ended],
        "delays": [f.outcome.delay for f in ended],
        "error_types": [f.outcome.error_type for f in ended],
        "errors": [f.outcome.error for f in ended],
        "tracebacks": [f.outcome.traceback for f in ended],
        "logs": [f.outcome.log for f in ended],
        "ended": [f.by_itself for f in ended],
    }
    return Operation(
        "fail", values, lambda rows: {r[0]: Recorded(Status(r[1]), r[2], r[3]) for r in rows}
    )


def hold_again(job_ids: Sequence[int]) -> Operation[None]:
    """Let jobs that were given back before they started hold their unique keys as before."""
    return Operation("hold_again", {"ids": list(job_ids)}, lambda rows: None)


def release(claim_id: UUID, *, only_ids: Sequence[int] | None = None) -> Operation[list[int]]:
    """Give back all that a claim took, or only some of these jobs, for a claim whose answer was lost."""
    only = None if only_ids is None else list(only_ids)
    return Operation("release", {"claim_id": claim_id, "only_ids": only}, ids)


def unstarted(claim_id: UUID) -> Operation[list[int]]:
    """The jobs that a claim took, for a claim whose answer was lost."""
    return Operation("unstarted", {"claim_id": claim_id}, ids)


class Beat(NamedTuple):
    """What a renewal says of a job still held: ``locked`` by another session, and ``kept`` all the same."""

    cancel_requested: bool
    locked: bool
    kept: bool


def heartbeat(
    held: Sequence[tuple[int, UUID]], *, worker_id: UUID, lease: float
) -> Operation[dict[int, Beat]]:
    """Renew leases; returns the jobs still held.

    Those whose rows others have locked are noted with the worker, in place of those noted before: give them again
    until they are not.
    """
    values = {
        "ids": [job_id for job_id, _ in held],
        "claim_ids": [claim_id for _, claim_id in held],
        "worker_id": worker_id,
        "lease": lease,
    }
    return Operation("heartbeat", values, lambda rows: {row[0]: Beat(*row[1:]) for row in rows})
