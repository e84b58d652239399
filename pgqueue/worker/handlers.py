"""Calls the handler of a job where it belongs: on the loop, in a thread or in a process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
)
from contextvars import copy_context
from dataclasses import replace
from typing import Any

from pgqueue.context import Context
from pgqueue.control import Cancel
from pgqueue.definition import Definition
from pgqueue.errors import ArgumentsError, KeyMissing
from pgqueue.hooks import AroundRun
from pgqueue.job import ClaimedJob
from pgqueue.outcome import MESSAGE_LIMIT, SUCCEEDED, Outcome, clean, decide, describe
from pgqueue.privacy import Privacy
from pgqueue.worker.database import DatabaseTrouble
from pgqueue.worker.processes import HandlerFailed, Processes
from pgqueue.worker.run import Deadline, Run, interrupted, say
from pgqueue.worker.unknown import Unknown

log = logging.getLogger("pgqueue.job")

RESULTS_AGAIN = 1.0  # seconds


class Handlers:
    """Turns a run into its outcome."""

    def __init__(
        self,
        *,
        longest: Callable[[str], float | None],
        definition: Callable[[str], Definition | None],
        make_context: Callable[[ClaimedJob], Context],
        threads: ThreadPoolExecutor,
        processes: Processes,
        privacy: Privacy,
        results: Callable[[int | None, list[str]], Awaitable[dict[str, Any]]],
        around: Sequence[AroundRun] = (),
    ) -> None:
        self._around, self._results = around, results
        self._longest = longest
        self._definition = definition
        self._make_context = make_context
        self._threads = threads
        self._processes = processes
        self._privacy = privacy
        self._unknown = Unknown()
        self._loop = asyncio.get_running_loop()

    async def outcome(self, run: Run) -> Outcome | None:
        """Run the handler; None when the job is recorded already, or no longer ours."""
        job = run.job
        definition = run.definition = self._definition(job.task)
        run.started_at = time.monotonic()
        if definition is None:
            return self._unknown.met(job.task, f"no task {job.task!r} in this worker")
        try:
            if wanted := job.wants:
                job = job.filled(await self._results(job.workflow_id, wanted))
                if run.reason is not None:  # cancelled or stopped meanwhile: nothing has begun
                    return interrupted(run.reason, None)
                run.started_at = time.monotonic()
            arguments = self._arguments(definition, job)
        except DatabaseTrouble:
            return Outcome("snooze", RESULTS_AGAIN)
        except asyncio.CancelledError:
            if run.reason is None:
                raise
            return interrupted(run.reason, None)
        except KeyMissing as error:
            return self._unknown.met(job.task, f"arguments of task {job.task!r}: {error}")
        except ArgumentsError as error:
            return Outcome("dead", None, "ArgumentsError", clean(str(error), MESSAGE_LIMIT))
        context = run.context = self._make_context(job)
        timeout = definition.timeout or self._longest(job.queue)
        timer = Deadline(self._loop, run, timeout) if timeout else None
        try:
            call = self._call_around if self._around else self._call
            value, raised = await call(run, definition, context, arguments, job)
        finally:
            if timer is not None:
                timer.cancel()
        if context.completed and raised is not None:
            say(log, logging.ERROR, run, "%s after its completion was committed",
                describe(raised)[0])  # fmt: skip
            return None
        if raised is None:
            return self._ended(value, definition, context, arguments, job)
        if run.reason is not None and isinstance(raised, asyncio.CancelledError | Cancel):
            return interrupted(run.reason, timeout)
        outcome = self._decide(raised, definition, arguments, job)
        if context.logged is None:
            return outcome
        conceal = definition.concealer(self._privacy, job, arguments)
        return replace(outcome, log=definition.log_of(context, conceal))

    def _arguments(self, definition: Definition, job: ClaimedJob) -> dict[str, Any]:
        return definition.signature.decode(job.args, task=job.task, keys=self._privacy.keys)

    def _ended(
        self,
        value: Any,
        definition: Definition,
        context: Context,
        arguments: dict[str, Any],
        job: ClaimedJob,
    ) -> Outcome | None:
        if isinstance(value, Outcome):  # decided in a process
            outcome = value
        elif (
            definition.result
            or context.logged is not None
            or job.workflow_id is not None
            or context.stepped
        ):
            conceal = definition.concealer(self._privacy, job, arguments)
            outcome = definition.outcome(value, context, conceal)
        else:
            outcome = SUCCEEDED
        if context.completed:
            return outcome if outcome.kind == "completed" else None
        return outcome

    def in_process(self, task: str) -> bool:
        """Does this task run in a process?"""
        definition = self._definition(task)
        return definition is not None and definition.run == "process"

    def failed(self, run: Run, error: BaseException) -> Outcome:
        """The outcome of a run that did not reach one, by a bug of ours or of its task."""

        def conceal(text: str) -> str:
            if run.definition is None or run.context is None:  # nothing has read the arguments yet
                return text
            return run.definition.concealer(self._privacy, run.job, {})(text)

        return Outcome("retry", None, *describe(error, conceal))

    async def _call_around(
        self,
        run: Run,
        definition: Definition,
        context: Context,
        arguments: dict[str, Any],
        job: ClaimedJob,
    ) -> tuple[Any, BaseException | None]:
        value = None
        try:
            async with AsyncExitStack() as stack:
                inside: list[AbstractContextManager[Any]] = []
                for around in self._around:
                    manager = around(context)
                    if isinstance(manager, AbstractAsyncContextManager):
                        await stack.enter_async_context(manager)
                    elif definition.run == "thread":
                        inside.append(manager)  # entered in the thread
                    else:
                        stack.enter_context(manager)
                value, raised = await self._call(run, definition, context, arguments, job, inside)
                if raised is not None:
                    raise raised
        except BaseException as error:
            return None, error
        return value, None

    async def _call(
        self,
        run: Run,
        definition: Definition,
        context: Context,
        arguments: dict[str, Any],
        job: ClaimedJob,
        inside: Sequence[AbstractContextManager[Any]] = (),
    ) -> tuple[Any, BaseException | None]:
        try:
            if definition.run == "async":
                return await definition.invoke(context, arguments), None
            if definition.run == "thread":
                run.queued = True
                return await self._loop.run_in_executor(
                    self._threads,
                    copy_context().run,
                    _caught,
                    run,
                    definition,
                    context,
                    arguments,
                    inside,
                )
            run.queued = True
            outcome, context.completed = await self._processes.call(definition, job, run.begin)
            return (SUCCEEDED if outcome == SUCCEEDED else outcome), None
        except BaseException as error:
            return None, error

    def _decide(
        self,
        error: BaseException,
        definition: Definition,
        arguments: dict[str, Any],
        job: ClaimedJob,
    ) -> Outcome:
        if type(error) is HandlerFailed:
            return error.outcome
        return decide(
            error,
            attempt=job.attempt,
            retry_on=definition.retry_on,
            backoff=definition.backoff_of(arguments),
            conceal=definition.concealer(self._privacy, job, arguments),
        )


def _caught(
    run: Run,
    definition: Definition,
    context: Context,
    arguments: dict[str, Any],
    inside: Sequence[AbstractContextManager[Any]],
) -> tuple[Any, BaseException | None]:
    """What the handler returned or raised: a future would never end with a StopIteration."""
    run.begin()
    try:
        if not inside:
            return definition.invoke(context, arguments), None
        value = None
        with ExitStack() as stack:
            for manager in inside:
                stack.enter_context(manager)
            value = definition.invoke(context, arguments)
        return value, None
    except BaseException as error:
        return None, error
