"""Operations on the steps of a running job, and on events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Unpack

from pgqueue.checks import check_id, shown
from pgqueue.errors import ConfigError
from pgqueue.job import ClaimedJob
from pgqueue.operations import Chosen, Operation, chosen, ids
from pgqueue.outcome import MESSAGE_LIMIT, clean


def check_step(name: str, what: str = "a step") -> str:
    """Return a name of 1 to 200 printable characters, or raise ConfigError."""
    if not isinstance(name, str) or not 1 <= len(name) <= 200 or not name.isprintable():
        raise ConfigError(
            f"the name of {what} has 1 to 200 printable characters, got {shown(name)}"
        )
    return name


def _held(job: ClaimedJob, name: str) -> dict[str, object]:
    return {"id": job.id, "claim_id": str(job.claim_id), "name": check_step(name)}


class Stored(NamedTuple):
    """What is stored of a step: its kind, whether it is over, JSON text or why there is none.

    ``left``: of a step that failed, the seconds until it is called again.
    """

    kind: str
    over: bool
    result: str | None = None
    error: str | None = None
    events: Sequence[str] | None = None
    left: float | None = None


def stored(job: ClaimedJob) -> Operation[dict[str, Stored]]:
    """What is stored of the steps of a job, by name."""
    return Operation(
        "get_steps", {"id": job.id}, lambda rows: {row[0]: Stored(*row[1:]) for row in rows}
    )


def changed(job_id: int, name: str, found: Stored, wanted: str) -> str:
    """What ``pgqueue.check_step`` says as well."""
    kind = f"a {found.kind}"
    if found.events is not None:
        between = ", " if found.kind == "job" else " or "
        kind = f"a wait for {found.kind} {between.join(found.events)}"
    return (
        f"step {name!r} of job {job_id} is stored as {kind}, and is {wanted} in this code: give what is new"
        f" another name, or do it anew: pgqueue retry {job_id} --from-step {name!r}"
    )


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step of a job. ``kind``: step, sleep, event (a wait for one), message (a wait for one), job (a wait for jobs).

    ``waits_for``: the names of events or messages, or the ids of jobs; ``event``: the one that came. ``error``: it was done, and why what
    it returned could not be stored. A step that failed and has retries left has no ``finished_at``; it has failed
    ``failures`` times, with ``error`` the last time, and is called again from ``wakes_at`` on.
    """

    name: str
    kind: str
    waits_for: str | None
    event: str | None
    event_id: int | None
    wakes_at: datetime | None
    started_at: datetime
    finished_at: datetime | None
    error: str | None
    failures: int


def find(job_id: int) -> Operation[list[StepRow]]:
    """The steps of a job, in the order in which they began."""
    values = {"id": check_id(job_id)}
    return Operation("list_steps", values, lambda rows: [StepRow(*row) for row in rows])


def names(job_id: int) -> Operation[list[str]]:
    """The names of the steps of a job, in the order in which they began: a hundred."""
    return Operation(
        "step_names", {"id": check_id(job_id)}, lambda rows: [str(row[0]) for row in rows]
    )


def save(
    job: ClaimedJob, name: str, result: str | None, *, error: str | None = None, seconds: float = 0
) -> Operation[str | None]:
    """Store what a step returned, once, or why that cannot be stored; what is stored. Raises ClaimLost.

    Args:
        seconds: since it began.
    """
    values = {
        **_held(job, name),
        "result": result,
        "error": None if error is None else clean(error, MESSAGE_LIMIT),
        "seconds": seconds,
    }
    return Operation("save_step", values, lambda rows: rows[0][0])


def fail(
    job: ClaimedJob,
    name: str,
    error: str,
    *,
    max_retries: int,
    backoff: Mapping[str, float] | None,
    seconds: float = 0,
) -> Operation[float | None]:
    """Note that a step failed; in how many seconds to call it again, None if it has no retries left. Raises ClaimLost.

    Args:
        seconds: since it began.
    """
    values = {
        **_held(job, name),
        "error": clean(error, MESSAGE_LIMIT),
        "max_retries": max_retries,
        "backoff": None if backoff is None else json.dumps(dict(backoff)),
        "seconds": seconds,
    }
    return Operation("fail_step", values, lambda rows: rows[0][0])


def sleep(job: ClaimedJob, name: str, seconds: float) -> Operation[float]:
    """Begin a sleep, once; the seconds left, 0 when it is over. Raises ClaimLost."""
    return _sleep(job, name, seconds, None)


def sleep_until(job: ClaimedJob, name: str, until: datetime) -> Operation[float]:
    """Begin a sleep until a time, once; the seconds left, 0 when it is over. Raises ClaimLost."""
    return _sleep(job, name, None, until)


def _sleep(
    job: ClaimedJob, name: str, seconds: float | None, until: datetime | None
) -> Operation[float]:
    values = {**_held(job, name), "seconds": seconds, "moment": until}
    return Operation("start_sleep", values, lambda rows: float(rows[0][0]))


class Awaited(NamedTuple):
    """Whether an event came, which, its payload as JSON text, and the seconds left until the timeout."""

    arrived: bool
    event: str | None
    payload: str | None
    left: float


def wait(
    job: ClaimedJob, name: str, events: Sequence[str], timeout: float, *, sent: bool = False
) -> Operation[Awaited]:
    """Look for the first of some events, and let it wake the job if none has come. Raises ClaimLost.

    Args:
        sent: messages to this job, not events for all.
    """
    if not events:
        raise ConfigError("wait for which events? give a name, or a list of names")
    what = "a message" if sent else "an event"
    values = {
        **_held(job, name),
        "events": [check_step(event, what) for event in dict.fromkeys(events)],
        "timeout": timeout,
        "sent": sent,
    }
    return Operation("await_event", values, lambda rows: Awaited(*rows[0]))


class Ends(NamedTuple):
    """What jobs ended as, as JSON text, once all have; and the seconds left until the timeout."""

    ends: str | None
    left: float


def await_jobs(
    job: ClaimedJob, name: str, job_ids: Sequence[int], timeout: float
) -> Operation[Ends]:
    """Look whether these jobs have ended, and let the end of the last wake this one if not. Raises ClaimLost."""
    values = {
        **_held(job, name),
        "awaited": [check_id(job_id) for job_id in dict.fromkeys(job_ids)],
        "timeout": timeout,
    }
    return Operation("await_jobs", values, lambda rows: Ends(*rows[0]))


def emit(name: str, payload: str) -> Operation[int]:
    """Emit an event with a payload of JSON text; its id."""
    values = {"name": check_step(name, "an event"), "payload": payload}
    return Operation("emit", values, lambda rows: int(rows[0][0]))


def send(job_id: int, name: str, payload: str) -> Operation[int]:
    """Send a message to a job, with a payload of JSON text; its id. Raises JobNotFound."""
    values = {"id": check_id(job_id), "name": check_step(name, "a message"), "payload": payload}
    return Operation("send", values, lambda rows: int(rows[0][0]))


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
