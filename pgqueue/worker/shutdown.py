"""When a worker process ends, and how: what has not started is given back, what runs may finish."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from pgqueue.worker.exchange import Exchange
from pgqueue.worker.executor import Executor

log = logging.getLogger("pgqueue.worker")

TO_BE_CANCELLED = 2.0
TO_BE_RECORDED = 5.0
HURRIED = 1.0
UNHURRIED = 10.0
LOOK_EVERY = 0.02
MOST_SHOWN = 5

Pools = Sequence[tuple[Executor, Exchange]]


class Shutdown:
    """Waits until the worker is to end, then brings its pools to rest.

    Args:
        pools: looked at when needed, for they are made after this.
        drain: end when nothing is due.
        max_jobs: end after this many jobs.
        grace: seconds that running jobs have after ``stop()``.
        ends_process: the process ends with the worker, so jobs in threads may be given back.
        settled: has what waited for jobs that ended been looked at?
        changed: called when the worker begins to end.
    """

    def __init__(
        self,
        pools: Callable[[], Pools],
        *,
        drain: bool,
        max_jobs: int | None,
        grace: float,
        ends_process: bool,
        settled: Callable[[], bool] = lambda: True,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._pools, self._settled, self._changed = pools, settled, changed
        self._drain, self._max_jobs = drain, max_jobs
        self._grace = grace
        self._ends_process = ends_process
        self.stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self.recycled = False
        self._stopped_at: float | None = None

    def stop(self) -> None:
        """Stop claiming and end when running jobs have; called again, do not wait for them."""
        if self.stopping.is_set():
            self._hurry.set()
        else:
            self._stopped_at = time.monotonic()
        self.stopping.set()
        self._changed()

    @property
    def ending(self) -> bool:
        """Does it claim no more jobs?"""
        return self.recycled or self.stopping.is_set()

    def left(self, *, after: float) -> float:
        """Seconds that what runs beside the jobs has: until ``after`` seconds from the end of the grace time.

        A worker that ends by itself, as with ``drain``, is in no such hurry.
        """
        if self._hurry.is_set():
            return HURRIED
        if self._stopped_at is None:
            return UNHURRIED
        return max(self._stopped_at + self._grace - time.monotonic(), 0.0) + after

    def recycle(self, reason: str) -> None:
        """Claim no more and end when all that can end has, however long it takes."""
        if not self.recycled:
            log.info("%s: ending, to be started anew", reason)
            self.recycled = True
            self._claim_no_more()
            self._changed()

    def budget(self) -> int | None:
        """How many more jobs may be claimed before this process is to end; None for no limit."""
        if self._max_jobs is None:
            return None
        return self._max_jobs - sum(executor.slots.taken for executor, _ in self._pools())

    async def run(self) -> None:
        """Return when the worker has come to rest."""
        while not self.stopping.is_set() and not self._done():
            await either(self.stopping, timeout=LOOK_EVERY if self._counts() else 1.0)
        await self._shut_down()

    def _counts(self) -> bool:
        return self._drain or self.recycled or self._max_jobs is not None

    def _done(self) -> bool:
        pools = self._pools()
        if self.recycled:
            return all(executor.at_rest for executor, _ in pools)
        if self._max_jobs is not None and sum(e.slots.ended for e, _ in pools) >= self._max_jobs:
            self.recycle(f"{self._max_jobs} jobs done")
            return True
        return self._drain and self._drained(pools) and self._settled()

    @staticmethod
    def _drained(pools: Pools) -> bool:
        """Is nothing due? What is at rest looks again at once, if anything was recorded since it looked."""
        if not all(executor.at_rest for executor, _ in pools):
            return False
        unsure = [exchange for _, exchange in pools if not exchange.empty]
        for exchange in unsure:
            exchange.wake()
        return not unsure

    def _claim_no_more(self) -> None:
        for executor, exchange in self._pools():
            exchange.claiming = False
            executor.release()
            exchange.hurry()

    async def _shut_down(self) -> None:
        self._claim_no_more()
        executors = [executor for executor, _ in self._pools()]
        if self.stopping.is_set() and (running := _described(executors)):
            log.info("stopping: waits up to %g s for %s", self._grace, running)
        if not await self._at_rest(time.monotonic() + self._grace):
            log.warning(
                "stopped without waiting any longer for %s", _described(executors) or "results"
            )
            for executor in executors:
                executor.interrupt_all()
            await self._at_rest(time.monotonic() + TO_BE_CANCELLED, hurry=False)
            if self._ends_process:
                for executor in executors:
                    executor.abandon()
                await self._at_rest(time.monotonic() + TO_BE_RECORDED, hurry=False)

    async def _at_rest(self, deadline: float, *, hurry: bool = True) -> bool:
        while not all(executor.at_rest for executor, _ in self._pools()):
            if time.monotonic() >= deadline or (hurry and self._hurry.is_set()):
                return False
            for _, exchange in self._pools():
                exchange.wake()
            await asyncio.sleep(LOOK_EVERY)
        return True


async def either(event: asyncio.Event, *, timeout: float) -> None:
    """Wait for the event or the seconds, whichever is first."""
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        pass


def _described(executors: Sequence[Executor]) -> str:
    """The jobs that run, for the log: the first few by name."""
    runs = [run for executor in executors for run in executor.held.values() if run.task is not None]
    shown = ", ".join(
        f"{run.job.id} ({run.job.task}, for {run.seconds():.1f} s)" for run in runs[:MOST_SHOWN]
    )
    more = f" and {len(runs) - MOST_SHOWN} more" if len(runs) > MOST_SHOWN else ""
    return f"{len(runs)} job{'s' if len(runs) > 1 else ''}: {shown}{more}" if runs else ""
