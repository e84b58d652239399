"""What the ledger says of each job, and what must never be. Pure but for ``read``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import psycopg

from pgqueue.worker.database import PATIENCE
from tests.chaos.faults import Fault
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
    "needless_runs": "runs that no failure, no lapsed lease and no fault explains",
    "false_crashes": "leases that ran out though nothing had struck their worker",
    "wrong_outcomes": "handlers that ended well and are recorded otherwise",
    "late_outcomes": "outcomes recorded more than a lease after the handler had ended, with no fault meanwhile",
}
MAX_CRASHES = 3
# A fault has consequences for a while: connections are made anew, what waited is worked off.
AFTERMATH = 3.0
# After these a statement hangs on a connection that looks alive, for as long as a worker has patience; a lease that is
# shorter, as that of a test, may run out meanwhile.
HALF_OPEN = frozenset({"blackhole", "drop_replies"})
# These strike one worker; every other one strikes all, or somebody who cannot be told.
OF_ONE_WORKER = frozenset({"kill", "stop"})
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
    how: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)


def aftermath(fault: Fault) -> float:
    """Seconds for which it has consequences when it is over."""
    return AFTERMATH + (PATIENCE if fault.kind in HALF_OPEN else 0.0)


@dataclass(frozen=True)
class Faults:
    """What struck, so that its consequences are told from our own faults."""

    struck: Sequence[Fault] = ()
    lease: float = 5.0

    def any(self, since: float, until: float) -> bool:
        """Did anything strike anybody, or have its aftermath, in this time?"""
        return any(f.began <= until and f.over + aftermath(f) >= since for f in self.struck)

    def lost_its_worker(self, outcome: Outcome) -> bool:
        """Did anything keep the worker from renewing the lease that this outcome ended?"""
        if outcome.lease_end is None:
            return False
        since, until = outcome.lease_end - self.lease, outcome.at
        return any(
            f.began <= until and f.over + aftermath(f) >= since
            and (f.kind not in OF_ONE_WORKER or not f.workers or outcome.worker in f.workers)
            for f in self.struck
        )  # fmt: skip


def judge(history: History, faults: Faults | None = None) -> set[str]:
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
    # Retried by an operator, it may finish once more.
    finishes = sum(o.became in FINISHED for o in history.outcomes if o.was not in FINISHED)
    changed = sum(o.was in FINISHED and o.became in FINISHED for o in history.outcomes)
    retried = sum(o.was in FINISHED and o.became not in FINISHED for o in history.outcomes)
    if finishes > 1 + retried or changed:
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
    for outcome in history.outcomes:
        if outcome.was == "running":
            found |= _needless(history, outcome, faults or Faults())
    return found


def _needless(history: History, outcome: Outcome, faults: Faults) -> set[str]:
    """What the end of a claim says that nothing but a fault of our own explains."""
    found: set[str] = set()
    claim = str(outcome.claim)
    started, ended, how = history.starts.get(claim), history.ends.get(claim), history.how.get(claim)
    if outcome.lapsed and not faults.lost_its_worker(outcome):
        found.add("false_crashes")
    if started is None:  # given back before it ran, or its line was lost
        return found
    if how == "done" and outcome.became != "succeeded" and not outcome.lapsed:
        found.add("wrong_outcomes")
    late = how == "done" and ended is not None and outcome.at - ended > faults.lease
    if late and not faults.any(ended or 0.0, outcome.at):
        found.add("late_outcomes")
    if outcome.became == "pending" and not outcome.lapsed:
        expected = (
            (history.task == "flaky" and how == "failed")
            or (history.task == "durable" and how == "stopped")
            or faults.any(started, outcome.at)
        )
        if not expected:
            found.add("needless_runs")
    return found


def _unfounded(history: History, success: Outcome) -> set[str]:
    """A success needs the end of its own claim's run, or that claim's effect."""
    if history.task == "durable":
        return set() if history.effects else {"effects_missing"}
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
        case "done" | "failed":
            history.ends[str(claim)] = max(at, history.ends.get(str(claim), at))
            history.how.setdefault(str(claim), kind)
        case "stopped" | "unsure":
            history.how[str(claim)] = kind
        case "outcome":
            history.outcomes.append(Outcome(claim, at, str(was), str(became), worker, lease_end))


def read(dsn: str) -> Iterator[tuple[Any, ...]]:
    """Every event in order of number, from a cursor on the server."""
    with psycopg.connect(dsn) as conn:
        conn.execute("set work_mem = '256MB'")
        with conn.cursor("events") as cursor:
            cursor.itersize = 20_000
            yield from cursor.execute(READ)
