"""Operations of the testing kit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pgqueue.job import ClaimedJob, JobRow, Status
from pgqueue.jsontext import MOST_CLAIMED
from pgqueue.operations import Operation, ids
from pgqueue.operations.claims import WHATEVER, Taking, claimed_jobs
from pgqueue.operations.jobs import MOST_LISTED_ERROR, decoded

MOST_ALL = 1_000_000_000


class Beginning(NamedTuple):
    """Where a test begins: the start of its transaction, and the id of the newest job that was there."""

    began: datetime
    newest: int


class OwnJob(NamedTuple):
    """A job of the test."""

    id: int
    queue: str
    status: Status


def begins() -> Operation[Beginning]:
    """Where a test begins that starts now."""
    return Operation("test_begins", {}, lambda rows: Beginning(*rows[0]))


def of_test(beginning: Beginning) -> Operation[list[OwnJob]]:
    """The jobs that the open transaction has written; after a commit, those that are newer than the beginning."""
    return Operation(
        "test_jobs",
        beginning._asdict(),
        lambda rows: [OwnJob(row[0], row[1], Status(row[2])) for row in rows],
    )


def listed(job_ids: Sequence[int]) -> Operation[list[JobRow]]:
    """These jobs, newest first, with all of their arguments: a test compares them."""
    values = {
        "ids": list(job_ids),
        "most_args": MOST_CLAIMED,
        "most_page": MOST_ALL,
        "most_error": MOST_LISTED_ERROR,
    }
    return Operation("test_listed", values, decoded)


def due(job_ids: Sequence[int]) -> Operation[list[int]]:
    """Let those of these jobs that have come due since the transaction began be due."""
    return Operation("test_due", {"ids": list(job_ids)}, ids)


def claim(
    job_ids: Sequence[int], queues: Sequence[str], taking: Taking
) -> Operation[list[ClaimedJob]]:
    """Claim those of these jobs, which are in these queues, that are due and not under limits."""
    values = {"ids": list(job_ids), "queues": list(queues), **WHATEVER, **taking}
    return Operation("test_claim", values, lambda rows: claimed_jobs(rows, taking["claim_id"]))


def travel(job_ids: Sequence[int], seconds: float) -> Operation[list[int]]:
    """Let time pass for these jobs."""
    return Operation("test_travel", {"ids": list(job_ids), "seconds": seconds}, ids)
