"""Operations on the steps of a running job, and on events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Unpack

from pgqueue.checks import check_id, shown
from pgqueue.errors import ConfigError
from pgqueue.job import ClaimedJob
from pgqueue.operations import Chosen, Operation, chosen, ids


def check_step(name: str, what: str = "a step") -> str:
    """Return a name of 1 to 200 printable characters, or raise ConfigError."""
    if not isinstance(name, str) or not 1 <= len(name) <= 200 or not name.isprintable():
        raise ConfigError(
            f"the name of {what} has 1 to 200 printable characters, got {shown(name)}"
        )
    return name


def _held(job: ClaimedJob, name: str) -> dict[str, object]:
    return {"id": job.id, "claim_id": str(job.claim_id), "name": check_step(name)}


def stored(job: ClaimedJob) -> Operation[dict[str, str]]:
    """What the finished steps of a job returned, JSON text by name."""
    return Operation("get_steps", {"id": job.id}, lambda rows: {row[0]: row[1] for row in rows})


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step of a job; with ``event`` a wait for one, with only ``wakes_at`` a sleep."""

    name: str
    event: str | None
    event_id: int | None
    wakes_at: datetime | None
    started_at: datetime
    finished_at: datetime | None


def find(job_id: int) -> Operation[list[StepRow]]:
    """The steps of a job, in the order in which they began."""
    values = {"id": check_id(job_id)}
    return Operation("list_steps", values, lambda rows: [StepRow(*row) for row in rows])


def save(job: ClaimedJob, name: str, result: str) -> Operation[str]:
    """Store what a step returned, once; what is stored. Raises ClaimLost."""
    values = {**_held(job, name), "result": result}
    return Operation("save_step", values, lambda rows: str(rows[0][0]))


def sleep(job: ClaimedJob, name: str, seconds: float) -> Operation[float]:
    """Begin a sleep, once; the seconds left, 0 when it is over. Raises ClaimLost."""
    values = {**_held(job, name), "seconds": seconds}
    return Operation("start_sleep", values, lambda rows: float(rows[0][0]))


class Awaited(NamedTuple):
    """Whether the event came, its payload as JSON text, and the seconds left until the timeout."""

    arrived: bool
    payload: str | None
    left: float


def wait(job: ClaimedJob, name: str, event: str, timeout: float) -> Operation[Awaited]:
    """Look for an event, and let it wake the job if it has not come. Raises ClaimLost."""
    values = {**_held(job, name), "event": check_step(event, "an event"), "timeout": timeout}
    return Operation("await_event", values, lambda rows: Awaited(*rows[0]))


def emit(name: str, payload: str) -> Operation[int]:
    """Emit an event with a payload of JSON text; its id."""
    values = {"name": check_step(name, "an event"), "payload": payload}
    return Operation("emit", values, lambda rows: int(rows[0][0]))


def deliver(*, limit: int = 1000, **which: Unpack[Chosen]) -> Operation[int]:
    """Wake the jobs that wait for events that nobody has delivered; how many."""
    values = {"limit": limit, **chosen(which)}
    return Operation("deliver_events", values, lambda rows: int(rows[0][0]))


def to_wake(*, limit: int = 1000, without: Sequence[int] = ()) -> Operation[list[int]]:
    """The jobs that ``deliver`` wakes."""
    return Operation("jobs_to_wake", {"limit": limit, "not_ids": list(without)}, ids)


def mark_delivered(*, limit: int = 1000) -> Operation[list[int]]:
    """Events for which no job needs to be woken any more are delivered; which."""
    return Operation("mark_delivered", {"limit": limit}, ids)


def prune_events(*, age: float, limit: int = 1000, **which: Unpack[Chosen]) -> Operation[list[int]]:
    """Delete one batch of delivered events that are older than ``age`` seconds."""
    return Operation("prune_events", {"age": age, "limit": limit, **chosen(which)}, ids)


def old_events(*, age: float, limit: int = 1000, **which: Unpack[Chosen]) -> Operation[list[int]]:
    """The events that ``prune_events`` deletes."""
    return Operation("old_events", {"age": age, "limit": limit, **chosen(which)}, ids)
