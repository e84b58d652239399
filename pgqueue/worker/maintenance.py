"""Rescuing, expiring and pruning. Any worker does it, none is the leader."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import ClassVar

from pgqueue.job import Status
from pgqueue.operations import maintenance, steps, workflows
from pgqueue.operations.maintenance import Rescued
from pgqueue.worker.database import TOO_LONG, Database, StatementRefused
from pgqueue.worker.hooking import Hooking
from pgqueue.worker.pace import SLOW_SHARE, Pace
from pgqueue.worker.service import Service

BATCH = 1000
MOST_NAMED = 20
LONGEST_RESCUE_INTERVAL = 10.0
LEAST_STRETCH = 10_000  # ids
PRUNE_INTERVAL = 30.0
EXPIRE_INTERVAL = 5.0
PAUSE_BETWEEN_BATCHES = 0.05
SMALLEST_BATCH = 10


class Rescuer(Service):
    """Takes back running jobs whose lease ran out: all at once, or a stretch of ids after the other.

    Each job that has run leaves a dead index entry, which stays while an old snapshot is held.
    """

    name: ClassVar[str] = "rescuer"

    def __init__(
        self,
        *,
        database: Database,
        lease: float,
        max_crashes: int,
        rescued: Callable[[], None],
        suspected: Callable[[], None],
        hooking: Hooking,
        settle: Callable[[Iterable[int]], None],
    ) -> None:
        super().__init__()
        self._database, self._settle = database, settle
        self._interval = min(lease / 3, LONGEST_RESCUE_INTERVAL)
        self._max_crashes = max_crashes
        self._rescued, self._suspected, self._hooking = rescued, suspected, hooking
        self._pace, self._after = Pace(LEAST_STRETCH), -1

    async def run_once(self) -> float:
        last = await self._database.run(maintenance.last_id())
        begun, until = time.monotonic(), self._after + self._pace.reach
        to_the_end = until >= last
        try:
            jobs = await self._database.run(
                maintenance.rescue(
                    max_crashes=self._max_crashes,
                    after=self._after,
                    until=maintenance.MOST_ID if to_the_end else until,
                )
            )
        except StatementRefused as refused:
            if refused.state != TOO_LONG:
                raise
            self._pace.cut_short(last)
            return self._pace.rest(time.monotonic() - begun)
        if jobs:
            self._take_note(jobs)
            return 0.0
        took = time.monotonic() - begun
        rest = self._pace.rest(took)
        self._pace.took(took, last)
        self._after = -1 if to_the_end else until
        wait = self._interval * random.uniform(0.5, 1.0) if to_the_end else 0.0
        return max(wait, rest)

    def _take_note(self, jobs: list[Rescued]) -> None:
        for job in jobs:
            self.log.warning("job %d (%s) attempt %d: its lease ran out, now %s",
                             job.id, job.task, job.attempt, job.status)  # fmt: skip
            if job.status == Status.DEAD:
                self._hooking.crashed(job.id, job.task, job.attempt)
        self._rescued()
        if any(job.quarantine is not None for job in jobs):
            self._suspected()
        self._settle(job.id for job in jobs if job.status != Status.PENDING)


class Expirer(Service):
    """Cancels pending jobs that were not started in time. No claim takes them meanwhile."""

    name: ClassVar[str] = "expirer"

    def __init__(self, *, database: Database, settle: Callable[[Iterable[int]], None]) -> None:
        super().__init__()
        self._database, self._settle = database, settle

    async def run_once(self) -> float:
        expired = await self._database.run(maintenance.expire(limit=BATCH))
        if expired:
            shown = ", ".join(map(str, expired[:MOST_NAMED])) + ", ..." * (
                len(expired) > MOST_NAMED
            )
            self.log.info(
                "%d jobs cancelled, they were not started in time: %s", len(expired), shown
            )
        self._settle(expired)
        return 0.0 if len(expired) == BATCH else EXPIRE_INTERVAL * random.uniform(0.5, 1.0)


class Pruner(Service):
    """Deletes finished jobs past their retention, in small batches."""

    name: ClassVar[str] = "pruner"

    def __init__(
        self,
        *,
        database: Database,
        keep: dict[Status, float | None],
        keep_events: float | None,
    ) -> None:
        super().__init__()
        self._database, self._keep_events = database, keep_events
        self._keep = keep
        self._batch = BATCH

    async def run_once(self) -> float:
        more, limit, begun = False, self._batch, time.monotonic()
        try:
            for status, age in self._keep.items():
                more = await self._prune(status, age, limit) or more
            if self._keep_events is not None:
                old = await self._database.run(
                    steps.prune_events(age=self._keep_events, limit=limit)
                )
                more = more or len(old) == limit
        except StatementRefused as refused:
            if refused.state != TOO_LONG or limit <= SMALLEST_BATCH:
                raise
            self._batch = max(limit // 2, SMALLEST_BATCH)
            return (time.monotonic() - begun) / SLOW_SHARE
        self._batch = min(limit * 2, BATCH)
        return PAUSE_BETWEEN_BATCHES if more else PRUNE_INTERVAL * random.uniform(0.5, 1.0)

    async def _prune(self, status: Status, age: float | None, limit: int) -> bool:
        """Delete a batch; True if there may be more."""
        pruned = await self._database.run(maintenance.prune(status, age=age, limit=limit))
        more = len(pruned) == limit
        if age is not None:
            whole = await self._database.run(workflows.prune(status, age=age, limit=limit))
            more = more or len(whole) == limit
        return more
