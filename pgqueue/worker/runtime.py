"""Builds the services of a worker process, starts them, and stops them in order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from itertools import islice
from typing import Any
from uuid import uuid4

from pgqueue.app import App
from pgqueue.config import Settings
from pgqueue.connect import describe
from pgqueue.context import Context
from pgqueue.drivers import read_only
from pgqueue.job import ClaimedJob
from pgqueue.operations import Operation, maintenance, workflows
from pgqueue.operations.quarantine import TOGETHER
from pgqueue.user_frames import exc_info_of
from pgqueue.worker.admission import POOLED, admit
from pgqueue.worker.database import Database, DatabaseAway, DatabaseTrouble
from pgqueue.worker.exchange import Exchange
from pgqueue.worker.executor import Executor
from pgqueue.worker.handlers import Handlers
from pgqueue.worker.heartbeat import Heartbeat, Progresses
from pgqueue.worker.hooking import Hooking
from pgqueue.worker.maintaining import maintaining
from pgqueue.worker.notifier import Notifier
from pgqueue.worker.outage import Outage
from pgqueue.worker.pools import Pools, declared, say_tasks, summary
from pgqueue.worker.processes import Processes
from pgqueue.worker.quarantine import Apart, SuspectExchange, Watch
from pgqueue.worker.queues import Queues
from pgqueue.worker.recorder import Recorder, Recordings
from pgqueue.worker.recycler import Recycler
from pgqueue.worker.resources import Resources
from pgqueue.worker.run import Run
from pgqueue.worker.service import Keeper, Service
from pgqueue.worker.settler import Settler
from pgqueue.worker.shutdown import Shutdown, either
from pgqueue.worker.slots import Slots
from pgqueue.worker.supervisor import AT_WORK, supervised, tell
from pgqueue.worker.threads import DaemonThreads, in_thread
from pgqueue.worker.turns import of_process
from pgqueue.worker.unknown import Unknown

log = logging.getLogger("pgqueue.worker")

FORGET_WORKERS = 300.0
GOODBYE = 3.0
MOST_WAIT = 1.0
MOST_CHANNELS = 1000
DRAIN_WITHIN = 10.0
CLOSING = 4.0
DISTRIBUTION = "pgqueue-postgres"


class Runtime:
    """One worker process while it runs. ``queues`` maps each to its concurrency; None: all."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        queues: Pools,
        *,
        drain: bool = False,
        max_jobs: int | None = None,
        ends_process: bool = False,
        apart: Apart | None = None,
    ) -> None:
        self.app, self.settings, self._queues, self._drain = app, settings, queues, drain
        self._apart = apart or Apart()
        self.id, self._loop = uuid4(), asyncio.get_running_loop()
        self._outage = Outage(app.dsn)
        self.shutdown = Shutdown(
            lambda: self._pairs,
            drain=drain,
            max_jobs=max_jobs,
            grace=settings.grace,
            ends_process=ends_process,
            settled=lambda: self.settler.at_rest and self._suspects_seen_to(),
            changed=lambda: self.heartbeat.say_now(),
        )
        self.database = Database(app.dsn, app.schema, outage=self._outage)
        self._threads = DaemonThreads(sum(queues.values()), "pgqueue-job")
        self._own_threads = DaemonThreads(2, "pgqueue-own")
        self._processes = Processes(
            settings.processes, dsn=app.dsn, schema=app.schema, privacy=app.privacy
        )
        self.hooking, self.resources = Hooking(app.hooks), Resources(app.resources)
        self._wanted: set[str] = set()
        self._recordings = Recordings()
        self.notifier: Notifier | None = None
        self.recycler = Recycler(
            max_rss=settings.max_rss,
            stuck=self._stuck,
            ends_process=ends_process,
            recycle=self.shutdown.recycle,
            threads=self._own_threads,
            apart=self._apart.pids,
        )
        self.settler = Settler(database=self.database, released=self._look_anew)
        self.known = Queues.of_app(app, settings, self.database)
        self.unknown = Unknown(app.names, patience=settings.newer_worker_wait)
        self.handlers = self._handlers()
        self.watch = self._watch()
        ordinary = [] if self._apart.only else [self._pool(*pool) for pool in queues.items()]
        suspects = (
            [self._quarantine(*pool) for pool in queues.items()] if self.watch is None else []
        )
        self._pairs = [*ordinary, *suspects]
        self.executors = [executor for executor, _ in self._pairs]
        self.exchanges = [exchange for _, exchange in ordinary]
        self.quarantines = [exchange for _, exchange in suspects]
        self.services: list[Service] = [*self.exchanges, *self.quarantines, self.recycler]
        self.services += self._serving()
        self.heartbeat = self._heartbeat()

    def _serving(self) -> list[Service]:
        """The services beside the jobs; a process of suspects, which comes and goes, has the least."""
        if self._apart.only:
            return [self.known, self.settler, Keeper(self.database)]
        watch = [] if self.watch is None else [self.watch]
        return [*watch, *maintaining(self.app, self.settings, self.database, self.known, self.hooking,
                                     self.settler, self._wake_claimers, self._suspected)]  # fmt: skip

    def _pool(self, names: tuple[str, ...] | None, concurrency: int) -> tuple[Executor, Exchange]:
        isolation = self._apart.isolation
        executor = self._executor(concurrency, self.settings.prefetch, lambda: exchange.wake())
        exchange = Exchange(**self._exchanging(names, executor))
        exchange.passed = isolation.changed
        isolation.add(executor, exchange)
        self._wanted |= set(names) if names is not None else declared(self.app)
        return executor, exchange

    def _quarantine(
        self, names: tuple[str, ...] | None, concurrency: int
    ) -> tuple[Executor, SuspectExchange]:
        executor = self._executor(min(concurrency, TOGETHER), 0, lambda: exchange.wake())
        exchange = SuspectExchange(
            isolation=self._apart.isolation,
            leave=self.shutdown.stop if self._apart.only else None,
            **self._exchanging(names, executor),
        )
        return executor, exchange

    def _executor(
        self, concurrency: int, prefetch: int | None, wake: Callable[[], None]
    ) -> Executor:
        return Executor(
            slots=Slots(concurrency, prefetch=prefetch, budget=self.shutdown.budget),
            handlers=self.handlers,
            processes=self._processes,
            lease=self.settings.lease,
            wake=wake,
        )

    def _exchanging(self, names: tuple[str, ...] | None, executor: Executor) -> dict[str, Any]:
        settings = self.settings
        return {
            "database": self.database,
            "executor": executor,
            "queues": None if names is None else list(names),
            "worker_id": self.id,
            "lease": settings.lease,
            "poll": settings.poll,
            "recorder": Recorder(
                database=self.database,
                deletes=self.known.deletes_succeeded,
                hooking=self.hooking,
                settle=self.settler.ended,
                postponed=executor.postponed,
                recordings=self._recordings,
            ),
            "learned": self._learned,
            "known": self.known,
            "turns": of_process(),
            "processes": self._processes,
            "only": lambda: self.unknown.only,
        }

    def _handlers(self) -> Handlers:
        self.app.connections.fit(sum(self._queues.values()))
        return Handlers(
            longest=self.known.timeout,
            definition=self.app.definition,
            make_context=partial(
                Context,
                schema=self.app.schema,
                connect=self.app.connections.sync,
                aconnect=self.app.connections.aio,
                resources=self.resources.opened,
                identity=lambda: self._processes.identity,
                conceals=self._concealer,
            ),
            threads=self._threads,
            processes=self._processes,
            privacy=self.app.privacy,
            unknown=self.unknown,
            around=self.app.around_runs,
            results=lambda *wanted: self.database.run(workflows.results(*wanted)),
        )

    def _concealer(self, job: ClaimedJob) -> Callable[[str], str]:
        """Takes the secrets of a running job out of text."""
        definition = self.app.definition(job.task)
        assert definition is not None
        arguments = definition.signature.decode(job.args, task=job.task, keys=self.app.keys)
        return definition.concealer(self.app.privacy, job, arguments)

    def _beside(self, control: Database) -> list[Service]:
        """In the heartbeat's thread."""
        return [Progresses(database=control, held=self._held), *self._notifier(control)]

    def _notifier(self, control: Database) -> list[Service]:
        if not self.settings.notify:
            return []
        database = Database(
            self.app.dsn,
            self.app.schema,
            name="listen",
            outage=self._outage,
            lost=lambda: notifier.wake(),
        )
        notifier = self.notifier = Notifier(
            database=database,
            control=control,
            on_wake=lambda: self._loop.call_soon_threadsafe(self._wake_claimers),
        )
        notifier.want(self._wanted)
        return [notifier]

    def _learned(self, queues: set[str]) -> None:
        """Listen for these queues as well; of more than a thousand the others are polled."""
        queues = set(islice(queues - self._wanted, max(MOST_CHANNELS - len(self._wanted), 0)))
        if queues:
            self._wanted |= queues
            if (notifier := self.notifier) is not None:
                self.heartbeat.call(lambda: notifier.want(queues))

    def _heartbeat(self) -> Heartbeat:
        names = [n for key in self._queues if key is not None for n in key] or None
        declarations = [schedule.digest for schedule in self.app.schedules]

        def alive() -> Operation[None]:
            return maintenance.worker_seen(
                self.id,
                host=socket.gethostname(),
                pid=os.getpid(),
                version=version(DISTRIBUTION),
                queues=names,
                tasks=sorted(self.app.names()),
                declares=self.app.schedule_names,
                declarations=declarations,
                limits=self.known.declared.as_json(),
                lease=self.settings.lease,
                state="stopping" if self.shutdown.ending else "running",
                forget=FORGET_WORKERS,
                quarantine=self._apart.only,
            )

        return Heartbeat(
            dsn=self.app.dsn,
            schema=self.app.schema,
            outage=self._outage,
            worker_id=self.id,
            lease=self.settings.lease,
            held=self._held,
            give_up=self._give_up,
            alive=alive,
            loop=self._loop,
            beside=self._beside,
        )

    def _held(self) -> Iterator[Run]:
        for executor in self.executors:
            yield from list(executor.held.values())
            yield from executor.postponed.runs()

    def _give_up(self, run: Run) -> None:
        for executor in self.executors:
            executor.give_up(run)

    def _stuck(self) -> list[Run]:
        return [run for executor in self.executors for run in executor.stuck()]

    def _watch(self) -> Watch | None:
        """Where suspects run elsewhere, who asks for it."""
        if self._apart.only or self._apart.isolate is None:
            return None
        names = [name for key in self._queues for name in key or ()]
        queues = None if None in self._queues else names
        return Watch(database=self.database, queues=queues, isolate=self._apart.isolate)

    def _suspected(self) -> None:
        for each in self.quarantines if self.watch is None else [self.watch]:
            each.wake()

    def _suspects_seen_to(self) -> bool:
        """Has this worker, draining, asked for a process for all suspects it knows, and has its own ended?"""
        return self.watch is None or (self.watch.looked and self._apart.at_rest())

    def _look_anew(self) -> None:
        for exchange in self.exchanges:
            exchange.look_again()

    def _wake_claimers(self) -> None:
        for exchange in self.exchanges:
            exchange.wake()

    @property
    def recycled(self) -> bool:
        """Is the process to be replaced?"""
        return self.shutdown.recycled

    @property
    def running(self) -> int:
        """How many handlers run."""
        return sum(executor.slots.running for executor in self.executors)

    def stop(self) -> None:
        """Stop claiming and end when running jobs have; called again, do not wait for them."""
        self.shutdown.stop()

    async def run(self) -> None:
        """Work until stopped (or, draining, until nothing is due).

        Raises:
            SchemaError: the database's schema is missing, older or newer.
            ConfigError: max_rss is less than the process needs before its first job.
            PrivilegeMissing: the database role may not do what a worker does.
            ConnectionRefusedError: a wrong password, or no such database.
        """
        self.recycler.check()
        try:
            await self._admitted()
            opened = await self._open_resources()
        except BaseException:
            await _within(CLOSING, self.resources.close, "the resources of handlers")
            await self.database.close()
            raise
        if not opened:
            log.warning("stopped while the resources of handlers were opened")
            await self._leave()
            return
        if self.database.pooled and not supervised():  # else the supervisor has said so
            log.warning(POOLED, self.settings.poll)
        self.heartbeat.start()
        tell(AT_WORK)
        if not self.shutdown.stopping.is_set():
            what = "suspects of " if self._apart.only else ""
            log.info("worker %s: %s%s", self.id, what, summary(self._queues))
            if not supervised():  # else the supervisor has said so
                say_tasks(self.app, self._queues)
        try:
            async with asyncio.TaskGroup() as group:
                for service in self.services:
                    group.create_task(service.run(), name=service.name)
                group.create_task(self._until_ended(), name="shutdown")
        finally:
            for executor in self.executors:
                executor.interrupt_all()
                self._apart.isolation.remove(executor)
            await self._close()

    async def _open_resources(self) -> bool:
        """Open what handlers use; False if the worker was told to stop before all was open."""
        opening = asyncio.create_task(self.resources.open())
        stopping = asyncio.create_task(self.shutdown.stopping.wait())
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not opening.done():
            opening.cancel()
            await asyncio.wait({opening}, timeout=CLOSING)
            return False
        await opening
        return True

    async def _close(self) -> None:
        """End all that belongs to the worker, within a few seconds, whatever hangs."""
        await in_thread(self._own_threads, self.heartbeat.stop)
        await self.hooking.finish(self.shutdown.left(after=GOODBYE))
        await asyncio.gather(
            _within(CLOSING, self.resources.close, "the resources of handlers"),
            _within(CLOSING, self._leave, "the connection to the database"),
            _within(CLOSING, self.app.connections.aclose, "the connections of handlers"),
            _within(CLOSING, self._processes.aclose, "the processes of handlers"),
        )
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._own_threads.shutdown(wait=False)

    async def _leave(self) -> None:
        await self._say_goodbye()
        await self.database.close()

    async def _admitted(self) -> None:
        """Wait for the database, and see whether it can be worked on; draining, not for long.

        Raises:
            DatabaseAway: draining, and it did not answer.
            DatabaseReadOnly: draining, and it is a standby.
        """
        wait, since = 0.1, time.monotonic()
        while not self.shutdown.stopping.is_set():
            try:
                # What a supervisor has warned of is not said again by each process that it starts.
                await admit(self.database, self.app.schema, remark=not supervised())
                if self._drain and await self.database.run(maintenance.read_only()):
                    raise read_only()
                self._processes.identity = await self.database.run(maintenance.schema_id())
                await self.known.declare()
                await self.known.look()
                return
            except DatabaseAway as away:
                if self._drain and time.monotonic() - since > DRAIN_WITHIN:
                    raise DatabaseAway(
                        f"{describe(self.app.dsn)} did not answer within {DRAIN_WITHIN:g} s, so there is"
                        f" nothing to drain: {away}", sent=False,
                    ) from None  # fmt: skip
                await either(self.shutdown.stopping, timeout=wait)
                wait = min(wait * 2, MOST_WAIT)

    async def _until_ended(self) -> None:
        await self.shutdown.run()
        for service in self.services:
            service.stop()

    async def _say_goodbye(self) -> None:
        with suppress(DatabaseTrouble, TimeoutError):
            async with asyncio.timeout(GOODBYE):
                await self.database.run(maintenance.worker_gone(self.id))


async def _within(seconds: float, act: Callable[[], Awaitable[object]], what: str) -> None:
    """Await what may never end, for so long at most; an error of it is logged."""
    task = asyncio.ensure_future(act())
    await asyncio.wait({task}, timeout=seconds)
    if not task.done():
        log.error("%s could not be closed within %.0f s: left as they are", what, seconds)
        task.cancel()
    elif not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s could not be closed", what, exc_info=exc_info_of(error))
