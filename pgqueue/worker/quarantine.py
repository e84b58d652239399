"""Runs suspects apart from other jobs, so that each crash is blamed on a job that was alone.

A suspect is a job whose next crash may be its last. Wherever there is a command to start it by, a process of their own
runs them (``supervisor``), and no other job waits for them. Only a worker that a program runs as a part of itself has to
run them in its own process: then it clears the process for them, for a moment at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from pgqueue.job import ClaimedJob
from pgqueue.operations import limits, quarantine
from pgqueue.operations.claims import Taking
from pgqueue.text import one_line
from pgqueue.worker import clock
from pgqueue.worker.database import Database
from pgqueue.worker.exchange import FIRST_IDLE_WAIT, Exchange
from pgqueue.worker.executor import Executor
from pgqueue.worker.service import Service

LOOK_EVERY = 1.0
MOST_IDLE_WAIT = 1.0
LINGER = 30.0
# In a process of other jobs, for each attempt of the suspect, so that one that kills late is found as well:
PATIENCE = 10.0
ALONE = 10.0
STRETCH = 1.0
LEAST_OPEN = 0.2
MOST_OPEN = 60.0
ISOLATED_STILL = 0.1


class Isolation:
    """Whose turn it is in a process: that of suspects, one group of them, or that of all other jobs."""

    def __init__(self) -> None:
        self._pools: list[tuple[Executor, Exchange]] = []
        self._waiting: list[SuspectExchange] = []
        self._owner: SuspectExchange | None = None

    def add(self, executor: Executor, exchange: Exchange) -> None:
        """A pool of other jobs."""
        self._pools.append((executor, exchange))

    def remove(self, executor: Executor) -> None:
        """It runs nothing any more."""
        self._pools = [pool for pool in self._pools if pool[0] is not executor]
        self.changed()

    @property
    def company(self) -> bool:
        """Are there other jobs in this process, or may there be?"""
        return bool(self._pools)

    @property
    def others_wait(self) -> bool:
        """Do other suspects wait for their turn, of another queue or database?"""
        return bool(self._waiting)

    def begin(self, who: SuspectExchange) -> bool:
        """Hold all other jobs back; False if it is the turn of other suspects."""
        if self._owner not in (None, who):
            if who not in self._waiting:
                self._waiting.append(who)
            return False
        self._owner = who
        for executor, _ in self._pools:
            executor.hold_back()
        return True

    @property
    def clear(self) -> bool:
        """Does the process hold no other job, and has it recorded all that it held?"""
        return not any(
            e.held or e.lingering or e.ended or exchange.busy for e, exchange in self._pools
        )

    def end(self, who: SuspectExchange) -> None:
        """Let all others go on."""
        if self._owner is who:
            self._owner = None
            for executor, _ in self._pools:
                executor.resume()
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.wake()

    def changed(self) -> None:
        """A job has ended, or its end is recorded."""
        if self._owner is not None:
            self._owner.wake()


@dataclass(frozen=True, slots=True)
class Apart:
    """Where the suspects of a process run.

    Args:
        isolate: asks for a process for them; None: they run in this one.
        only: this process runs suspects and nothing else.
        at_rest: does no process for them run that this one has started?
        pids: those processes.
    """

    isolate: Callable[[], None] | None = None
    only: bool = False
    isolation: Isolation = field(default_factory=Isolation)
    at_rest: Callable[[], bool] = lambda: True
    pids: Callable[[], set[int]] = set


class Watch(Service):
    """Looks for suspects that are due, at times and when some were rescued, and asks for a process for them."""

    name: ClassVar[str] = "suspects"

    def __init__(
        self, *, database: Database, queues: Sequence[str] | None, isolate: Callable[[], None]
    ) -> None:
        super().__init__()
        self._database, self._queues, self._isolate = database, queues, isolate
        self.looked = False

    def wake(self) -> None:
        self.looked = False
        super().wake()

    async def run_once(self) -> float:
        if await self._database.run(quarantine.suspect_due(self._queues)) is not None:
            self._isolate()
        self.looked = not self._wake.is_set()
        return LOOK_EVERY


class SuspectExchange(Exchange):
    """Claims suspects, one group after the other, and records how they ended.

    Args:
        isolation: of this process.
        leave: called when there have been none for a while, in a process that is only for them.
    """

    name: ClassVar[str] = "quarantine"

    def __init__(
        self, *, isolation: Isolation, leave: Callable[[], None] | None, **exchange: Any
    ) -> None:
        super().__init__(**exchange)
        self._isolation, self._leave = isolation, leave
        self._since: float | None = None  # when it began to hold others back
        self._patience = self._open_until = self._alone_until = 0.0
        self._groups = self._fruitless = 0
        self._none_since: float | None = None
        self._clear = False

    async def _exchange(self) -> float:
        await self._undo_unanswered()
        await self.recorder.record(self._executor.ended)
        now, recorded = time.monotonic(), self.recorder.recordings.begun
        # A result that others' locks keep from being recorded is not the job's end: its row says that it runs.
        if self._executor.held or self._executor.postponed:
            return await self._go_on_running(now)
        room = self._executor.room()
        # Rows of a claim without an answer may be ours: what ran beside them would not be alone.
        if room <= 0 or not self.claiming or len(self._unanswered):
            self._open(now)
            return MOST_IDLE_WAIT
        if (wait := await self._prepare(now, recorded)) is not None:
            return wait
        jobs = await self._claim_group(room)
        if not jobs:
            self._fruitless += 1
            self._nothing_after = None if self._unstartable.found else recorded
            self._open(now)
            return self._idle_wait(swept=True)
        self._groups += 1
        self._fruitless = self._idle = 0
        self._say(jobs)
        self._alone_until = now + ALONE * max(job.attempt for job in jobs)
        if not self._clear:
            self._open(now)
        return self._poll

    async def _prepare(self, now: float, recorded: int) -> float | None:
        """Make room for a group; the seconds to wait, or None if it may be claimed now."""
        others = self._isolation.company or self._isolation.others_wait
        if self._since is not None and self._groups and others and now - self._since > STRETCH:
            self._open(now)
        if self._since is None:
            if now < self._open_until:
                return self._open_until - now
            resting, _ = self._unstartable.resting()
            due = quarantine.suspect_due(self._queues, not_ids=resting)
            if (attempts := await self._database.run(due)) is None:
                return self._none(now, recorded)
            self._nothing_after, self._none_since = None, None
            if not self._isolation.begin(self):
                return self._poll
            self._since, self._patience = now, PATIENCE * max(attempts, 1)
        self._clear = self._isolation.clear
        left = self._since + self._patience - now
        return left if left > 0 and not self._clear else None

    def _none(self, now: float, recorded: int) -> float:
        self._nothing_after = recorded
        if self._leave is None:
            return LOOK_EVERY
        if self._none_since is None:
            self._none_since = now
        elif now - self._none_since > LINGER:
            self.log.info("no suspects for %.0f s", LINGER)
            self._leave()
        return self._idle_wait(swept=True)

    def _idle_wait(self, swept: bool) -> float:
        wait = min(FIRST_IDLE_WAIT * 2 ** min(self._idle, 10), MOST_IDLE_WAIT)
        self._idle += 1
        return float(wait)

    async def _go_on_running(self, now: float) -> float:
        if self._since is None or not self._isolation.company:
            return self._poll
        if now < self._alone_until:
            return self._alone_until - now
        runs = [*self._executor.held.values(), *self._executor.postponed.runs()]
        held = [(run.job.id, run.job.claim_id) for run in runs]
        if await self._database.run(quarantine.end_isolation(held)):
            # Its row is locked, perhaps by its own transaction, and says that it is alone: so it stays, until it does not.
            return ISOLATED_STILL
        self._open(now)
        return self._poll

    def _open(self, now: float) -> None:
        """Let others go on, for as long as they were held back at least."""
        if self._since is None:
            return
        if self._isolation.company:
            least = min(LEAST_OPEN * 2.0 ** min(self._fruitless * 2, 20), MOST_OPEN)
            self._open_until = now + max(now - self._since, least)
        self._since, self._groups = None, 0
        self._isolation.end(self)

    async def _claim_group(self, room: int) -> list[ClaimedJob]:
        self._unstartable.found = False
        self._resting, _ = self._unstartable.resting()
        for queue in self._in_turn(self._known.limited(self._queues)):
            jobs = await self._claim(room, partial(self._take, queue))
            if jobs:
                return jobs
        return []

    async def _take(self, queue: str | None, taking: Taking) -> list[ClaimedJob]:
        async def claim(only: list[int] | None) -> list[ClaimedJob]:
            if queue is None:
                operation = quarantine.claim_suspects(self._queues, only_ids=only, **taking)
                return await self._database.run(operation)
            limited = limits.claim(queue, suspects=True, only_ids=only, **taking)
            return (await self._database.run(limited)).jobs

        look = (
            quarantine.look(self._queues, **taking)
            if queue is None
            else limits.look(queue, suspects=True, **taking)
        )
        # One part of a group: each of its jobs knows how many run beside it.
        jobs = await self._narrowed(claim, look, taking, once=True)
        if jobs and not self._clear:
            try:
                held = [(job.id, job.claim_id) for job in jobs]
                alone = await self._database.run(quarantine.end_isolation(held))
            except BaseException:
                self._unanswered.add(taking["claim_id"], until=clock.seconds() + taking["lease"])
                raise
            if alone:  # somebody has locked them since the claim: they are given back
                self._unanswered.add(taking["claim_id"], until=clock.seconds() + taking["lease"])
                return []
        return jobs

    def _say(self, jobs: Sequence[ClaimedJob]) -> None:
        if len(jobs) == 1 and self._clear:
            job = jobs[0]
            self.log.info("job %d (%s) crashed its worker %d times: now it runs alone",
                          job.id, one_line(job.task), job.crashes)  # fmt: skip
        else:
            self.log.info("%d suspects run, apart from other jobs as far as possible", len(jobs))

    async def aclose(self) -> None:
        await super().aclose()
        self._open(time.monotonic())
