"""The thread beside the jobs: a blocked event loop loses no lease, and leaves no notification unread.

PostgreSQL keeps every row that is newer than the oldest notification a session has not read.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import ClassVar
from uuid import UUID

from pgqueue.operations import Operation, claims
from pgqueue.operations.claims import Beat
from pgqueue.worker import clock
from pgqueue.worker.database import PATIENCE, Database, StatementRefused
from pgqueue.worker.outage import Outage
from pgqueue.worker.parts import in_parts, may_divide
from pgqueue.worker.run import Reason, Run, say
from pgqueue.worker.service import Keeper, Service

Held = Callable[[], Iterable[Run]]
Interrupt = Callable[[Run, Reason], None]
GiveUp = Callable[[Run], object]
MOST_BACKOFF = 1.0
LAST_PASS = 1.0  # seconds
TELL_EVERY = 1.0
GIVEN_UP = "its lease could not be renewed in time: stopping it, before others may start it"


def patience(lease: float) -> float:
    """Seconds to wait for an answer: after a third of the lease the next beat is due."""
    return min(PATIENCE, max(lease / 3, 1.0))


class Renewer(Service):
    """Renews the leases of jobs held longer than a third of the lease.

    ``answered_at``: when the last answered renewal was sent, by the clock of leases.
    """

    name: ClassVar[str] = "renewer"

    def __init__(
        self, *, database: Database, worker_id: UUID, lease: float, held: Held, interrupt: Interrupt
    ) -> None:
        super().__init__(most_backoff=MOST_BACKOFF)
        self.answered_at = 0.0
        self._locked: set[int] = set()
        self._database, self._worker_id, self._lease = database, worker_id, lease
        self._held, self._interrupt = held, interrupt

    async def run_once(self) -> float:
        now = clock.seconds()
        due = [
            run for run in self._held()
            if run.reason is None
            and (now - run.renewed_at > self._lease / 3 or run.job.id in self._locked)
        ]  # fmt: skip
        if due or self._locked:
            try:
                locked = await self._renew(due, now)
            except StatementRefused as error:
                if not may_divide(error):
                    raise
                locked = await self._renew_in_parts(due, now)
            self._locked = {run.job.id for run in locked}
            self.answered_at = now
        return self._lease / 6

    async def _renew(self, runs: Sequence[Run], now: float) -> list[Run]:
        """Renew leases; those whose rows others have locked, and which the worker's own row holds now."""
        pairs = [(run.job.id, run.job.claim_id) for run in runs]
        held = await self._database.run(
            claims.heartbeat(pairs, worker_id=self._worker_id, lease=self._lease)
        )
        for run in runs:
            self._renewed(run, held.get(run.job.id), now)
        return [run for run in runs if (beat := held.get(run.job.id)) is not None and beat.locked]

    async def _renew_in_parts(self, due: list[Run], now: float) -> list[Run]:
        """One that the database refuses to renew is lost in the end, and no other."""
        locked: list[Run] = []

        async def act(some: Sequence[Run]) -> None:
            locked.extend(await self._renew(some, now))

        async def refused(run: Run, error: StatementRefused) -> None:
            say(self.log, logging.ERROR, run, f"its lease cannot be renewed: {error}")

        await in_parts(due, act, refused)
        # Each renewal forgets the locked ones of the one before.
        return await self._renew(locked, now) if locked else []

    def _renewed(self, run: Run, beat: Beat | None, now: float) -> None:
        if beat is None:
            say(self.log, logging.WARNING, run, "its claim was lost: stopping it")
            self._interrupt(run, "lost")
            return
        if beat.kept:
            run.renewed_at = now
        if beat.cancel_requested:
            self._interrupt(run, "cancelled")


class Progresses(Service):
    """Writes how far jobs are, as their handlers say, once a second."""

    name: ClassVar[str] = "progress"

    def __init__(self, *, database: Database, held: Held) -> None:
        super().__init__(most_backoff=MOST_BACKOFF)
        self._database, self._held = database, held

    async def run_once(self) -> float:
        said = [
            (run.job.id, run.job.claim_id, text)
            for run in self._held()
            if run.context is not None and run.context.said is not None
            and (text := run.context.said.news()) is not None
        ]  # fmt: skip
        await in_parts(said, self._tell, self._refused)
        return TELL_EVERY

    async def _tell(self, said: Sequence[tuple[int, UUID, str]]) -> None:
        await self._database.run(claims.note_progress(said))

    async def _refused(self, said: tuple[int, UUID, str], error: StatementRefused) -> None:
        if self._seldom(error.state):
            self.log.error("the progress of job %d cannot be written: %s", said[0], error)


