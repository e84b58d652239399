"""Thousands of jobs at once: their ids first, then COPY. Pure but for the order of the steps.

Format: https://www.postgresql.org/docs/current/sql-copy.html, "Text Format".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from pgqueue.job import Added, NewJob
from pgqueue.operations import Operation, Row

COPY_FROM = 500
PIECE = 250
_OPTIONS = attrgetter("task", "queue", "priority", "max_retries", "run_at", "delay")


def worth_it(jobs: Sequence[NewJob]) -> bool:
    """Are they many enough, and of the kind that COPY can insert?"""
    return len(jobs) >= COPY_FROM and all(job.plain for job in jobs)


def reserve(count: int) -> Operation[tuple[list[int], datetime]]:
    """Ids for ``count`` jobs, ascending, and the database's time."""
    return Operation("reserve_ids", {"count": count}, _reserved)


def _reserved(rows: Sequence[Row]) -> tuple[list[int], datetime]:
    taken, now = rows[0]
    return sorted(taken), now


def copy_text(jobs: Sequence[NewJob], ids: Sequence[int], now: datetime) -> Iterator[bytes]:
    """The rows of jobs in COPY's text format, in pieces: the server reads one while the next is written."""
    written: dict[tuple[object, ...], str] = {}

    def options(job: NewJob) -> str:
        # Jobs of one call have few different options: their columns are written once.
        backoff = None if job.backoff is None else json.dumps(job.backoff)
        key = (*_OPTIONS(job), backoff)
        if (text := written.get(key)) is None:
            text = written[key] = _options(job, backoff, now)
        return text

    for at in range(0, len(jobs), PIECE):
        piece = zip(ids[at : at + PIECE], jobs[at : at + PIECE], strict=True)
        lines = [f"{number}\t{_escaped(job.args)}\t{options(job)}\n" for number, job in piece]
        yield "".join(lines).encode()


def _options(job: NewJob, backoff: str | None, now: datetime) -> str:
    run_at = job.run_at or (now + timedelta(seconds=job.delay) if job.delay else now)
    values = (job.task, job.queue, job.priority_or_usual, job.retries_or_usual, backoff, run_at)
    return "\t".join(map(_field, values))


def _field(value: object) -> str:
    if value is None:
        return "\\N"
    return _escaped(value) if isinstance(value, str) else str(value)


def _escaped(text: str) -> str:
    # Four replaces cost a tenth of str.translate.
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace("\r", "\\r").replace("\t", "\\t")


class Copied(Sequence[Added]):
    """What became of jobs that were copied in; made one by one, or the garbage collector would go over all of them."""

    def __init__(self, ids: list[int]) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, at: Any) -> Any:
        return Copied(self._ids[at]) if isinstance(at, slice) else Added(self._ids[at])

    def __iter__(self) -> Iterator[Added]:
        return map(Added, self._ids)


def due_queues(jobs: Iterable[NewJob], now: datetime) -> list[str]:
    """The queues whose workers have something to do now."""
    return sorted({j.queue for j in jobs if not j.delay and (j.run_at is None or j.run_at <= now)})
