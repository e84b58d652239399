"""Operations on the limits of tasks and queues."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack

from pgqueue.job import ClaimedJob
from pgqueue.limits import Limits
from pgqueue.operations import Chosen, Operation, Row, chosen, ids
from pgqueue.operations.claims import WHATEVER, Candidate, Taking, candidates
from pgqueue.queues import by_hand


class Limited(NamedTuple):
    """What was claimed, and seconds until a rate lets the next start."""

    jobs: list[ClaimedJob]
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
    *,
    suspects: bool = False,
    among: Sequence[int] | None = None,
    only_ids: Sequence[int] | None = None,
    **taking: Unpack[Taking],
) -> Operation[Limited]:
    """Claim due jobs of a queue under its limits and those of its keys: suspects that may run together, or all others.

    Args:
        among: as if there were no other jobs than these.
        only_ids: of those that would be claimed, only these.
    """

    def decode(rows: Sequence[Row]) -> Limited:
        if not rows:
            return Limited([], None)
        (wait, *_), *claimed = map(tuple, rows)
        jobs = [ClaimedJob._make((*row[1:], taking["claim_id"])) for row in claimed]
        return Limited(jobs, wait)

    values = _limited(queue, suspects, among) | taking
    values["only_ids"] = None if only_ids is None else list(only_ids)
    return Operation("claim_limited", values, decode)


def look(
    queue: str, *, suspects: bool = False, **taking: Unpack[Taking]
) -> Operation[list[Candidate]]:
    """Which jobs a claim under limits would take."""
    return Operation("look_limited", _limited(queue, suspects, None) | taking, candidates)


def _limited(queue: str, suspects: bool, among: Sequence[int] | None) -> dict[str, object]:
    jobs = None if among is None else list(among)
    return {"queue": queue, "suspects": suspects, "among": jobs, **WHATEVER}


def prune_buckets(*, limit: int = 1000) -> Operation[list[str]]:
    """Delete one batch of token buckets that are full again; returns their names."""
    return Operation("prune_buckets", {"limit": limit}, lambda rows: [row[0] for row in rows])


class Declared(NamedTuple):
    """What code declares of tasks, all that it has, and of queues: by name, then by column."""

    tasks: Mapping[str, Mapping[str, Any]]
    queues: Mapping[str, Mapping[str, Any]]

    def as_json(self) -> str:
        """As the row of a worker has it: of tasks those of which something is said."""
        tasks = {name: each for name, each in sorted(self.tasks.items()) if each}
        queues = dict(sorted(self.queues.items()))
        return json.dumps({"task": tasks, "queue": queues}, ensure_ascii=False)


PATIENCE = 10.0


def declare(
    declared: Declared, *, starting: bool = True, patience: float = PATIENCE
) -> Operation[list[str]]:
    """Write what the code declares, where that differs from what was declared before; returns what was changed.

    Args:
        starting: write all that it names. Otherwise only in place of what no live worker declares any more.
        patience: for so many seconds after something was declared its worker may not be known yet.
    """
    values = {
        "settings": declared.as_json(),
        "tasks": sorted(declared.tasks),
        "starting": starting,
        "patience": patience,
    }
    return Operation("declare_limits", values, lambda rows: [row[0] for row in rows], patient=False)


def key_jobs(*, limit: int = 1000, **which: Unpack[Chosen]) -> Operation[list[int]]:
    """Give pending jobs of tasks under limits the key that they were enqueued without; returns their ids."""
    return Operation("key_jobs", {"limit": limit, **chosen(which)}, ids)


def to_key(*, limit: int = 1000, without: Sequence[int] = ()) -> Operation[list[int]]:
    """The jobs that ``key_jobs`` gives a key."""
    return Operation("jobs_to_key", {"limit": limit, "not_ids": list(without)}, ids)


class Keying(NamedTuple):
    """Are there tasks under limits; and such whose code declares none, so that their jobs come without a key?"""

    any: bool
    by_hand: bool


def keying() -> Operation[Keying]:
    return Operation("limits_by_hand", {}, lambda rows: Keying(*rows[0]))


@dataclass(frozen=True, slots=True)
class LimitRow:
    """The limits of a task's keys or of a queue. ``rate`` in jobs per second.

    ``per``: the argument whose value is the key. ``by_hand``: which of these were set by hand, otherwise than the code says.
    """

    kind: str
    name: str
    max_running: int | None
    rate: float | None
    burst: int | None
    ordered: str | None
    weights: Mapping[str, int] | None
    per: str | None
    by_hand: tuple[str, ...]


def find() -> Operation[list[LimitRow]]:
    """The limits there are."""

    def decode(rows: Sequence[Row]) -> list[LimitRow]:
        return [_limit_row(row) for row in rows]

    return Operation("list_limits", {}, decode)


def _limit_row(row: Row) -> LimitRow:
    weights = None if row[6] is None else json.loads(row[6])
    declared = {} if row[8] is None else json.loads(row[8])
    kind, name, *columns = row[:6]
    now = dict(zip(("max_running", "rate", "burst", "ordered"), columns, strict=True))
    now["weights"] = weights
    return LimitRow(kind, name, **now, per=row[7], by_hand=by_hand(now, declared))


def put(kind: str, name: str, limits: Limits) -> Operation[None]:
    """Set how many of a task's keys or a queue may run at once, and how fast they start."""
    values = {
        "name": name,
        "max_running": limits.max_running,
        "rate": limits.rate,
        "burst": limits.burst,
    }
    return Operation(f"limit_{kind}", values, lambda rows: None)
