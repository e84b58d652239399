"""Calls the handler of a job where it belongs: on the loop, in a thread or in a process."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    nullcontext,
)
from contextvars import copy_context
from dataclasses import replace
from typing import Any

from pgqueue.context import Context, awaited, called
from pgqueue.definition import Definition, completed
from pgqueue.errors import ArgumentsError, KeyMissing, UnknownArguments
from pgqueue.hooks import AroundRun
from pgqueue.job import ClaimedJob
from pgqueue.outcome import MESSAGE_LIMIT, RELEASED, Outcome, clean, describe
from pgqueue.privacy import Privacy
from pgqueue.returned import checked, ended
from pgqueue.worker.database import DatabaseTrouble
from pgqueue.worker.deadlines import Deadlines
from pgqueue.worker.processes import HandlerFailed, Processes
from pgqueue.worker.run import Run, interrupted, interruption, say
from pgqueue.worker.tracebacks import clear_locals, clear_tracebacks
from pgqueue.worker.unknown import Unknown

log = logging.getLogger("pgqueue.job")

_NOTHING: AbstractContextManager[Any] = nullcontext()
RESULTS_AGAIN = 1.0  # seconds
LATE = "TimeoutExceeded"
GOES_ON = {
    "thread": "its thread cannot be stopped and was still running",
    "async": "it was cancelled, and was still running",
}


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
        unknown: Unknown,
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
        self._unknown = unknown
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._loop)

    async def outcome(self, run: Run) -> Outcome | None:
        """Run the handler; None when the job is recorded already, or no longer ours."""
        definition = run.definition = self._definition(run.job.task)
        if definition is None:
            return self._unknown.task(run.job.task)
        run.started_at = time.monotonic()
        job = run.job
        try:
            if job.wants:
                job = await self._filled(run)
            arguments = self._arguments(definition, job)
        except (DatabaseTrouble, KeyMissing, ArgumentsError, asyncio.CancelledError) as error:
            return self._unread(run, error)
        context = run.context = self._make_context(job)
        context.enter()
        timeout = self._timeout(definition, job)
        if timeout:
            self._deadlines.add(run, timeout)
        try:
            call = self._call_around if self._around else self._call
            value, raised = await call(run, definition, context, arguments, job)
        finally:
            context.over = True
            context.main = None  # the task, whose context variables have this context: a circle for the garbage collector
            if timeout:
                self._deadlines.remove(run)
        outcome: Outcome | None
        try:
            if definition.run == "process" and value is not None:  # decided there
                outcome = value
            elif raised is not None and interruption(run.reason, raised):
                outcome = self._interrupted(run, context, timeout)
            elif type(raised) is HandlerFailed:
                outcome = raised.outcome
            elif definition.run == "process" and isinstance(raised, UnknownArguments):
                outcome = self._unknown.arguments(job.task, raised)
            else:
                outcome = definition.judge(
                    value, raised, job=job, arguments=arguments, context=context, privacy=self._privacy
                )  # fmt: skip
        finally:
            if raised is not None:
                clear_tracebacks(raised)
        if run.reason == "timeout" and timeout is not None and raised is None:
            return self._late(run, outcome, timeout)
        if outcome is not None and outcome.kind == "completed" and outcome.error_type is not None:
            say(log, logging.ERROR, run, "%s after its completion was %s", outcome.error_type,
                "committed" if context.committed else "sent")  # fmt: skip
        return outcome

    def _timeout(self, definition: Definition, job: ClaimedJob) -> float | None:
        return definition.timeout or self._longest(job.queue)

    def given_up(self, run: Run) -> Outcome | None:
        """The outcome of a run that was asked to end, and whose handler goes on."""
        definition, context = run.definition, run.context
        if definition is None or context is None:  # it has not begun
            return RELEASED if run.reason is None else interrupted(run.reason, None)
        outcome = self._interrupted(run, context, self._timeout(definition, run.job))
        if outcome is None:
            return None
        if (told := outcome.otherwise or outcome).error_type is None:
            return outcome
        goes_on = GOES_ON["thread" if definition.run == "thread" else "async"]
        told = replace(told, error=f"{told.error}; {goes_on}")
        return told if outcome.otherwise is None else replace(outcome, otherwise=told)

    @staticmethod
    def _interrupted(run: Run, context: Context, timeout: float | None) -> Outcome | None:
        """The outcome of a run that this worker ended, whatever its handler made of it."""
        outcome = None if run.reason is None else interrupted(run.reason, timeout)
        if context.completed or context.doubtful:
            return completed(outcome or RELEASED, context)
        return outcome

    @staticmethod
    def _late(run: Run, outcome: Outcome | None, timeout: float) -> Outcome | None:
        """It ended well, but could not be stopped when its time was over: say so."""
        if outcome is None or outcome.kind not in ("succeeded", "completed"):
            return outcome
        text = f"it returned after {run.seconds():.3g} s, and its timeout is {timeout:g} s"
        say(log, logging.WARNING, run, "succeeded late: %s", text)
        error = "; ".join(filter(None, (f"{LATE}: {text}", outcome.error)))
        return replace(outcome, error=error)

    async def _filled(self, run: Run) -> ClaimedJob:
        """The job with the results that it takes."""
        job = run.job.filled(await self._results(run.job.workflow_id, run.job.wants))
        if run.reason is not None:  # cancelled or stopped meanwhile: nothing has begun
            raise asyncio.CancelledError
        run.started_at = time.monotonic()
        return job

    def _unread(self, run: Run, error: BaseException) -> Outcome | None:
        """The outcome of a job whose arguments cannot be had, or not yet."""
        match error:
            case asyncio.CancelledError():
                if run.reason is None:
                    raise error
                return interrupted(run.reason, None)
            case KeyMissing():
                outcome = self._unknown.key(run.job.task, error)
            case UnknownArguments():
                outcome = self._unknown.arguments(run.job.task, error)
            case ArgumentsError():
                return Outcome("dead", None, "ArgumentsError", clean(str(error), MESSAGE_LIMIT))
            case _:  # trouble with the database, which has the results that it takes
                outcome = Outcome("snooze", RESULTS_AGAIN)
        run.started_at = 0.0
        return outcome

    def _arguments(self, definition: Definition, job: ClaimedJob) -> dict[str, Any]:
        return definition.signature.decode(job.args, task=job.task, keys=self._privacy.keys)

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
        value = raised = None
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
        if raised is not None:  # a manager swallowed it
            clear_tracebacks(raised)
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
        if definition.run == "async":
            value: Any = None
            raised: BaseException | None = None
            context.main = run.task
            try:
                value = await definition.invoke(context, arguments)
                if value is not None:
                    value = await ended(value)
            except BaseException as error:
                value, raised = None, error
            return (
                (value, raised)
                if context.running_steps is None
                else await context.running_steps.end(value, raised)
            )
        run.queued = True
        try:
            if definition.run == "thread":
                return await self._loop.run_in_executor(
                    self._threads,
                    copy_context().run,
                    self._caught,
                    run,
                    definition,
                    context,
                    arguments,
                    inside,
                )
            return await self._processes.call(definition, job, context, run.begin), None
        except BaseException as error:
            return None, error

    def _caught(
        self,
        run: Run,
        definition: Definition,
        context: Context,
        arguments: dict[str, Any],
        inside: Sequence[AbstractContextManager[Any]],
    ) -> tuple[Any, BaseException | None]:
        """What the handler returned or raised: a future would never end with a StopIteration."""
        run.begin()
        try:
            with ExitStack() if inside else _NOTHING as stack:
                for manager in inside:
                    stack.enter_context(manager)
                value, raised = called(
                    context, lambda: self._ended_on_loop(run, definition.invoke(context, arguments))
                )
                if raised is not None:
                    raise raised
                return value, None
            return None, None  # a manager swallowed it
        except BaseException as error:
            if len(inside) == len(self._around):  # no manager on the loop is to see it
                clear_locals(error)
            return None, error

    def _ended_on_loop(self, run: Run, value: Any) -> Any:
        """In a thread: what it returned, awaited on the worker's loop if it is to be awaited."""
        if not inspect.isawaitable(value):
            return checked(value)

        async def caught() -> tuple[Any, BaseException | None]:
            run.awaits = asyncio.current_task()
            if run.reason is not None:
                run.interrupt(run.reason)
            assert run.context is not None
            return await awaited(run.context, value)

        result, raised = asyncio.run_coroutine_threadsafe(caught(), self._loop).result()
        if raised is not None:
            raise raised
        return result
