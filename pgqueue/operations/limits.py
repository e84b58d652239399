"""Operations on the limits of tasks and queues."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Unpack

from pgqueue.job import ClaimedJob
from pgqueue.limits import Limits
from pgqueue.operations import Operation, Row
from pgqueue.operations.claims import Taking
from pgqueue.operations.queues import as_declared
from pgqueue.queues import QueueSettings


class Limited(NamedTuple):
    """What was claimed; the key to go on after, and seconds until a rate lets the next start."""

    jobs: list[ClaimedJob]
    last_key: str | None
    wait: float | None


class QueueAtWork(NamedTuple):
    """A queue with something of its own: claims under limits, a retention of what succeeded, a timeout."""

    name: str
    limited: bool
    keep: float | None
    timeout: float | None


def queues_at_work(queues: Sequence[str] | None) -> Operation[list[QueueAtWork]]:
    """Those of the queues given, or of all, that have something of their own."""
    values = {"queues": None if queues is None else list(queues)}
    return Operation("queues_at_work", values, lambda rows: [QueueAtWork(*row) for row in rows])


def claim(
    queue: str,
    after_key: str | None,
    *,
    suspects: bool = False,
    among: Sequence[int] | None = None,
    **taking: Unpack[Taking],
) -> Operation[Limited]:
    """Claim due jobs of a queue under its limits and those of its keys: suspects that may run together, or all others.

    Args:
        among: as if there were no other jobs than these.
    """

    def decode(rows: Sequence[Row]) -> Limited:
        if not rows:
            return Limited([], after_key, None)
        (last_key, wait, *_), *claimed = map(tuple, rows)
        jobs = [ClaimedJob._make((*row[2:], taking["claim_id"])) for row in claimed]
        return Limited(jobs, last_key, wait)

    values = {
        "queue": queue,
        "after_key": after_key,
        "suspects": suspects,
        "among": None if among is None else list(among),
        "only": None,
        **taking,
    }
    return Operation("claim_limited", values, decode)


def prune_buckets(*, limit: int = 1000) -> Operation[list[str]]:
    """Delete one batch of token buckets that are full again; returns their names."""
    return Operation("prune_buckets", {"limit": limit}, lambda rows: [row[0] for row in rows])


def declare(
    tasks: Mapping[str, Limits], queues: Mapping[str, QueueSettings]
) -> Operation[list[str]]:
    """Write what the code declares; a row whose declaration has not changed is left as it is."""
    values = {
        "task_limits": json.dumps(
            [{"name": n, **each.as_dict()} for n, each in sorted(tasks.items())], ensure_ascii=False
        ),
        "declared": as_declared(queues),
    }
    return Operation("declare_limits", values, lambda rows: [row[0] for row in rows], patient=False)


@dataclass(frozen=True, slots=True)
class LimitRow:
    """The limits of a task's keys or of a queue. ``rate`` in jobs per second."""

    kind: str
    name: str
    max_running: int | None
    rate: float | None
    burst: int | None
    ordered: str | None
    weights: Mapping[str, int] | None


def find() -> Operation[list[LimitRow]]:
    """The limits there are."""

    def decode(rows: Sequence[Row]) -> list[LimitRow]:
        read = [(*row[:6], None if row[6] is None else json.loads(row[6])) for row in rows]
        return [LimitRow(*row) for row in read]

    return Operation("list_limits", {}, decode)


def put(kind: str, name: str, limits: Limits) -> Operation[None]:
    """Set how many of a task's keys or a queue may run at once, and how fast they start."""
    values = {
        "name": name,
        "max_running": limits.max_running,
        "rate": limits.rate,
        "burst": limits.burst,
    }
    return Operation(f"limit_{kind}", values, lambda rows: None)
