"""Lets a job on its last chance run alone, so that a crash is blamed on it and on no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pgqueue.job import ClaimedJob
from pgqueue.worker.run import Run
from pgqueue.worker.service import Service

if TYPE_CHECKING:
    from pgqueue.worker.executor import Executor

PATIENCE = 30.0
ALONE = 30.0
STRETCH = 1.0
SEEK = 0.1
LOOK_EVERY = 0.01
LEAST_OPEN = 0.2
BEHIND = 0.2


class Solitude(Service):
    """Holds the process back for one suspect: a job that another crash would make dead.

    While it waits to be alone, nothing starts, nothing is claimed and what has not started is given
    back, for a crash would be blamed on all that the process holds. It starts once the process holds
    nothing else and has recorded all results, or after 30 s in company; for its first 30 s nothing
    else starts. For a second from the start it goes on with the next, which it claims one by one, as
    long as these are suspects too: they come in company, and emptying the process is what takes time.
    Then the others have as long a time for themselves, and suspects met meanwhile are put off,
    unless there is nothing else: many take half of the process, not all.

    Args:
        max_crashes: crashes that make a job dead.
        settled: is no statement under way and no result unrecorded?
    """

    name: ClassVar[str] = "solitude"

    def __init__(self, *, max_crashes: int, settled: Callable[[], bool]) -> None:
        super().__init__()
        self._last_chance = max(max_crashes - 1, 1)
        self._settled = settled
        self._executors: list[Executor] = []
        self._suspect: Run | None = None
        self._pool: Executor | None = None
        self._until = 0.0
        self._closed_at = 0.0
        self._open_until = 0.0
        self.closed = False
        self._seeking = False

    def add(self, executor: Executor) -> None:
        """Hold this pool back too."""
        self._executors.append(executor)

    def room(self, room: int) -> int:
        """What may be claimed of ``room``."""
        if self._seeking:
            return min(room, 1)
        return 0 if self.closed else room

    def claimed(self, executor: Executor, jobs: Sequence[ClaimedJob]) -> None:
        """Look at claimed jobs before any of them starts."""
        if self._seeking:
            self._sought(executor, jobs)
            return
        if not self.closed:
            if not any(job.crashes >= self._last_chance for job in jobs):
                return
            suspects = [run for run in executor.waiting if run.job.crashes >= self._last_chance]
            now = time.monotonic()
            # Nothing else to do: then there is nobody to leave time to, as far as is known.
            nothing_else = len(executor.held) == len(suspects)
            if now < self._open_until and not nothing_else:
                executor.put_off(suspects, self._open_until - now)
                return
            if len(suspects) >= executor.slots.concurrency:  # behind what may be behind them
                executor.put_off(suspects[1:], BEHIND)
            self._close(suspects[0], executor, now)
        for each in self._executors:
            each.give_back(keep=self._suspect)
        self.wake()

    def _sought(self, executor: Executor, jobs: Sequence[ClaimedJob]) -> None:
        self._seeking = False
        if jobs[0].crashes < self._last_chance:
            self._open()
        else:
            self._next(executor.waiting[-1], executor, time.monotonic())
            self.wake()

    def _close(self, suspect: Run, pool: Executor, now: float) -> None:
        self.closed, self._closed_at = True, now
        self._next(suspect, pool, now)

    def _next(self, suspect: Run, pool: Executor, now: float) -> None:
        self._until = now + PATIENCE
        self._suspect, self._pool = suspect, pool
        self.log.info("job %d (%s) crashed its worker %d times: now it runs alone",
                      suspect.job.id, suspect.job.task, suspect.job.crashes)  # fmt: skip

    async def run_once(self) -> float:
        suspect, pool = self._suspect, self._pool
        now = time.monotonic()
        late = now >= self._until
        if self._seeking and late:
            self._open()
        elif suspect is None or pool is None:
            return LOOK_EVERY if self._seeking else 3600.0
        elif suspect.task is not None:
            if late or self._alone(None):
                self._go_on(now)
        elif suspect not in pool.waiting:
            self._open()
        elif late and not pool.slots.free:
            pool.give_back(keep=None)
            self._open()
        elif late or self._alone(suspect):
            self._until = now + ALONE
            pool.start(suspect)
        return LOOK_EVERY

    def _alone(self, suspect: Run | None) -> bool:
        # A stuck run has lost its claim: no crash will be blamed on it here any more.
        held = [run for each in self._executors for run in each.live()]
        return held == ([] if suspect is None else [suspect]) and self._settled()

    def _go_on(self, now: float) -> None:
        if now - self._closed_at >= STRETCH or not self._alone(None):
            self._open()
            return
        self._suspect = self._pool = None
        self._seeking, self._until = True, now + SEEK
        for each in self._executors:
            each.resume()

    def _open(self) -> None:
        self._suspect = self._pool = None
        self.closed = self._seeking = False
        now = time.monotonic()
        self._open_until = now + max(now - self._closed_at, LEAST_OPEN)
        for each in self._executors:
            each.resume()
