"""Operations that insert jobs, and wake who waits for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pgqueue.errors import JobExists, QueueFull
from pgqueue.job import Added, NewJob
from pgqueue.operations import Operation, Row

FULL = "full "


def enqueue(jobs: Sequence[NewJob], *, notify: bool = True) -> Operation[list[Added]]:
    """Insert jobs; says of each, in the same order, what became of it."""
    if len(jobs) == 1 and not notify and jobs[0].plain:
        return _enqueue_one(jobs[0])
    if not all(job.plain for job in jobs):
        return _enqueue_keyed(jobs, notify)
    text = "[" + ",".join(map(as_json, jobs)) + "]"
    return Operation("enqueue", {"jobs": text, "notify": notify}, _added)


def _added(rows: Sequence[Row]) -> list[Added]:
    return [Added(row[0]) for row in rows]


def _enqueue_one(job: NewJob) -> Operation[list[Added]]:
    if job.bare:
        return Operation("enqueue_plain", {"task": job.task, "args": job.args}, _added)
    values = {
        "task": job.task,
        "args": job.args,
        "queue": job.queue,
        "priority": job.priority_or_usual,
        "max_retries": job.retries_or_usual,
        "backoff": None if job.backoff is None else json.dumps(job.backoff),
        "run_at": job.run_at,
        "delay": job.delay,
    }
    return Operation("enqueue_one", values, _added)


def _enqueue_keyed(jobs: Sequence[NewJob], notify: bool) -> Operation[list[Added]]:
    """Jobs of which some have a unique key, expire, or are enqueued by name.

    Decoding raises JobExists when another job holds a key and that was to raise, and QueueFull when jobs by name do not
    fit into their queue.
    """
    text = "[" + ",".join(as_json(job, _keyed(job)) for job in jobs) + "]"

    def added(rows: Sequence[Row]) -> list[Added]:
        if rows[0][2] == "refused":
            taken = [job.task for job in jobs if job.key and job.key.on_conflict == "raise"]
            raise JobExists(taken[0], rows[0][1])
        if rows[0][2].startswith(FULL):
            raise QueueFull(rows[0][2].removeprefix(FULL), rows[0][1], rows[0][0])
        return [Added(row[1], row[2]) for row in rows]

    return Operation("enqueue_jobs", {"jobs": text, "notify": notify}, added)


def _keyed(job: NewJob) -> dict[str, Any]:
    if job.key is None:
        return {"expires": job.expires, "limit_key": job.limit_key}
    return {
        "expires": job.expires,
        "limit_key": job.limit_key,
        "unique_key": job.key.key,
        "unique_until": job.key.until,
        "unique_for": job.key.within,
        "on_conflict": job.key.on_conflict,
    }


def as_json(job: NewJob, more: Mapping[str, Any] = MappingProxyType({})) -> str:
    """A job as JSON text, as the functions of the schema take it."""
    # The arguments are JSON text already: parsing them again would cost time and digits.
    by_name = job.by_name
    head = {
        "task": job.task,
        "queue": job.queue or None,
        "priority": job.priority if by_name else job.priority_or_usual,
        "max_retries": job.max_retries if by_name else job.retries_or_usual,
        "backoff": job.backoff,
        "run_at": None if job.run_at is None else job.run_at.isoformat(),
        "delay": job.delay,
        **more,
    }
    if by_name:
        head["by_name"] = True
    # Not every database knows the escapes of what is not ASCII: its encoding has to.
    return json.dumps(head, ensure_ascii=False)[:-1] + ', "args": ' + job.args + "}"


def notify(queues: Iterable[str]) -> Operation[None]:
    """Wake the workers of these queues."""
    return Operation("notify", {"queues": sorted(set(queues))}, lambda rows: None)
