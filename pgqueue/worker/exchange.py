"""Hands in outcomes and takes new jobs: the two ends of the worker's traffic with the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar
from uuid import UUID, uuid4

from pgqueue.job import ClaimedJob, Status
from pgqueue.operations import Operation, claims
from pgqueue.operations.claims import Finished
from pgqueue.worker.database import Database, DatabaseAway, StatementRefused
from pgqueue.worker.executor import Executor
from pgqueue.worker.lanes import Lanes
from pgqueue.worker.service import Service
from pgqueue.worker.unanswered import Unanswered

MOST_AT_ONCE = 1000
FIRST_IDLE_WAIT = 0.02


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
        delete_succeeded: bool,
        learned: Callable[[set[str]], None],
    ) -> None:
        super().__init__()
        self._database, self._executor = database, executor
        self._queues, self._worker_id = queues, worker_id
        self._lease, self._poll = lease, poll
        self._delete = delete_succeeded
        self._learned = learned
        self._lanes = Lanes()
        self._idle = 0
        self._unanswered = Unanswered()
        self.claiming = True
        self.empty = False
        self.lost = 0
        self.unknown = 0

    async def run_once(self) -> float:
        await self._record()
        await self._undo_unanswered()
        if not self.claiming:
            return self._poll
        room = min(self._executor.room(), MOST_AT_ONCE)
        if room <= 0:
            return 0.0 if self._executor.ended else self._poll
        claimed, swept = await self._claim(room)
        if claimed or self._executor.ended:
            self._idle, self.empty = 0, False
            return 0.0 if len(claimed) == room or self._executor.ended else self._idle_wait(swept)
        self.empty = swept
        return self._idle_wait(swept)

    def _idle_wait(self, swept: bool) -> float:
        # Producers limit their notifications, so for a moment after activity look often.
        if not swept:
            return max(self._lanes.until_sweep(time.monotonic()), 0.001)
        wait = FIRST_IDLE_WAIT * float(2 ** min(self._idle, 16))
        self._idle += 1
        return float(min(wait, self._poll))

    async def _claim(self, room: int) -> tuple[list[ClaimedJob], bool]:
        claim_id, sent_at = uuid4(), time.monotonic()
        sweep = self._lanes.sweep_due(sent_at)
        common = {"limit": room, "claim_id": claim_id, "worker_id": self._worker_id}
        operation: Operation[list[ClaimedJob]]
        if sweep:
            operation = claims.sweep(self._queues, lease=self._lease, **common)  # type: ignore[arg-type]
        else:
            operation = claims.claim(self._lanes.in_order(), lease=self._lease, **common)  # type: ignore[arg-type]
        try:
            jobs = await self._database.run(operation)
        except BaseException as error:
            self.empty = False
            if _perhaps_done(error):
                self._unanswered.add(claim_id, until=sent_at + self._lease)
            raise
        now = time.monotonic()
        if sweep:
            self._lanes.swept(jobs, full=len(jobs) == room, now=now, took=now - sent_at)
        else:
            self._lanes.claimed(jobs)
        if jobs:
            if self._queues is None:
                self._learned({job.queue for job in jobs})
            self._executor.submit(jobs, sent_at)
        return jobs, sweep

    async def _undo_unanswered(self) -> None:
        for claim_id in self._unanswered.due(time.monotonic()):
            released = await self._database.run(claims.release(claim_id))
            if released:
                self.log.info("gave back %d jobs of an unanswered claim", len(released))
            self._unanswered.released(claim_id, time.monotonic())

    async def aclose(self) -> None:
        """Record and give back what is left, for a worker that was cancelled."""
        self._executor.release()
        await self._record()
        await self._undo_unanswered()

    async def _record(self) -> None:
        """Record everything that has ended; on failure keep it for the next pass."""
        while self._executor.ended:
            batch = self._executor.ended[:MOST_AT_ONCE]
            del self._executor.ended[:MOST_AT_ONCE]
            done = [f for f in batch if f.outcome.kind == "succeeded"]
            other = [f for f in batch if f.outcome.kind != "succeeded"]
            if done:
                await self._write(done, claims.complete(done, delete=self._delete), other)
            if other:
                statuses = await self._write(other, claims.fail(other), [])
                for job_id, status in statuses.items():
                    if status is Status.DEAD:
                        self.log.error("job %d is dead: see pgqueue job %d", job_id, job_id)

    async def _write(
        self,
        finished: list[Finished],
        operation: Operation[list[int]] | Operation[dict[int, Status]],
        rest: list[Finished],
    ) -> dict[int, Status]:
        try:
            result: list[int] | dict[int, Status] = await self._database.run(operation)  # type: ignore[arg-type]
        except BaseException as error:
            if _perhaps_done(error):
                finished = [replace(f, doubtful=True) for f in finished]
            self._executor.ended[:0] = finished + rest
            raise
        recorded = set(result)
        self._count_missing([f for f in finished if f.id not in recorded])
        return result if isinstance(result, dict) else {}

    def _count_missing(self, missing: list[Finished]) -> None:
        """No row was found: recorded already when that is possible, else the claim was lost."""
        lost = [f.id for f in missing if not f.doubtful]
        self.lost += len(lost)
        self.unknown += len(missing) - len(lost)
        if lost:
            self.log.warning("%d results dropped, their claims were lost: jobs %s",
                             len(lost), lost[:20])  # fmt: skip
        if len(missing) > len(lost):
            self.log.info("%d results were recorded before without an answer, or were lost",
                          len(missing) - len(lost))  # fmt: skip


def _perhaps_done(error: BaseException) -> bool:
    """May a statement that failed like this have been carried out?"""
    if isinstance(error, DatabaseAway):
        return error.sent
    return not isinstance(error, StatementRefused)
