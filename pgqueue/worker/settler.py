"""Lets jobs go on that waited for others, or for events. Any worker does it, none is the leader."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from pgqueue.operations import steps, workflows
from pgqueue.operations.workflows import Settled
from pgqueue.worker.database import Database, StatementRefused
from pgqueue.worker.later import Later
from pgqueue.worker.parts import Refusals, in_parts, may_divide
from pgqueue.worker.service import Service

BATCH = 1000
LOOK_EVERY = 5.0
SHARE = 0.05
LOCKED = (0.05, 2.0)  # seconds between tries, the first and the longest


class Settler(Service):
    """Told of ends by this worker; looks, from time to time, for those that nobody told of.

    Args:
        released: called when jobs are pending now.
    """

    name: ClassVar[str] = "settler"

    def __init__(self, *, database: Database, released: Callable[[], None]) -> None:
        super().__init__()
        self._database, self._released = database, released
        self._ended: dict[int, None] = {}
        self._locked = Later[int](*LOCKED)
        self._jobs = Refusals("waiting job %d cannot go on", self.log)
        self._ends = Refusals("the end of job %d cannot be told to its workflow", self.log)
        self._sleepers = Refusals("job %d cannot be woken by its event", self.log)
        self._after = 0
        self._look_at = 0.0
        self.busy = False

    def ended(self, job_ids: Iterable[int]) -> None:
        """These jobs have ended, or may have."""
        before = len(self._ended)
        self._ended.update(dict.fromkeys(job_ids))
        if len(self._ended) > before:
            self.wake()

    @property
    def at_rest(self) -> bool:
        """Has all it was told of been dealt with?"""
        return not self._ended and not self._locked and not self.busy

    async def run_once(self) -> float:
        self.busy = True
        try:
            await self._settle()
            if time.monotonic() >= self._look_at:
                await self._look()
        finally:
            self.busy = False
        wait = max(self._look_at - time.monotonic(), 0.0)
        again = self._locked.wait()
        return wait if again is None else min(wait, max(again, 0.001))

    async def _settle(self) -> None:
        self._ended.update(dict.fromkeys(self._locked.due()))
        while self._ended:
            batch = list(self._ended)[:BATCH]
            # Not after the call: one that ends while it is under way is told of again.
            for job_id in batch:
                del self._ended[job_id]
            try:
                await self._settle_batch(batch)
            except BaseException:
                self._ended.update(dict.fromkeys(batch))
                raise

    async def _settle_batch(self, batch: list[int]) -> None:
        try:
            await self._settle_all(batch)
        except StatementRefused as error:
            if not may_divide(error):
                raise
            await in_parts(batch, self._settle_all, self._settle_apart)

    async def _settle_all(self, batch: Sequence[int]) -> None:
        settled = await self._database.run(workflows.settle(batch, without=self._jobs.resting()))
        # Each call is a transaction, which the next one sees: so no end is missed between them.
        self._take_note(settled)
        locked = [job_id for job_id in settled.locked if job_id not in self._ended]
        self._locked.drop(set(batch).difference(locked))
        self._locked.add(locked)

    async def _settle_apart(self, job_id: int, error: StatementRefused) -> None:
        """Something that waits for this one is refused: find out what, and let the others go on."""

        async def act(some: Sequence[int]) -> None:
            settled = await self._database.run(workflows.settle([job_id], only=some))
            self._take_note(settled)

        async def refused(waiting: int, why: StatementRefused) -> None:
            self._jobs.leave(waiting, why)

        waiting = await self._database.run(
            workflows.waiting([job_id], without=self._jobs.resting())
        )
        if waiting:
            await in_parts(waiting, act, refused)
            self._ended[job_id] = None  # once more, without those
        else:
            self._ends.leave(job_id, error)

    def _take_note(self, settled: Settled) -> None:
        self._ended.update(dict.fromkeys(settled.again))
        if settled.released:
            self._released()

    async def _look(self) -> None:
        began = time.monotonic()
        found = await self._database.run(workflows.unsettled(after=self._after, limit=BATCH))
        self._after = found.last or 0
        took = time.monotonic() - began
        wait = took / SHARE if found.last else LOOK_EVERY * random.uniform(0.5, 1.0)
        self._look_at = time.monotonic() + wait
        self._ended.update(dict.fromkeys(set(found.ended).difference(self._ends.resting())))
        await self._settle()
        woken = await self._sleepers.run(self._database, steps.deliver, steps.to_wake)
        if any(woken):
            self._released()
        await self._database.run(steps.mark_delivered())

    async def aclose(self) -> None:
        await self._settle()
