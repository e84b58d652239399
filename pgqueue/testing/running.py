"""One job of a test: from its row to its outcome, and to the statement that records it."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Generator, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pgqueue.app import App
from pgqueue.codec import from_pydantic
from pgqueue.definition import Definition
from pgqueue.errors import ArgumentsError, TaskError
from pgqueue.job import ClaimedJob, JobRow, Status
from pgqueue.operations import Operation, claims
from pgqueue.operations.claims import Finished
from pgqueue.outcome import SUCCEEDED, Outcome, clean
from pgqueue.returned import checked, ended
from pgqueue.task import Task
from pgqueue.testing.sharing import awaited

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


def unreadable(error: ArgumentsError) -> Outcome:
    return Outcome("dead", None, "ArgumentsError", clean(str(error), 8000))


def recording(
    job: ClaimedJob, outcome: Outcome, began: float
) -> Generator[Operation[Any], Any, tuple[Outcome, Status]]:
    """The statements that record an outcome, each sent its answer; returns what was recorded, and the status."""

    def finished() -> list[Finished]:
        return [Finished(job.id, job.claim_id, outcome, time.monotonic() - began, False, job)]

    if outcome.kind == "completed":
        became = (yield claims.recorded(finished()))[job.id] if outcome.otherwise else "succeeded"
        if became != "held" or outcome.otherwise is None:
            yield claims.add_results(finished())
            return SUCCEEDED, Status.SUCCEEDED
        outcome = outcome.otherwise
    if outcome.kind == "succeeded":
        yield claims.complete_with(finished())
        return outcome, Status.SUCCEEDED
    recorded = yield claims.fail(finished())
    return outcome, recorded[job.id].status


def caught(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a handler returned or raised, in a context of its own; an awaitable is awaited to its end."""

    def run() -> Any:
        value = call()
        return awaited(ended(value)) if inspect.isawaitable(value) else checked(value)

    try:
        return copy_context().run(run), None
    except KeyboardInterrupt:  # of whoever runs the tests
        raise
    except BaseException as error:
        return None, error


async def acaught(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """The same on the running event loop, in a task of its own."""

    async def run() -> tuple[Any, BaseException | None]:
        try:
            return await ended(call()), None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return None, error

    value, raised = await asyncio.create_task(run())
    this = asyncio.current_task()
    if isinstance(raised, asyncio.CancelledError) and this is not None and this.cancelling():
        raise raised  # the test was cancelled, and so its handler
    return value, raised


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
