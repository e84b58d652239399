"""Thousands of jobs at once: their ids first, then COPY. Pure but for the order of the steps.

Format: https://www.postgresql.org/docs/current/sql-copy.html, "Text Format".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from pgqueue.job import NewJob
from pgqueue.operations import Operation, Row

COPY_FROM = 2000
COLUMNS = ("id", "task", "args", "queue", "priority", "max_retries", "backoff", "run_at")
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def reserve(count: int) -> Operation[tuple[list[int], datetime]]:
    """Ids for ``count`` jobs, ascending, and the database's time."""
    return Operation("reserve_ids", {"count": count}, _reserved)


def _reserved(rows: Sequence[Row]) -> tuple[list[int], datetime]:
    return sorted(row[0] for row in rows), next(row[1] for row in rows if row[1] is not None)


def copy_text(jobs: Iterable[NewJob], ids: Iterable[int], now: datetime) -> bytes:
    """The rows of jobs in COPY's text format."""
    return "".join(
        "\t".join(map(_field, _values(job, job_id, now))) + "\n"
        for job, job_id in zip(jobs, ids, strict=True)
    ).encode()


def _values(job: NewJob, job_id: int, now: datetime) -> tuple[Any, ...]:
    run_at = job.run_at or now + timedelta(seconds=job.delay or 0)
    backoff = None if job.backoff is None else json.dumps(job.backoff)
    return (
        job_id, job.task, job.args, job.queue, job.priority, job.max_retries, backoff,
        run_at.isoformat(),
    )  # fmt: skip


def _field(value: object) -> str:
    if value is None:
        return "\\N"
    return value.translate(_ESCAPES) if isinstance(value, str) else str(value)


def due_queues(jobs: Iterable[NewJob], now: datetime) -> list[str]:
    """The queues whose workers have something to do now."""
    return sorted({j.queue for j in jobs if not j.delay and (j.run_at is None or j.run_at <= now)})