class Abandoner(Service):
    """Gives up jobs that could not be renewed, and those that go on after they were to end, before their leases can end.

    The latter, a thread that never looks or a coroutine that swallows its cancellation, are recorded as what they
    are: were their leases to run out, others would take it for a crash.

    It does not touch the database: it must go on while a statement hangs. When the whole process has stood still (a
    suspended machine, SIGSTOP), nothing could be renewed, and the leases may hold all the same: then it waits until
    one renewal has been answered, or has had its time.
    """

    name: ClassVar[str] = "abandoner"

    def __init__(
        self,
        *,
        lease: float,
        held: Held,
        interrupt: Interrupt,
        give_up: GiveUp,
        renewer: Renewer,
    ) -> None:
        super().__init__()
        self._give_up = give_up
        self._margin = lease / 6
        self._longest = lease - self._margin
        self._patience = patience(lease)
        self._held, self._interrupt = held, interrupt
        self._renewer = renewer
        self._looked_at, self._resumed_at = clock.seconds(), float("-inf")

    async def run_once(self) -> float:
        now = clock.seconds()
        if now - self._looked_at > self._margin:
            self._resumed_at = now
            self.log.warning("this process stood still for %.1f s", now - self._looked_at)
            self._renewer.wake()
        self._looked_at = now
        if not self._waits(now):
            for run in self._held():
                if now - run.renewed_at <= self._longest:
                    continue
                if run.reason is None:
                    say(self.log, logging.WARNING, run, GIVEN_UP)
                    self._interrupt(run, "lost")
                elif run.reason in ("timeout", "cancelled"):
                    self._give_up(run)
        return self._margin / 4

    def _waits(self, now: float) -> bool:
        """Has it stood still, and no renewal been answered since?"""
        recently = now - self._resumed_at <= self._patience
        return recently and self._renewer.answered_at < self._resumed_at


class Presence(Service):
    """Says that this worker is alive, and that it is stopping as soon as it is."""

    name: ClassVar[str] = "presence"

    def __init__(
        self, *, database: Database, alive: Callable[[], Operation[None]], every: float
    ) -> None:
        super().__init__()
        self._database, self._alive, self._every = database, alive, every

    async def run_once(self) -> float:
        await self._database.run(self._alive())
        return self._every


class Heartbeat:
    """The thread of these services, with an event loop and a connection of its own.

    Args:
        worker_id: of the worker, which holds what others have locked.
        lease: seconds a claim or a renewal holds.
        held: the jobs in this worker; called from the thread.
        give_up: records, in the event loop of the jobs, a run whose handler goes on after it was to end.
        alive: makes the statement that says the worker is alive.
        loop: the event loop of the jobs, where they are interrupted.
        beside: makes services that run in the thread as well, given its connection.
    """

    def __init__(
        self,
        *,
        dsn: str,
        schema: str,
        outage: Outage,
        worker_id: UUID,
        lease: float,
        held: Held,
        give_up: GiveUp,
        alive: Callable[[], Operation[None]],
        loop: asyncio.AbstractEventLoop,
        beside: Callable[[Database], list[Service]] = lambda database: [],
    ) -> None:
        self._beside = beside
        self._dsn, self._schema, self._outage = dsn, schema, outage
        self._worker_id = worker_id
        self._lease, self._held, self._alive = lease, held, alive
        self._give_up = give_up
        self._jobs = loop
        self._ready = threading.Event()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(
            target=copy_context().run, args=[self._run], name="pgqueue-heartbeat", daemon=True
        )

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """End the thread, whatever it waits for."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        database = Database(
            self._dsn,
            self._schema,
            name="heartbeat",
            outage=self._outage,
            patience=patience(self._lease),
        )
        services = self._services(database)
        tasks = [asyncio.create_task(s.run(), name=s.name) for s in services]
        self._ready.set()
        await self._ended.wait()
        # What is said last must not be carried out after the worker has taken its leave.
        for each in services:
            each.stop()
        await asyncio.wait(tasks, timeout=LAST_PASS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await database.close()

    def _services(self, database: Database) -> list[Service]:
        lease, held, interrupt, jobs = self._lease, self._held, self._interrupt, self._jobs
        self._presence = Presence(database=database, alive=self._alive, every=lease / 3)
        renewer = Renewer(
            database=database,
            worker_id=self._worker_id,
            lease=lease,
            held=held,
            interrupt=interrupt,
        )
        return [
            Abandoner(
                lease=lease,
                held=held,
                interrupt=interrupt,
                give_up=lambda run: jobs.call_soon_threadsafe(self._give_up, run),
                renewer=renewer,
            ),
            renewer,
            self._presence,
            Keeper(database, most_backoff=MOST_BACKOFF),
            *self._beside(database),
        ]

    def say_now(self) -> None:
        """Say at once that the worker is alive: something about it has changed."""
        if self._ready.is_set():
            with suppress(RuntimeError):  # it has ended
                self.call(self._presence.wake)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function of a service in the thread."""
        self._loop.call_soon_threadsafe(function)

    def _interrupt(self, run: Run, reason: Reason) -> None:
        self._jobs.call_soon_threadsafe(run.interrupt, reason)
