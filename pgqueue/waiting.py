"""Waits for jobs to end: one look at the database for all who wait in this process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field

from pgqueue.operations import Operation
from pgqueue.operations.jobs import End, ends
from pgqueue.results import gone

Ends = dict[int, End]
SHORTEST, LONGEST = 0.01, 1.0
SHARE = 0.1


def pause(waited: Iterable[float]) -> float:
    """Seconds until the next look: a tenth of what the youngest has waited, 10 ms to 1 s."""
    return min(max(SHARE * min(waited, default=LONGEST), SHORTEST), LONGEST)


@dataclass(eq=False)
class Waiter:
    """Somebody who waits for one job. ``tell`` is called with its end, or the error of a look."""

    job_id: int
    tell: Callable[[End | Exception], None]
    since: float = field(default_factory=time.monotonic)
    looked: bool = False
    seen: bool = False


class Waiters:
    """Everybody who waits for a job of one app, and what a look at the database tells them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[Waiter] = []

    def add(self, waiter: Waiter) -> bool:
        """True if nobody waited before."""
        with self._lock:
            self._all.append(waiter)
            return len(self._all) == 1

    def discard(self, waiter: Waiter) -> None:
        with self._lock:
            if waiter in self._all:
                self._all.remove(waiter)

    def wanted(self) -> list[int]:
        """The jobs to look at."""
        with self._lock:
            return sorted({waiter.job_id for waiter in self._all})

    def pause(self) -> float:
        now = time.monotonic()
        with self._lock:
            return pause(now - waiter.since for waiter in self._all)

    def found(self, asked: Collection[int], jobs: Ends) -> None:
        """Tell those whose jobs have ended, or are gone after they were seen.

        Args:
            asked: the jobs that were looked for; who came meanwhile waits for the next look.
        """
        with self._lock:
            for waiter in [each for each in self._all if each.job_id in asked]:
                end = jobs.get(waiter.job_id)
                if end is not None and end.over:
                    self._tell(waiter, end)
                elif end is None and waiter.seen:
                    self._tell(waiter, gone(waiter.job_id))
                waiter.looked = True
                waiter.seen = waiter.seen or end is not None

    def failed(self, error: Exception) -> None:
        """Tell everybody that the database could not be asked."""
        with self._lock:
            for waiter in list(self._all):
                self._tell(waiter, error)

    def _tell(self, waiter: Waiter, what: End | Exception) -> None:
        self._all.remove(waiter)
        waiter.tell(what)


def over(found: Ends, job_id: int, timeout: float | None) -> End:
    """What one look found; raises TimeoutError if the job has not ended."""
    if (end := found.get(job_id)) is None or not end.over:
        raise late(job_id, timeout)
    return end


def late(job_id: int, timeout: float | None) -> TimeoutError:
    return TimeoutError(
        f"job {job_id} has not ended"
        if not timeout
        else f"job {job_id} has not ended within {timeout:g} s"
    )


class SyncWaiting:
    """For threads: one of the app's own looks for all."""

    def __init__(self, run: Callable[[Operation[Ends]], Ends]) -> None:
        self._run, self._waiters = run, Waiters()
        self._pid = os.getpid()

    def wait(self, job_id: int, timeout: float | None) -> End:
        """Wait until the job has ended; ``timeout`` in seconds. However short it is, it looks once.

        Raises:
            TimeoutError: it has not.
            ResultMissing: it is gone.
        """
        if timeout == 0:
            return self._look_once(job_id, timeout)
        if self._pid != os.getpid():  # the thread that looks has stayed in the parent
            self._pid, self._waiters = os.getpid(), Waiters()
        told: list[End | Exception] = []
        ended = threading.Event()

        def tell(what: End | Exception) -> None:
            told.append(what)
            ended.set()

        waiter = Waiter(job_id, tell)
        if self._waiters.add(waiter):
            threading.Thread(target=self._look, name="pgqueue-waiting", daemon=True).start()
        if not ended.wait(timeout):
            self._waiters.discard(waiter)
            if not told:  # else it was told between the two
                if waiter.looked:
                    raise late(job_id, timeout)
                return self._look_once(job_id, timeout)
        if isinstance(told[0], Exception):
            raise told[0]
        return told[0]

    def _look_once(self, job_id: int, timeout: float | None) -> End:
        return over(self._run(ends([job_id])), job_id, timeout)

    def _look(self) -> None:
        while wanted := self._waiters.wanted():
            try:
                self._waiters.found(wanted, self._run(ends(wanted)))
            except Exception as error:
                self._waiters.failed(error)
            time.sleep(self._waiters.pause())


class AsyncWaiting:
    """For coroutines of one event loop: one task looks for all."""

    def __init__(self, run: Callable[[Operation[Ends]], Awaitable[Ends]]) -> None:
        self._run, self._waiters = run, Waiters()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, job_id: int, timeout: float | None) -> End:
        """The same, awaited."""
        if timeout == 0:
            return await self._look_once(job_id, timeout)
        told: asyncio.Future[End | Exception] = asyncio.get_running_loop().create_future()
        waiter = Waiter(job_id, lambda what: None if told.done() else told.set_result(what))
        if self._waiters.add(waiter):
            self._task = asyncio.create_task(self._look(), name="pgqueue-waiting")
        try:
            async with asyncio.timeout(timeout):
                what = await told
        except TimeoutError:
            if not told.done() or told.cancelled():  # else it was told as the time ran out
                if waiter.looked:
                    raise late(job_id, timeout) from None
                return await self._look_once(job_id, timeout)
            what = told.result()
        finally:
            self._waiters.discard(waiter)
        if isinstance(what, Exception):
            raise what
        return what

    async def _look_once(self, job_id: int, timeout: float | None) -> End:
        return over(await self._run(ends([job_id])), job_id, timeout)

    async def _look(self) -> None:
        while wanted := self._waiters.wanted():
            try:
                self._waiters.found(wanted, await self._run(ends(wanted)))
            except Exception as error:
                self._waiters.failed(error)
            await asyncio.sleep(self._waiters.pause())
