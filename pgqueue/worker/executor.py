"""Runs claimed jobs, up to its concurrency, and hands over what became of each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pgqueue.context import Context
from pgqueue.control import Cancel
from pgqueue.errors import ArgumentsError
from pgqueue.job import ClaimedJob
from pgqueue.operations.claims import Finished
from pgqueue.outcome import RELEASED, SUCCEEDED, Outcome, decide, describe
from pgqueue.task import Definition
from pgqueue.worker.processes import Processes
from pgqueue.worker.run import Run, interrupted

log = logging.getLogger("pgqueue.job")

UNKNOWN_DELAY = 10.0
REPORT_UNKNOWN_EVERY = 60.0
PREFETCH_SECONDS = 0.05


class Executor:
    """Holds claimed jobs, runs ``concurrency`` at a time, reports through ``finished``."""

    def __init__(
        self,
        *,
        concurrency: int,
        prefetch: int | None,
        default_timeout: float | None,
        definition: Callable[[str], Definition | None],
        make_context: Callable[[ClaimedJob], Context],
        threads: ThreadPoolExecutor,
        processes: Processes,
        wake: Callable[[], None],
        budget: Callable[[], int | None],
    ) -> None:
        self.concurrency = concurrency
        self.held: dict[int, Run] = {}
        self.ended: list[Finished] = []
        self.taken = 0
        self.count = 0
        self._waiting: deque[Run] = deque()
        self._running = 0
        self._prefetch = prefetch
        self._average: float | None = None
        self._default_timeout = default_timeout
        self._definition = definition
        self._make_context = make_context
        self._threads = threads
        self._processes = processes
        self._wake = wake
        self._budget = budget
        self._loop = asyncio.get_running_loop()
        self._reported: dict[str, float] = {}
        self._accepting = True

    def room(self) -> int:
        """How many more jobs are worth claiming now; 0 while enough are waiting."""
        if not self._accepting:
            return 0
        capacity = self.concurrency + self._prefetch_now()
        room = capacity - len(self.held)
        if self._running >= self.concurrency and room * 4 < capacity:
            return 0  # many small claims cost more than a few larger ones
        budget = self._budget()
        return max(room if budget is None else min(room, budget), 0)

    def _prefetch_now(self) -> int:
        """Only as many as would wait less than 50 ms: a long job must not hold others back."""
        if self._prefetch is not None:
            return self._prefetch
        if self._average is None or self.concurrency == 1:
            return 0
        return min(
            self.concurrency, int(self.concurrency * PREFETCH_SECONDS / (self._average + 1e-6))
        )

    def submit(self, jobs: list[ClaimedJob], claimed_at: float) -> None:
        """Take claimed jobs; ``claimed_at`` is the monotonic time before the claim was sent."""
        self.taken += len(jobs)
        for job in jobs:
            run = self.held[job.id] = Run(job, claimed_at)
            self._waiting.append(run)
        self._fill()

    def _fill(self) -> None:
        while self._waiting and self._running < self.concurrency:
            run = self._waiting.popleft()
            self._running += 1
            run.task = self._loop.create_task(self._run(run))

    def release(self) -> None:
        """Take no more, and give back what has not started."""
        self._accepting = False
        while self._waiting:
            self._report(self._waiting.pop(), RELEASED)

    def interrupt_all(self) -> None:
        """Stop every running handler; their jobs are retried at once."""
        for run in list(self.held.values()):
            run.interrupt("stopping")

    def abandon(self) -> None:
        """Report threads that did not stop, for a process that is about to end."""
        for run in list(self.held.values()):
            if outcome := interrupted("stopping", None):
                self._report(run, outcome)

    @property
    def idle(self) -> bool:
        return not self.held and not self.ended

    async def _run(self, run: Run) -> None:
        outcome: Outcome | None
        try:
            outcome = await self._outcome(run)
        except BaseException as error:  # a bug of ours must cost this job only
            log.exception("job %d: internal error", run.job.id)
            outcome = Outcome("retry", None, *describe(error))
        finally:
            self._running -= 1
            self.count += 1
        self._report(run, outcome)
        self._fill()

    async def _outcome(self, run: Run) -> Outcome | None:
        job = run.job
        definition = run.definition = self._definition(job.task)
        run.started_at = time.monotonic()
        if definition is None:
            return self._unknown(job)
        try:
            arguments = definition.signature.decode(job.args)
        except ArgumentsError as error:
            return Outcome("dead", None, "ArgumentsError", str(error))
        context = run.context = self._make_context(job)
        timeout = definition.timeout or self._default_timeout
        timer = self._loop.call_later(timeout, run.interrupt, "timeout") if timeout else None
        try:
            await self._call(definition, context, arguments, job)
        except BaseException as error:
            if context.completed:
                self._log_after_completion(job, error)
                return None
            if run.reason is not None and isinstance(error, asyncio.CancelledError | Cancel):
                return interrupted(run.reason, timeout)
            return self._decide(error, definition, arguments, job)
        finally:
            if timer is not None:
                timer.cancel()
        return None if context.completed else SUCCEEDED

    async def _call(
        self, definition: Definition, context: Context, arguments: dict[str, Any], job: ClaimedJob
    ) -> None:
        if definition.run == "async":
            await definition.invoke(context, arguments)
        elif definition.run == "thread":
            await self._loop.run_in_executor(self._threads, definition.invoke, context, arguments)
        else:
            context.completed = await self._processes.call(definition, job)

    def _decide(
        self,
        error: BaseException,
        definition: Definition,
        arguments: dict[str, Any],
        job: ClaimedJob,
    ) -> Outcome:
        outcome = getattr(error, "pgqueue_outcome", None)  # decided in the child process
        if not isinstance(outcome, Outcome):
            outcome = decide(
                error,
                attempt=job.attempt,
                retry_on=definition.retry_on,
                backoff=definition.backoff_of(arguments),
            )
        log.warning(
            "job %d (%s) attempt %d: %s after %s",
            job.id, job.task, job.attempt, outcome.kind, outcome.error_type,
        )  # fmt: skip
        return outcome

    def _log_after_completion(self, job: ClaimedJob, error: BaseException) -> None:
        log.error("job %d (%s) failed after its completion was committed: %s",
                  job.id, job.task, type(error).__name__)  # fmt: skip

    def _unknown(self, job: ClaimedJob) -> Outcome:
        now = time.monotonic()
        if now - self._reported.get(job.task, -REPORT_UNKNOWN_EVERY) >= REPORT_UNKNOWN_EVERY:
            self._reported[job.task] = now
            log.warning(
                "no task %r in this worker: its jobs are left for a worker that knows it", job.task
            )
        return Outcome("snooze", UNKNOWN_DELAY)

    def _report(self, run: Run, outcome: Outcome | None) -> None:
        if self.held.get(run.job.id) is run:
            del self.held[run.job.id]
        if run.reason == "lost":
            log.warning("job %d (%s): its claim was lost, the result is dropped",
                        run.job.id, run.job.task)  # fmt: skip
        elif outcome is not None:
            seconds = run.seconds()
            if run.started_at:
                old = self._average
                self._average = seconds if old is None else old + 0.1 * (seconds - old)
            doubtful = run.context is not None and run.context.doubtful
            self.ended.append(Finished(run.job.id, run.job.claim_id, outcome, seconds, doubtful))
        self._wake()
