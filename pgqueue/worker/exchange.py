"""Hands in outcomes and takes new jobs: the two ends of the worker's traffic with the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import ClassVar
from uuid import UUID, uuid4

from pgqueue.job import ClaimedJob
from pgqueue.operations import Operation, claims, limits
from pgqueue.operations.claims import Candidate, Lane, Swept, Taking
from pgqueue.worker import clock
from pgqueue.worker.crowd import Crowd
from pgqueue.worker.database import TOO_LONG, Database, StatementRefused, perhaps_done
from pgqueue.worker.executor import Executor
from pgqueue.worker.lanes import LONGEST_BETWEEN_SWEEPS, Lanes
from pgqueue.worker.pace import SHARE
from pgqueue.worker.parts import in_parts
from pgqueue.worker.processes import Processes
from pgqueue.worker.queues import Queues
from pgqueue.worker.recorder import MOST_AT_ONCE, Recorder
from pgqueue.worker.service import Service
from pgqueue.worker.turns import Turns
from pgqueue.worker.unanswered import Unanswered
from pgqueue.worker.unstartable import Unstartable, is_of_a_job

FIRST_IDLE_WAIT = 0.01
RATE_WAIT = 0.02  # nothing is lost meanwhile: tokens gather while jobs wait
MANY = 100  # jobs; for fewer the wait for the commit is most of a statement, and many can wait together
REST = 0.005
VISIT_FOR = 0.25  # seconds that a pass goes on with further queues under limits
WHILE_BEHIND = 0.05
CUT_SHORT = (
    "a look for jobs was cut short after %.1f s, the next go over less: an old transaction or a replication"
    " slot keeps dead rows; pg_stat_activity has its xact_start"
)


class Exchange(Service):
    """Records what ended, then claims for the room there is; whatever gathers meanwhile is next."""

    name: ClassVar[str] = "exchange"

    def __init__(
        self,
        *,
        database: Database,
        executor: Executor,
        queues: list[str] | None,
        worker_id: UUID,
        lease: float,
        poll: float,
        recorder: Recorder,
        learned: Callable[[set[str]], None],
        known: Queues,
        turns: Turns,
        processes: Processes,
        only: Callable[[], list[str] | None],
    ) -> None:
        super().__init__()
        self._database, self._executor = database, executor
        self._queues, self._worker_id = queues, worker_id
        self._lease, self._poll = lease, poll
        self.recorder = recorder
        self._learned = learned
        self._known, self._processes, self._only = known, processes, only
        self._turns, self._expected = turns, 0
        self._turn = 0
        self._wait = self._poll
        self._lanes, self._crowd = Lanes(), Crowd()
        self._idle = 0
        self._left_out: list[str] = []
        self._unstartable, self._resting = Unstartable(self.log), list[int]()
        self._rest_until = 0.0
        self._took = 0.0
        self._unanswered = Unanswered()
        self.claiming = True
        # The recordings that had begun before the last look, if that found nothing that is due.
        self._nothing_after: int | None = None
        self.busy = False
        self.passed: Callable[[], None] = lambda: None  # called after each pass

    @property
    def empty(self) -> bool:
        """Did the last look find nothing that is due, and has no pool recorded anything since it began?"""
        return self._nothing_after == self.recorder.recordings.begun

    def look_again(self) -> None:
        """There may be something now, whatever the last look said."""
        self._nothing_after = None
        self.wake()

    async def run_once(self) -> float:
        # A flood of notifications, or of producers, must not become one of claims that find nothing.
        if (rest := self._rest_until - time.monotonic()) > 0:
            await asyncio.sleep(rest)
        self.busy = True
        try:
            await self.recorder.record_postponed(ending=not self.claiming)
            if len(self._executor.ended) + self._expected < MANY:
                wait = await self._exchange()
            else:
                async with self._turns.turn():
                    wait = await self._exchange()
        finally:
            self.busy = False
            self.passed()
        again = self._executor.postponed.wait()
        return wait if again is None else min(wait, max(again, 0.001))

    async def _exchange(self) -> float:
        ended = self._executor.ended
        await self._undo_unanswered()
        if self._executor.gave_back:  # behind the cursors, where only a sweep finds them again
            self._executor.gave_back = False
            self._lanes.look_again()
        behind = self.recorder.behind
        room = 0 if behind else min(self._executor.room(), MOST_AT_ONCE)
        without, room = self._without(room)
        sweep = self._lanes.sweep_due(time.monotonic())
        if sweep or not self.claiming or not self.recorder.may_trade(ended):
            await self.recorder.record(ended)
        if not self.claiming:
            return self._poll
        if room <= 0:
            await self.recorder.record(ended)
            return 0.0 if ended else min(self._poll, WHILE_BEHIND) if behind else self._poll
        recorded = self.recorder.recordings.begun
        claimed = await self._claim_all(room, sweep=sweep, without=without)
        if self._processes.crowded and not without:
            self._processes.crowded = any(job.task in self._processes.tasks for job in claimed)
        self._expected = room if len(claimed) == room else 0
        if claimed or ended:
            self._idle, self._nothing_after = 0, None
            more = len(claimed) == room or ended or self._unstartable.found
            return 0.0 if more else self._idle_wait(sweep)
        if self._unstartable.found:  # now there is a look without those
            self._nothing_after = None
            return 0.0
        # It found nothing where it looked: is there another place now?
        if (sweep or self.woken) and await self._known.look():
            return 0.0
        everywhere = sweep and self._lanes.swept_all and not without
        self._nothing_after = recorded if everywhere else None
        if self.woken:
            self._rest_until = time.monotonic() + REST
        return self._idle_wait(sweep)

    def _without(self, room: int) -> tuple[list[str], int]:
        """The tasks to leave out of a claim, and for how many jobs there is room.

        When more jobs of process tasks were claimed than processes can take, those that come next wait in the
        database: while all processes are busy, for whoever has one; then, behind the cursors, for a sweep of ours.
        """
        processes = self._processes
        if not processes.crowded:
            return [], room
        if processes.room <= 0:
            return sorted(processes.tasks), room
        self._lanes.look_again()
        return [], min(room, processes.room)

    def _idle_wait(self, swept: bool) -> float:
        # Producers limit their notifications, so for a moment after activity look often.
        wait = min(FIRST_IDLE_WAIT * float(2 ** min(self._idle, 16)), self._poll)
        self._idle += 1
        # It found nothing and yet took long: it walked over many jobs, paused ones.
        wait = max(wait, min(self._took / SHARE, LONGEST_BETWEEN_SWEEPS))
        wait = min(wait, self._wait)
        if swept:
            return wait
        return max(min(wait, self._lanes.until_sweep(time.monotonic())), 0.001)

    async def _claim_all(self, room: int, *, sweep: bool, without: list[str]) -> list[ClaimedJob]:
        self._unstartable.found = False
        self._resting, tasks = self._unstartable.resting()
        self._left_out = [*without, *tasks]
        queues = self._known.limited(self._queues)
        if without:
            queues = [queue for queue in queues if queue not in self._processes.queues]
        self._took, self._wait = 0.0, self._poll
        if not queues:
            return await self._claim(room, lambda t: self._sweep(t) if sweep else self._go_on(t))
        claimed: list[ClaimedJob] = []
        refusal: StatementRefused | None = None
        for queue in self._in_turn(queues):
            left = room - len(claimed)
            if left <= 0:
                break
            try:
                claimed += await self._claim(left, self._taker(queue, sweep))
            except StatementRefused as refused:
                if not is_of_a_job(refused):
                    raise
                refusal = refused  # the other queues go on
        if refusal is not None and not claimed:
            raise refusal
        return claimed

    def _in_turn(self, queues: list[str]) -> Iterator[str | None]:
        """Each queue with limits, and None for all lanes together, beginning with another one each time.

        Who enqueues chooses how many such queues there are, so a pass goes on with further ones for a moment only. The
        lanes have a turn in every pass; the next pass begins with the first queue that this one left out.
        """
        turns: list[str | None] = [None, *queues]
        shift = self._turn = (self._turn + 1) % len(turns)
        begun, late = time.monotonic(), False
        for place, queue in enumerate(turns[shift:] + turns[:shift]):
            if late or (place and time.monotonic() - begun > VISIT_FOR):
                if not late:
                    late, self._turn = True, shift + place - 1
                    self._wait = min(self._wait, VISIT_FOR)
                if queue is not None:
                    continue
            yield queue

    def _taker(
        self, queue: str | None, sweep: bool
    ) -> Callable[[Taking], Awaitable[list[ClaimedJob]]]:
        if queue is not None:
            return lambda taking: self._take_limited(queue, taking)
        return self._sweep if sweep else self._go_on

    async def _take_limited(self, queue: str, taking: Taking) -> list[ClaimedJob]:
        async def claim(only: list[int] | None) -> list[ClaimedJob]:
            found = await self._database.run(limits.claim(queue, only_ids=only, **taking))
            if found.wait is not None:
                self._wait = min(self._wait, max(found.wait, RATE_WAIT))
            return found.jobs

        return await self._narrowed(claim, limits.look(queue, **taking), taking)

    async def _narrowed(
        self,
        claim: Callable[[list[int] | None], Awaitable[list[ClaimedJob]]],
        look: Operation[list[Candidate]],
        taking: Taking,
        *,
        once: bool = False,
    ) -> list[ClaimedJob]:
        """Claim; refused, claim all but the jobs that are refused by themselves.

        Args:
            claim: claims only these jobs; None: whichever there are.
            look: which jobs it would claim.
            once: a part that is claimed is enough.
        """
        try:
            return await claim(None)
        except StatementRefused as refused:
            if not is_of_a_job(refused):
                raise
            candidates = await self._database.run(look)
            if not candidates:
                raise
        return await self._claim_parts(candidates, claim, taking, once=once)

    async def _claim_parts(
        self,
        candidates: Sequence[Candidate],
        claim: Callable[[list[int]], Awaitable[list[ClaimedJob]]],
        taking: Taking,
        *,
        once: bool = False,
    ) -> list[ClaimedJob]:
        jobs: list[ClaimedJob] = []

        async def claim_some(job_ids: list[int]) -> int:
            some = await claim(job_ids)
            jobs.extend(some)
            return len(some)

        try:
            await self._unstartable.claim(candidates, claim_some, once=once)
        except BaseException:
            if jobs:  # those of the parts before are given back
                self._unanswered.add(taking["claim_id"], until=time.monotonic() + self._lease)
            raise
        return jobs

    async def _claim_these(
        self, candidates: Sequence[Candidate], taking: Taking
    ) -> list[ClaimedJob]:
        return await self._claim_parts(
            candidates,
            lambda job_ids: self._database.run(claims.claim_these(job_ids, **taking)),
            taking,
        )

    async def _claim(
        self, room: int, take: Callable[[Taking], Awaitable[list[ClaimedJob]]]
    ) -> list[ClaimedJob]:
        sent_at, begun = clock.seconds(), time.monotonic()
        taking: Taking = {
            "limit": room,
            "claim_id": uuid4(),
            "worker_id": self._worker_id,
            "lease": self._lease,
            "only": self._only(),
            "not_ids": self._resting,
        }
        try:
            jobs = await take(taking)
        except BaseException as error:
            self._nothing_after = None
            if perhaps_done(error):
                self._unanswered.add(taking["claim_id"], until=begun + self._lease)
            raise
        self._took += time.monotonic() - begun
        if jobs:
            self._unstartable.claimed(jobs)
            if self._queues is None:
                self._learned({job.queue for job in jobs})
            self._executor.submit(jobs, sent_at)
        return jobs

    async def _sweep(self, taking: Taking) -> list[ClaimedJob]:
        begun = time.monotonic()
        slices, room = self._lanes.slices(begun), taking["limit"]
        sweep = claims.sweep(self._queues, slices, without=self._left_out, **taking)
        try:
            found = await self._database.run(sweep)
            full = len(found.jobs) == room
        except StatementRefused as refused:
            if refused.state == TOO_LONG:
                self._lanes.cut_short(time.monotonic(), time.monotonic() - begun)
                await self._start_further_on(begun)
                return await self._go_on(taking)
            if not is_of_a_job(refused):
                raise
            look = claims.look_behind(self._queues, slices, without=self._left_out, **taking)
            seen = await self._database.run(look)
            if not seen.jobs:
                raise
            jobs = await self._claim_these(seen.jobs, taking)
            found, full = Swept(jobs, seen.lanes, seen.at), len(seen.jobs) == room
        now = time.monotonic()
        self._lanes.swept(found, full=full, now=now, took=now - begun)
        if self._lanes.partial and not found.jobs:
            return await self._go_on(taking)
        return found.jobs

    async def _start_further_on(self, begun: float) -> None:
        """A look went over more dead rows than there was time for: where the last job ended there are few."""
        self.log.warning(CUT_SHORT, time.monotonic() - begun)
        places: list[Lane] = await self._database.run(claims.last_places(self._queues))
        self._lanes.start_at(places)

    async def _go_on(self, taking: Taking) -> list[ClaimedJob]:
        lanes, begun = self._lanes.in_order(), time.monotonic()
        skips, ended = self._crowd.skips, self._executor.ended
        try:
            if ended:
                jobs = await self.recorder.trade(ended, lanes, skips, taking, self._left_out)
            else:
                claim = claims.claim(lanes, skip_touched=skips, without=self._left_out, **taking)
                jobs = await self._database.run(claim)
        except StatementRefused as refused:
            if refused.state == TOO_LONG:
                await self._start_further_on(begun)
            if not is_of_a_job(refused):
                raise
            await self.recorder.record(ended)  # what was refused may be one of these
            look = claims.look_ahead(lanes, skip_touched=skips, without=self._left_out, **taking)
            seen = await self._database.run(look)
            jobs = await self._claim_these(seen, taking)
        self._lanes.claimed(jobs)
        self._crowd.claimed(full=len(jobs) == taking["limit"])
        return jobs

    async def _undo_unanswered(self) -> None:
        for claim_id in self._unanswered.due(time.monotonic()):
            released = await self._release(claim_id)
            if released:
                self.log.info("gave back %d jobs of an unanswered claim", len(released))
                await self.recorder.hold_again(released)
            self._unanswered.released(claim_id, time.monotonic())

    async def _release(self, claim_id: UUID) -> list[int]:
        """Give back what a claim took; a job that the database refuses to give back is tried again, and left to its lease."""
        try:
            return await self._database.run(claims.release(claim_id))
        except StatementRefused as refused:
            if not is_of_a_job(refused):
                raise
        released: list[int] = []

        async def act(some: Sequence[int]) -> None:
            given_back = await self._database.run(claims.release(claim_id, only_ids=some))
            released.extend(given_back)

        async def leave(job_id: int, error: StatementRefused) -> None:
            self.log.debug("job %d cannot be given back: %s", job_id, error)

        await in_parts(await self._database.run(claims.unstarted(claim_id)), act, leave)
        return released

    async def aclose(self) -> None:
        """Record and give back what is left, for a worker that was cancelled."""
        self._executor.release()
        await self.recorder.record(self._executor.ended)
        await self.recorder.record_postponed(ending=True)
        await self._undo_unanswered()
