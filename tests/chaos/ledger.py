"""What the ledger says of each job, and what must never be. Pure but for ``read``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import psycopg

from tests.chaos.producers import Batch, Fate

FINISHED = frozenset({"succeeded", "dead", "cancelled"})
MUST_BE_ZERO = {
    "lost": "committed, but not finished at the end",
    "unrun": "recorded as succeeded before the run of that claim had ended",
    "recorded_twice": "finished more than once",
    "effects_twice": "effects more than once under transactional completion",
    "effects_missing": "succeeded without the effect of that claim",
    "rolled_back_ran": "run though their transaction was rolled back",
    "overlapped": "runs of one job at once, the first one's lease not over",
    "dead_without_cause": "dead with fewer than max_crashes lapsed leases",
}
MAX_CRASHES = 3
READ = """
    select number, 'outcome', claim_id::text, at, was, became, null::text, worker_id::text, lease_end
      from chaos.outcomes
    union all
    select number, event, claim_id::text, at, null, null, null, null, null from chaos.ledger
    union all
    select number, 'effect', claim_id::text, 0, null, null, null, null, null from chaos.effects
    union all
    select (args ->> 'number')::bigint, 'job', null, 0, null, status, task, null, null
      from pgqueue.jobs
    order by 1
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a claim, or a change of a finished job, as the database's trigger saw it."""

    claim: str | None
    at: float
    was: str
    became: str
    worker: str | None = None
    lease_end: float | None = None

    @property
    def lapsed(self) -> bool:
        """Had the lease run out by then?"""
        return self.lease_end is not None and self.at >= self.lease_end


@dataclass(slots=True)
class History:
    """All that is known of one job. Times in seconds since the epoch; effects, starts
    and ends by claim."""

    number: int
    fate: Fate
    task: str | None = None
    status: str | None = None
    effects: list[str] = field(default_factory=list)
    starts: dict[str, float] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)


def judge(history: History) -> set[str]:
    """Which of ``MUST_BE_ZERO`` happened to this job."""
    found: set[str] = set()
    there = history.status is not None
    if history.fate == "rolled back" and (there or history.starts):
        found.add("rolled_back_ran")
    if not there:
        if history.fate == "committed":
            found.add("lost")
        elif history.starts or history.effects:
            found.add("rolled_back_ran")
    elif history.status not in FINISHED:
        found.add("lost")
    if sum(outcome.became in FINISHED for outcome in history.outcomes) > 1:
        found.add("recorded_twice")
    if len(history.effects) > 1:
        found.add("effects_twice")
    for outcome in history.outcomes:
        if outcome.became == "succeeded":
            found |= _unfounded(history, outcome)
    if history.status == "dead" and sum(o.lapsed for o in history.outcomes) < MAX_CRASHES:
        found.add("dead_without_cause")
    if any(overlaps(history)):
        found.add("overlapped")
    return found


def _unfounded(history: History, success: Outcome) -> set[str]:
    """A success needs the end of its own claim's run, or that claim's effect."""
    if history.task == "effect":
        return set() if success.claim in history.effects else {"effects_missing"}
    ended = history.ends.get(str(success.claim))
    return set() if ended is not None and ended <= success.at else {"unrun"}


def overlaps(history: History) -> Iterator[tuple[str, str]]:
    """Pairs of claims whose runs were at once though the first one's lease had not run out.

    A run is over when it says so; one that could not (its line was lost, it was interrupted) when
    its claim's outcome was recorded. Before the next run starts, the first must be over, or one of
    the two must have lost its lease: a worker that was frozen may still start what it had claimed.
    """
    outcomes = {o.claim: o for o in history.outcomes if o.was == "running"}
    runs = sorted(history.starts.items(), key=itemgetter(1))
    for index, (claim, _) in enumerate(runs):
        outcome = outcomes.get(claim)
        over = history.ends.get(claim, outcome.at if outcome else float("inf"))
        for other, started in runs[index + 1 :]:
            lost = any(o is not None and o.lapsed and o.at <= started
                       for o in (outcome, outcomes.get(other)))  # fmt: skip
            if over > started and not lost:
                yield claim, other


def ran_again(history: History) -> Iterator[tuple[str, float, bool]]:
    """For each worker that lost this job to a lapsed lease: when the job was next started.

    True if it was on its last chance by then, and so had to wait until it could run alone.
    """
    lapses = [each for each in history.outcomes if each.lapsed and each.became == "pending"]
    for outcome in lapses:
        later = [at for at in history.starts.values() if at >= outcome.at]
        if outcome.worker is not None and later:
            crashes = sum(each.at <= min(later) for each in lapses)
            yield outcome.worker, min(later), crashes >= MAX_CRASHES - 1


def histories(batches: Iterable[Batch], events: Iterable[tuple[Any, ...]]) -> Iterator[History]:
    """One history for every number enqueued, from events in order of number."""
    groups = groupby(events, key=itemgetter(0))
    number, group = next(groups, (None, None))
    for batch in sorted(batches, key=lambda batch: batch.first):
        for wanted in range(batch.first, batch.first + batch.count):
            history = History(wanted, batch.fate)
            if number == wanted:
                for event in group or ():
                    _note(history, *event[1:])
                number, group = next(groups, (None, None))
            yield history
    if number is not None:
        raise ValueError(f"the ledger has a number nobody enqueued: {number}")


def _note(
    history: History, kind: str, claim: str | None, at: float, was: str | None,
    became: str | None, task: str | None, worker: str | None, lease_end: float | None,
) -> None:  # fmt: skip
    match kind:
        case "job":
            history.status, history.task = became, task
        case "effect":
            history.effects.append(str(claim))
        case "start":
            history.starts[str(claim)] = min(at, history.starts.get(str(claim), at))
        case "end":
            history.ends[str(claim)] = max(at, history.ends.get(str(claim), at))
        case "outcome":
            history.outcomes.append(Outcome(claim, at, str(was), str(became), worker, lease_end))


def read(dsn: str) -> Iterator[tuple[Any, ...]]:
    """Every event in order of number, from a cursor on the server."""
    with psycopg.connect(dsn) as conn:
        conn.execute("set work_mem = '256MB'")
        with conn.cursor("events") as cursor:
            cursor.itersize = 20_000
            yield from cursor.execute(READ)
