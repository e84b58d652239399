"""Runs claimed jobs, up to its concurrency, and hands over what became of each."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import copy_context

from pgqueue.job import ClaimedJob
from pgqueue.operations.claims import Finished
from pgqueue.outcome import RELEASED, Outcome
from pgqueue.worker import clock
from pgqueue.worker.exits import IN_JOB, JobTask
from pgqueue.worker.handlers import Handlers
from pgqueue.worker.postponed import Postponed
from pgqueue.worker.processes import Processes
from pgqueue.worker.run import Run, interrupted, say
from pgqueue.worker.slots import MOMENT, Slots
from pgqueue.worker.tracebacks import clear_tracebacks

log = logging.getLogger("pgqueue.job")


class Executor:
    """Holds claimed jobs, runs as many at a time as it has slots, reports through ``ended``."""

    def __init__(
        self,
        *,
        slots: Slots,
        handlers: Handlers,
        processes: Processes,
        lease: float,
        wake: Callable[[], None],
    ) -> None:
        self.slots = slots
        self.held: dict[int, Run] = {}
        self.lingering: set[Run] = set()  # recorded, but their handlers go on
        self.waiting: deque[Run] = deque()
        self.ended: list[Finished] = []
        self.postponed = Postponed()
        self.gave_back = False
        self._handlers, self._processes = handlers, processes
        self._looking: asyncio.TimerHandle | None = None
        self._lease = lease
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._clean = copy_context()
        self._clean.run(IN_JOB.set, True)
        self._accepting = True
        self.held_back = False

    def room(self) -> int:
        """How many more jobs are worth claiming now."""
        if not self._accepting or self.held_back:
            return 0
        return self.slots.room(len(self.held) + len(self.lingering))

    def submit(self, jobs: list[ClaimedJob], claimed_at: float) -> None:
        """Take claimed jobs; ``claimed_at`` is when the claim was sent, by the clock of leases."""
        self.slots.taken += len(jobs)
        in_process = {
            task for task in {job.task for job in jobs} if self._handlers.in_process(task)
        }
        for job in jobs:
            run = self.held[job.id] = Run(job, claimed_at)
            self.waiting.append(run)
            if job.task in in_process:
                self._join_processes(run)
        if not self._accepting or self.held_back:  # the claim was under way when it was told to
            self.give_back()
            return
        self._fill()

    def _join_processes(self, run: Run) -> None:
        """Give a job back at once that more would have to run before than there are processes."""
        run.in_process = True
        self._processes.tasks.add(run.job.task)
        crowded = self._processes.room <= 0
        self._processes.held += 1
        if crowded:
            self._processes.crowded = True
            self._processes.queues.add(run.job.queue)
            self._give_back(run)

    def _fill(self) -> None:
        waiting = self.waiting
        while waiting and self.slots.free and not self.held_back:
            run: Run | None = waiting[0]
            if waiting[0].in_process and not self._processes.free:
                run = next((run for run in waiting if not run.in_process), None)
            if run is None:
                break
            self.start(run)
        if waiting and self._looking is None:
            self._looking = self._loop.call_later(MOMENT, self._look)

    def _look(self) -> None:
        """Give back what has waited for more than a moment, for others to run."""
        self._looking = None
        due = clock.seconds() - MOMENT
        late = [run for run in self.waiting if run.claimed_at <= due]
        if late:
            self.slots.stall()
            for run in late:
                if run.in_process:
                    self._processes.stall()
                self._give_back(run)
            self._wake()
        self._fill()

    def start(self, run: Run) -> None:
        """Start a waiting job, unless it was cancelled or lost while it waited."""
        self.waiting.remove(run)
        if run.lapsed(self._lease):
            # A process that was frozen holds claims that others may have now.
            self._report(run, RELEASED)
            return
        if run.reason is not None:
            self._report(run, interrupted(run.reason, None))
            return
        self.slots.running += 1
        # Of the worker, not of who called: a job that ends starts the next, whose context variables are its own.
        run.task = JobTask(self._run(run), loop=self._loop, context=self._clean.copy())

    def give_back(self) -> None:
        """Give back what has not started, with its attempt."""
        for run in list(self.waiting):
            self._give_back(run)

    def _give_back(self, run: Run) -> None:
        self.waiting.remove(run)
        self.slots.taken -= 1
        self._report(run, RELEASED)

    def hold_back(self) -> None:
        """Take nothing and start nothing until told to resume, for suspects are to run without others."""
        self.held_back = True
        self.give_back()

    def resume(self) -> None:
        """Go on."""
        self.held_back = False
        self._fill()
        self._wake()

    def release(self) -> None:
        """Take no more, and give back what has not started."""
        self._accepting = False
        self.give_back()

    def interrupt_all(self) -> None:
        """Stop every running handler; their jobs are retried at once."""
        for run in list(self.held.values()):
            run.interrupt("stopping")

    def abandon(self) -> None:
        """Report threads that did not stop, for a process that is about to end."""
        for run in list(self.held.values()):
            self._report(run, interrupted("stopping", None))

    def give_up(self, run: Run) -> None:
        """Record a run whose handler goes on after it was asked to end; the handler keeps its slot until it ends."""
        if self.held.get(run.job.id) is not run or run.task is None or run.task.done():
            return
        self.lingering.add(run)
        self._report(run, self._handlers.given_up(run))

    def stuck(self) -> list[Run]:
        """Runs that went on after they were asked to end, and have lost their lease."""
        return [run for run in (*self.held.values(), *self.lingering) if run.stuck(self._lease)]

    def live(self) -> list[Run]:
        """The runs that are not stuck."""
        return [run for run in self.held.values() if not run.stuck(self._lease)]

    @property
    def at_rest(self) -> bool:
        """Is all recorded, and nothing left that will end?"""
        return not self.ended and not self.postponed and not self.live()

    async def _run(self, run: Run) -> None:
        outcome: Outcome | None = None
        try:
            outcome = await self._handlers.outcome(run)
        except BaseException as error:  # a bug of ours must cost this job only
            outcome = self._handlers.failed(run, error)
            clear_tracebacks(error)
        finally:
            self.slots.running -= 1
            self.slots.ended += 1
        if run in self.lingering:
            self._end_lingering(run, outcome)
        else:
            self._report(run, outcome)
        self._fill()

    def _end_lingering(self, run: Run, outcome: Outcome | None) -> None:
        self.lingering.discard(run)
        how = "" if outcome is None else f" ({outcome.error_type or outcome.kind})"
        say(
            log,
            logging.WARNING,
            run,
            f"its handler ended after {run.seconds():.3g} s{how}, too late to count",
        )
        self._wake()

    def _report(self, run: Run, outcome: Outcome | None) -> None:
        job, context = run.job, run.context
        if self.held.get(job.id) is run:
            del self.held[job.id]
            if run.in_process:
                self._processes.held -= 1
        if outcome is RELEASED:
            self.gave_back = True
        if outcome is not None:
            seconds = run.seconds()
            if seconds:
                self.slots.took(seconds)
            doubtful = context is not None and context.doubtful
            by_itself = context is not None and run.reason not in ("stopping", "lost")
            self.ended.append(
                Finished(job.id, job.claim_id, outcome, seconds, doubtful, job, by_itself)
            )
        self._wake()
