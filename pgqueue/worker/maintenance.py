"""Rescuing, expiring and pruning. Any worker does it, none is the leader."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

from pgqueue.job import Status
from pgqueue.operations import Operation, limits, maintenance, steps, workflows
from pgqueue.operations.maintenance import Rescued
from pgqueue.worker.database import TOO_LONG, Database, StatementRefused
from pgqueue.worker.hooking import Hooking
from pgqueue.worker.pace import SLOW_SHARE, Pace
from pgqueue.worker.parts import Refusals
from pgqueue.worker.report import report_crash
from pgqueue.worker.service import Service

BATCH = 1000
MOST_NAMED = 20
LONGEST_RESCUE_INTERVAL = 10.0
LEAST_STRETCH = 10_000  # ids
PRUNE_INTERVAL = 30.0
EXPIRE_INTERVAL = 5.0
KEY_EVERY = 0.25
KEY_LOOK_EVERY = 5.0
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
        self._refusals = Refusals("job %d, whose lease ran out, cannot be taken back", self.log)

    async def run_once(self) -> float:
        last = await self._database.run(maintenance.last_id())
        begun, until = time.monotonic(), self._after + self._pace.reach
        to_the_end = until >= last
        try:
            jobs = await self._rescue(maintenance.MOST_ID if to_the_end else until)
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

    async def _rescue(self, until: int) -> list[Rescued]:
        parts = await self._refusals.run(
            self._database,
            partial(
                maintenance.rescue, max_crashes=self._max_crashes, after=self._after, until=until
            ),
            partial(maintenance.lapsed, after=self._after, until=until),
        )
        return [job for part in parts for job in part]

    def _take_note(self, jobs: list[Rescued]) -> None:
        for job in jobs:
            report_crash(job)
            if job.status == Status.DEAD:
                self._hooking.crashed(job)
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
        self._refusals = Refusals("job %d, which is late, cannot be cancelled", self.log)

    async def run_once(self) -> float:
        parts = await self._refusals.run(
            self._database,
            partial(maintenance.expire, limit=BATCH),
            partial(maintenance.late, limit=BATCH),
        )
        expired = [job_id for part in parts for job_id in part]
        if expired:
            shown = [str(job_id) for job_id in expired[:MOST_NAMED]]
            if len(expired) > MOST_NAMED:
                shown.append("...")
            said = "not started in time, so cancelled: %d, with the ids %s"
            self.log.info(said, len(expired), ", ".join(shown))
        self._settle(expired)
        more = len(expired) == BATCH or len(parts) != 1
        return 0.0 if more else EXPIRE_INTERVAL * random.uniform(0.5, 1.0)


class Deadlines(Service):
    """Cancels what has not ended of workflows that have passed their deadline; running jobs are asked to stop."""

    name: ClassVar[str] = "deadlines"

    def __init__(self, *, database: Database, settle: Callable[[Iterable[int]], None]) -> None:
        super().__init__()
        self._database, self._settle = database, settle
        self._refusals = Refusals(
            "job %d, whose workflow is over its deadline, cannot be cancelled", self.log
        )

    async def run_once(self) -> float:
        parts = await self._refusals.run(
            self._database,
            partial(workflows.expire, limit=BATCH),
            partial(workflows.overdue, limit=BATCH),
        )
        cancelled = [job_id for part in parts for job_id in part.cancelled]
        stopped = sum(part.stopped for part in parts)
        if cancelled or stopped:
            said = "their workflows are over their deadlines: %d jobs cancelled, %d asked to stop"
            self.log.info(said, len(cancelled), stopped)
        self._settle(cancelled)
        more = len(parts) != 1 or any(part.more for part in parts)
        return 0.0 if more else EXPIRE_INTERVAL * random.uniform(0.5, 1.0)


class Keyer(Service):
    """Gives jobs the key that their task's limits go by, where they were enqueued without: before the task had limits."""

    name: ClassVar[str] = "keyer"

    def __init__(self, *, database: Database, keyed: Callable[[], None]) -> None:
        super().__init__()
        self._database, self._keyed = database, keyed
        self._refusals = Refusals("job %d cannot be given the key of its limits", self.log)

    async def run_once(self) -> float:
        found = await self._database.run(limits.keying())
        if not found.any:
            return KEY_LOOK_EVERY
        begun = time.monotonic()
        parts = await self._refusals.run(
            self._database,
            partial(limits.key_jobs, limit=BATCH),
            partial(limits.to_key, limit=BATCH),
        )
        if any(parts):
            self._keyed()
            return 0.0
        # It has gone over all that is pending.
        rest = (time.monotonic() - begun) / SLOW_SHARE
        return max(rest, KEY_EVERY if found.by_hand else KEY_LOOK_EVERY)


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
        self._jobs = Refusals("job %d cannot be pruned", self.log)
        self._events = Refusals("event %d cannot be pruned", self.log)

    async def run_once(self) -> float:
        more, limit, begun = False, self._batch, time.monotonic()
        failed: StatementRefused | None = None
        for delete in self._kinds(limit):
            try:
                more = await delete() or more
            except StatementRefused as refused:  # which keeps no other kind from being pruned
                if refused.state != TOO_LONG or limit <= SMALLEST_BATCH:
                    failed = failed or refused
                    continue
                self._batch = max(limit // 2, SMALLEST_BATCH)
                return (time.monotonic() - begun) / SLOW_SHARE
        if failed is not None:
            raise failed
        self._batch = min(limit * 2, BATCH)
        return PAUSE_BETWEEN_BATCHES if more else PRUNE_INTERVAL * random.uniform(0.5, 1.0)

    def _kinds(self, limit: int) -> Iterator[Callable[[], Awaitable[bool]]]:
        """What deletes a batch of each kind, and says if there may be more."""
        batch: dict[str, Any]
        for status, age in self._keep.items():
            batch = {"status": status, "age": age, "limit": limit}
            yield partial(self._delete, self._jobs, maintenance.prune, maintenance.old, batch)
            if age is not None:
                yield partial(self._delete, self._jobs, workflows.prune, workflows.old, batch)
                if status is Status.CANCELLED:
                    batch = {**batch, "status": workflows.EXPIRED}
                    yield partial(self._delete, self._jobs, workflows.prune, workflows.old, batch)
        yield partial(self._buckets, limit)
        if self._keep_events is not None:
            batch = {"age": self._keep_events, "limit": limit}
            yield partial(self._delete, self._events, steps.prune_events, steps.old_events, batch)

    async def _buckets(self, limit: int) -> bool:
        pruned = await self._database.run(limits.prune_buckets(limit=limit))
        return len(pruned) >= limit

    async def _delete(
        self,
        refusals: Refusals,
        make: Callable[..., Operation[list[int]]],
        look: Callable[..., Operation[list[int]]],
        batch: Mapping[str, Any],
    ) -> bool:
        parts = await refusals.run(self._database, partial(make, **batch), partial(look, **batch))
        return len(parts) != 1 or len(parts[0]) >= batch["limit"]
