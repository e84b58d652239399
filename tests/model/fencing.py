"""Every state that one job, two workers and the named faults can reach, for each kind of fence.

A breadth-first search without a database. The property: a worker's word is taken only for the claim
it was given for, and a finished job stays finished. Sources of the faults: lost replies and delayed
messages of any network; asynchronous replication, which may lose the last commits at a failover.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import NamedTuple

WORKERS = 2
MOST_CLAIMS = 3
MOST_IN_FLIGHT = 2


class Fence(Enum):
    """What a worker's statement must match to be carried out."""

    NOTHING = auto()
    STATUS = auto()
    ATTEMPT = auto()
    CLAIM_ID = auto()


@dataclass(frozen=True)
class Faults:
    """Which steps the world may take besides the good ones."""

    crash: bool = True
    lost_reply: bool = False
    give_back: bool = False
    admin: bool = False
    failover: bool = False
    unguarded_rescue: bool = False


class Row(NamedTuple):
    """The job in the database. ``claim`` is the truth about who holds it."""

    status: str = "pending"
    attempt: int = 0
    claim: int = 0


class Message(NamedTuple):
    """A statement on its way to the database."""

    kind: str
    attempt: int
    claim: int


FRESH = Row()


@dataclass(frozen=True)
class State:
    """All there is: the row, the standby's row, what workers believe, what is on its way."""

    row: Row = FRESH
    standby: Row = FRESH
    held: tuple[tuple[int, int] | None, ...] = (None,) * WORKERS
    sent: frozenset[Message] = frozenset()
    claims: int = 0
    suspected: bool = False
    failed_over: bool = False
    broken: bool = False


def counterexample(fence: Fence, faults: Faults) -> list[str] | None:
    """The shortest way to break the property; None when no reachable state does."""
    start = State()
    ways: dict[State, list[str]] = {start: []}
    front = [start]
    while front:
        following: list[State] = []
        for state in front:
            for name, after in steps(state, fence, faults):
                if after in ways:
                    continue
                ways[after] = [*ways[state], name]
                if after.broken:
                    return ways[after]
                following.append(after)
        front = following
    return None


def steps(state: State, fence: Fence, faults: Faults) -> Iterator[tuple[str, State]]:
    """Every next state."""
    for worker in range(WORKERS):
        yield from _worker_steps(state, worker, faults)
    for message in state.sent:
        rest = replace(state, sent=state.sent - {message})
        yield f"{message.kind} arrives", _deliver(rest, message, fence)
        if message.kind == "give back":  # repeated until answered
            yield f"{message.kind} arrives, reply lost", _deliver(state, message, fence)
    yield from _rescue_steps(state, faults)
    if faults.admin and state.row.status == "dead":
        yield "admin retries", replace(state, row=state.row._replace(status="pending", attempt=0))
    if faults.failover and not state.failed_over:
        yield "replicate", replace(state, standby=state.row)
        yield "fail over", replace(state, row=state.standby, failed_over=True)


def _worker_steps(state: State, worker: int, faults: Faults) -> Iterator[tuple[str, State]]:
    held = state.held[worker]
    if held is None:
        if state.row.status == "pending" and state.claims < MOST_CLAIMS:
            yield from _claims(state, worker, faults)
        return
    if faults.crash:
        yield f"worker {worker} crashes", _holding(state, worker, None)
    if len(state.sent) < MOST_IN_FLIGHT:
        for kind in ("complete", "give back") if faults.give_back else ("complete",):
            idle = _holding(state, worker, None)
            yield (
                f"worker {worker} sends {kind}",
                replace(idle, sent=state.sent | {Message(kind, *held)}),
            )


def _claims(state: State, worker: int, faults: Faults) -> Iterator[tuple[str, State]]:
    claim = state.claims + 1
    row = Row("running", state.row.attempt + 1, claim)
    claimed = replace(state, row=row, claims=claim)
    yield f"worker {worker} claims", _holding(claimed, worker, (row.attempt, claim))
    if faults.lost_reply and len(state.sent) < MOST_IN_FLIGHT:
        undo = Message("give back", row.attempt, claim)
        yield f"worker {worker} claims, reply lost", replace(claimed, sent=state.sent | {undo})


def _rescue_steps(state: State, faults: Faults) -> Iterator[tuple[str, State]]:
    if faults.unguarded_rescue:
        if state.row.status == "running":
            yield "rescuer sees the lapsed lease", replace(state, suspected=True)
        if state.suspected:
            again = replace(state, row=state.row._replace(status="pending"), suspected=False)
            yield "rescue", replace(again, broken=state.row.status == "succeeded")
    elif state.row.status == "running":
        yield "lease lapses, rescue", replace(state, row=state.row._replace(status="pending"))
        if faults.admin:
            yield "lease lapses, dead", replace(state, row=state.row._replace(status="dead"))


def _deliver(state: State, message: Message, fence: Fence) -> State:
    row = state.row
    accepted = {
        Fence.NOTHING: row.status != "succeeded",
        Fence.STATUS: row.status == "running",
        Fence.ATTEMPT: row.status == "running" and row.attempt == message.attempt,
        Fence.CLAIM_ID: row.status == "running" and row.claim == message.claim,
    }[fence]
    if not accepted:
        return state
    stale = row.status != "running" or row.claim != message.claim
    if message.kind == "complete":
        after = row._replace(status="succeeded")
    else:
        after = row._replace(status="pending", attempt=row.attempt - 1)
    return replace(state, row=after, broken=stale)


def _holding(state: State, worker: int, held: tuple[int, int] | None) -> State:
    return replace(state, held=(*state.held[:worker], held, *state.held[worker + 1 :]))
