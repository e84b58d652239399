"""One job of a test: from its row to its outcome, and to the statement that records it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pgqueue.app import App
from pgqueue.codec import from_pydantic
from pgqueue.context import Context
from pgqueue.definition import Definition
from pgqueue.errors import ArgumentsError, TaskError
from pgqueue.job import ClaimedJob, JobRow, Status
from pgqueue.operations import Operation, claims
from pgqueue.operations.claims import Finished
from pgqueue.outcome import SUCCEEDED, Outcome, clean, decide
from pgqueue.task import Task

LEASE = 3600.0


@dataclass
class Drained:
    """What a drain did: ids by what became of the jobs. ``errors``: the last error of each that failed."""

    succeeded: list[int] = field(default_factory=list)
    retried: list[int] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)

    def note(self, job: ClaimedJob, outcome: Outcome, status: Status) -> None:
        by_status = {Status.SUCCEEDED: self.succeeded, Status.DEAD: self.dead,
                     Status.CANCELLED: self.cancelled, Status.PENDING: self.retried}  # fmt: skip
        by_status[status].append(job.id)
        if outcome.error_type is not None:
            self.errors[job.id] = f"{outcome.error_type}: {outcome.error}"


def prepared(app: App, job: ClaimedJob) -> tuple[Definition, dict[str, Any]]:
    """The definition and the arguments of a job.

    Raises:
        TaskError: the app does not know the task; a worker would leave it to another.
        ArgumentsError: the stored arguments do not fit.
    """
    definition = app.definition(job.task)
    if definition is None:
        raise TaskError(f"no task {job.task!r} in this app: import the module that defines it")
    return definition, definition.signature.decode(job.args, task=job.task, keys=app.keys)


def judged(
    app: App,
    definition: Definition,
    job: ClaimedJob,
    arguments: dict[str, Any],
    context: Context,
    value: Any,
    error: BaseException | None,
) -> Outcome | None:
    """The outcome of a run; None if it is recorded already."""
    conceal = definition.concealer(app.privacy, job, arguments)
    if error is None:
        outcome = definition.outcome(value, context, conceal)
        return None if context.completed and outcome is SUCCEEDED else outcome
    if context.completed:
        return None
    return decide(
        error,
        attempt=job.attempt,
        retry_on=definition.retry_on,
        backoff=definition.backoff_of(arguments),
        conceal=conceal,
    )


def unreadable(error: ArgumentsError) -> Outcome:
    return Outcome("dead", None, "ArgumentsError", clean(str(error), 8000))


def recording(job: ClaimedJob, outcome: Outcome, began: float) -> Operation[Any]:
    """The statement that records an outcome."""
    finished = [Finished(job.id, job.claim_id, outcome, time.monotonic() - began, False, job)]
    if outcome.kind == "completed":
        return claims.add_results(finished)
    if outcome.kind == "succeeded":
        return claims.complete_with(finished)
    return claims.fail(finished)


def became(job: ClaimedJob, outcome: Outcome | None, recorded: Any) -> Status:
    """The status of a job after its outcome was recorded."""
    if outcome is None or outcome.kind in ("succeeded", "completed"):
        return Status.SUCCEEDED
    status: Status = recorded[job.id].status
    return status


def name_of(task: Task[Any, Any] | type | str) -> str:
    """A task's name, of a task, a job class or the name itself."""
    if isinstance(task, str):
        return task
    definition = getattr(task, "definition", None)
    if not isinstance(definition, Definition):
        raise TaskError(f"a task, a job class or a name is needed, got {task!r}")
    return definition.name


def matches(job: JobRow, arguments: Mapping[str, Any], queue: str | None) -> bool:
    """Does a job have these arguments, among others?"""
    wanted = msgspec.to_builtins(dict(arguments), enc_hook=from_pydantic, str_keys=True)
    given = job.args if isinstance(job.args, dict) else {}
    return (queue is None or job.queue == queue) and all(
        name in given and given[name] == value for name, value in wanted.items()
    )


def complaint(task: str, arguments: Mapping[str, Any], found: list[JobRow], want: str) -> str:
    """What an assertion says: what was looked for, and what there is."""
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    there = "\n".join(f"  {job.task}({job.args}) in queue {job.queue}" for job in found[:20])
    return f"{want} of {task}({shown}); enqueued are:\n{there or '  no jobs'}"


Run = Callable[[ClaimedJob], None]
