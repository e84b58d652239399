"""Thousands of jobs at once: their ids first, then COPY. Pure but for the order of the steps.

Format: https://www.postgresql.org/docs/current/sql-copy.html, "Text Format".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import cache

from pgqueue.job import NewJob
from pgqueue.operations import Operation, Row

COPY_FROM = 500


def worth_it(jobs: Sequence[NewJob]) -> bool:
    """Are they many enough, and of the kind that COPY can insert?"""
    return len(jobs) >= COPY_FROM and all(job.plain for job in jobs)


def reserve(count: int) -> Operation[tuple[list[int], datetime]]:
    """Ids for ``count`` jobs, ascending, and the database's time."""
    return Operation("reserve_ids", {"count": count}, _reserved)


def _reserved(rows: Sequence[Row]) -> tuple[list[int], datetime]:
    taken, now = rows[0]
    return sorted(taken), now


def copy_text(jobs: Iterable[NewJob], ids: Iterable[int], now: datetime) -> bytes:
    """The rows of jobs in COPY's text format."""
    # Jobs of one call have few different options: their columns are written once.
    options = cache(lambda *values: "\t".join(map(_field, values)))
    return "".join(
        f"{job_id}\t{_escaped(job.args)}"
        f"\t{options(job.task, job.queue, job.priority_or_usual, job.retries_or_usual, _backoff(job), _run_at(job, now))}\n"
        for job, job_id in zip(jobs, ids, strict=True)
    ).encode()


def _backoff(job: NewJob) -> str | None:
    return None if job.backoff is None else json.dumps(job.backoff)


def _run_at(job: NewJob, now: datetime) -> datetime:
    return job.run_at or (now + timedelta(seconds=job.delay) if job.delay else now)


def _field(value: object) -> str:
    if value is None:
        return "\\N"
    return _escaped(value) if isinstance(value, str) else str(value)


def _escaped(text: str) -> str:
    # Four replaces cost a tenth of str.translate.
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace("\r", "\\r").replace("\t", "\\t")


def due_queues(jobs: Iterable[NewJob], now: datetime) -> list[str]:
    """The queues whose workers have something to do now."""
    return sorted({j.queue for j in jobs if not j.delay and (j.run_at is None or j.run_at <= now)})
