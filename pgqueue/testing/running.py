"""One job of a test: from its row to its outcome, and to the statement that records it."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pgqueue.app import App
from pgqueue.codec import from_pydantic, opened
from pgqueue.context import Context, called
from pgqueue.context import awaited as context_awaited
from pgqueue.definition import Definition
from pgqueue.errors import ArgumentsError, TaskError
from pgqueue.job import ClaimedJob, JobRow, Status
from pgqueue.operations import Operation, claims
from pgqueue.operations.claims import Finished
from pgqueue.outcome import SUCCEEDED, Outcome, clean
from pgqueue.returned import checked
from pgqueue.task import Task
from pgqueue.testing.sharing import awaited
from pgqueue.text import nearest

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


def caught(context: Context, call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a handler returned or raised, in a context of its own; an awaitable is awaited to its end."""

    def to_its_end() -> Any:
        value = call()
        if not inspect.isawaitable(value):
            return checked(value)
        value, raised = awaited(context_awaited(context, value))
        if raised is not None:
            raise raised
        return value

    value, raised = copy_context().run(called, context, to_its_end)
    if isinstance(raised, KeyboardInterrupt):  # of whoever runs the tests
        raise raised
    return value, raised


async def acaught(context: Context, call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """The same on the running event loop, in a task of its own."""

    async def run() -> tuple[Any, BaseException | None]:
        return await context_awaited(context, call())

    value, raised = await asyncio.create_task(run())
    this = asyncio.current_task()
    if isinstance(raised, KeyboardInterrupt):
        raise raised
    if isinstance(raised, asyncio.CancelledError) and this is not None and this.cancelling():
        raise raised  # the test was cancelled, and so its handler
    return value, raised


def definition_of(app: App, task: Task[Any, Any] | type | str) -> Definition | None:
    """A task's definition, of a task, a job class or a name; None for a name that the app does not have."""
    if isinstance(task, str):
        return app.definition(task)
    definition = getattr(task, "definition", None)
    if not isinstance(definition, Definition):
        raise TaskError(f"a task, a job class or a name is needed, got {task!r}")
    return definition


def of_task(app: App, task: Task[Any, Any] | type | str, jobs: Sequence[JobRow]) -> list[JobRow]:
    """The jobs of a task, by whichever of its names.

    Raises:
        TaskError: neither the app nor any of these jobs has a task of this name.
    """
    definition = definition_of(app, task)
    names = {task} if definition is None else {definition.name, *definition.aliases}
    found = [job for job in jobs if job.task in names]
    if definition is None and not found:
        raise TaskError(
            f"no task {task!r} in this app{nearest(str(task), sorted(app.names()))}; if it is in another module"
            " of yours, import that"
        )
    return found


def check_arguments(definition: Definition | None, arguments: Mapping[str, Any]) -> None:
    """Refuse names that the task does not take: no job has such arguments, so what is said of them means nothing.

    Raises:
        ArgumentsError: there is one.
    """
    known = () if definition is None else definition.signature.names
    for name in arguments:
        if definition is not None and name not in known:
            takes = f"It takes {', '.join(known)}" if known else "It takes none"
            near = nearest(name, known) or ";"
            raise ArgumentsError(f"{definition.name} has no argument {name!r}{near} {takes}")


def matches(job: JobRow, arguments: Mapping[str, Any], queue: str | None, app: App) -> bool:
    """Does a job have these arguments, among others? Encrypted ones are decrypted."""
    if queue is not None and job.queue != queue:
        return False
    wanted = msgspec.to_builtins(dict(arguments), enc_hook=from_pydantic, str_keys=True)
    given = job.args if isinstance(job.args, dict) else {}
    if wanted.keys() & given.keys():
        given = json.loads(opened(json.dumps(given), task=job.task, keys=app.keys))
    return all(name in given and given[name] == value for name, value in wanted.items())


def complaint(task: str, arguments: Mapping[str, Any], found: list[JobRow], want: str) -> str:
    """What an assertion says: what was looked for, and what there is."""
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    there = "\n".join(f"  {job.task}({job.args}) in queue {job.queue}" for job in found[:20])
    return f"{want} of {task}({shown}); enqueued are:\n{there or '  no jobs'}"


Run = Callable[[ClaimedJob], None]
