"""Builds the services of a worker process, starts them, and stops them in order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from uuid import uuid4

from pgqueue import schema
from pgqueue.app import App
from pgqueue.config import Settings
from pgqueue.context import Context
from pgqueue.dispatch import Job
from pgqueue.job import ClaimedJob, Status
from pgqueue.operations import maintenance
from pgqueue.worker.database import Database, DatabaseAway, DatabaseTrouble
from pgqueue.worker.exchange import Exchange
from pgqueue.worker.executor import Executor
from pgqueue.worker.heartbeat import Heartbeat
from pgqueue.worker.maintenance import Pruner, Rescuer
from pgqueue.worker.notifier import Notifier
from pgqueue.worker.outage import Outage
from pgqueue.worker.processes import Processes
from pgqueue.worker.run import Run
from pgqueue.worker.service import Keeper, Service

log = logging.getLogger("pgqueue.worker")

FORGET_WORKERS = 300.0
GOODBYE = 3.0
DISTRIBUTION = "pgqueue-postgres"
POOLED = (
    "a pooler such as PgBouncer is between this worker and PostgreSQL: it cannot be woken and looks"
    " for new jobs every %g s; give workers a DSN that leads to PostgreSQL itself"
)


class Runtime:
    """One worker process while it runs. ``queues`` maps each to its concurrency; None: all."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        queues: Mapping[tuple[str, ...] | None, int],
        *,
        drain: bool = False,
        max_jobs: int | None = None,
        ends_process: bool = False,
    ) -> None:
        self.app, self.settings = app, settings
        self.id = uuid4()
        self._loop = asyncio.get_running_loop()
        self._drain, self._max_jobs = drain, max_jobs
        self._ends_process = ends_process
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._queues = queues
        self._outage = Outage(app.dsn)
        self.database = Database(app.dsn, app.schema, outage=self._outage)
        total = sum(queues.values())
        self._threads = ThreadPoolExecutor(total, thread_name_prefix="pgqueue-job")
        self._processes = Processes(settings.processes, dsn=app.dsn, schema=app.schema)
        self.notifier = self._notifier()
        self._pairs = [self._pool(names, size) for names, size in queues.items()]
        self.executors = [executor for executor, _ in self._pairs]
        self.exchanges = [exchange for _, exchange in self._pairs]
        self.services: list[Service] = [*self.exchanges, *self._maintenance()]
        if settings.notify:
            self.services.append(self.notifier)
        self.heartbeat = self._heartbeat()

    def _pool(self, names: tuple[str, ...] | None, concurrency: int) -> tuple[Executor, Exchange]:
        settings = self.settings
        executor = Executor(
            concurrency=concurrency,
            prefetch=settings.prefetch,
            default_timeout=settings.default_timeout,
            definition=self.app.definition,
            make_context=self._context,
            threads=self._threads,
            processes=self._processes,
            wake=lambda: exchange.wake(),
            budget=self._budget,
        )
        exchange = Exchange(
            database=self.database,
            executor=executor,
            queues=None if names is None else list(names),
            worker_id=self.id,
            lease=settings.lease,
            poll=settings.poll,
            delete_succeeded=settings.keep_succeeded == 0,
            learned=self.notifier.want,
        )
        self.notifier.want(set(names) if names is not None else _declared(self.app))
        return executor, exchange

    def _notifier(self) -> Notifier:
        database = Database(
            self.app.dsn,
            self.app.schema,
            name="listen",
            outage=self._outage,
            lost=lambda: self.notifier.wake(),
        )
        return Notifier(database=database, control=self.database, on_wake=self._wake_claimers)

    def _maintenance(self) -> list[Service]:
        settings = self.settings
        keep = {
            Status.SUCCEEDED: settings.keep_succeeded,
            Status.DEAD: settings.keep_dead,
            Status.CANCELLED: settings.keep_cancelled,
        }
        rescuer = Rescuer(
            database=self.database,
            lease=settings.lease,
            max_crashes=settings.max_crashes,
            rescued=self._wake_claimers,
        )
        pruner = Pruner(database=self.database, keep=keep)
        return [rescuer, pruner, Keeper(self.database)]

    def _heartbeat(self) -> Heartbeat:
        names = [n for key in self._queues if key is not None for n in key] or None
        alive = maintenance.worker_seen(
            self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version(DISTRIBUTION),
            queues=names,
            forget=FORGET_WORKERS,
        )
        return Heartbeat(
            dsn=self.app.dsn,
            schema=self.app.schema,
            outage=self._outage,
            lease=self.settings.lease,
            held=self._held,
            alive=alive,
            loop=self._loop,
        )

    def _context(self, job: ClaimedJob) -> Context:
        connections = self.app.connections
        return Context(
            job, schema=self.app.schema, connect=connections.sync, aconnect=connections.aio
        )

    def _held(self) -> Iterator[Run]:
        for executor in self.executors:
            yield from list(executor.held.values())

    def _wake_claimers(self) -> None:
        for exchange in self.exchanges:
            exchange.wake()

    def stop(self) -> None:
        """Stop claiming and end when running jobs have; called again, do not wait for them."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Work until stopped (or, draining, until nothing is due).

        Raises:
            SchemaError: the database's schema is missing, older or newer.
        """
        await self._check_schema()
        if self.database.pooled:
            log.warning(POOLED, self.settings.poll)
        self.heartbeat.start()
        log.info("worker %s: %s", self.id, self._summary())
        try:
            async with asyncio.TaskGroup() as group:
                for service in self.services:
                    group.create_task(service.run(), name=service.name)
                group.create_task(self._until_stopped(), name="stopper")
        finally:
            for executor in self.executors:
                executor.interrupt_all()
            await asyncio.to_thread(self.heartbeat.stop)
            await self._say_goodbye()
            await self.database.close()
            await self.app.aclose()
            self._processes.close()
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _check_schema(self) -> None:
        wait = 0.1
        while not self._stop.is_set():
            try:
                schema.check(await self.database.run(maintenance.schema_version(self.app.schema)))
                return
            except DatabaseAway:
                await _either(self._stop, timeout=wait)
                wait = min(wait * 2, 15.0)

    async def _until_stopped(self) -> None:
        if self._drain or self._max_jobs is not None:
            await self._until_done()
        else:
            await self._stop.wait()
        await self._shut_down()

    async def _until_done(self) -> None:
        while not self._stop.is_set():
            if self._drain and all(
                exchange.empty and executor.idle for executor, exchange in self._pairs
            ):
                return
            if self._max_jobs is not None and self._finished >= self._max_jobs:
                return
            await _either(self._stop, timeout=0.02)

    def _budget(self) -> int | None:
        """How many more jobs may be claimed before this process is to end; None for no limit."""
        if self._max_jobs is None:
            return None
        return self._max_jobs - sum(executor.taken for executor in self.executors)

    @property
    def _finished(self) -> int:
        return sum(executor.count for executor in self.executors)

    async def _shut_down(self) -> None:
        for executor, exchange in self._pairs:
            exchange.claiming = False
            executor.release()
            exchange.hurry()
        deadline = time.monotonic() + self.settings.grace
        if not await self._wait_idle(deadline):
            log.warning("%d jobs still run after the grace time", sum(1 for _ in self._held()))
            for executor in self.executors:
                executor.interrupt_all()
            await self._wait_idle(time.monotonic() + 2.0, hurry=False)
            if self._ends_process:
                for executor in self.executors:
                    executor.abandon()
                await self._wait_idle(time.monotonic() + 5.0, hurry=False)
        for service in self.services:
            service.stop()

    async def _wait_idle(self, deadline: float, *, hurry: bool = True) -> bool:
        while not all(executor.idle for executor in self.executors):
            if time.monotonic() >= deadline or (hurry and self._hurry.is_set()):
                return False
            self._wake_claimers()
            await asyncio.sleep(0.02)
        return True

    async def _say_goodbye(self) -> None:
        with suppress(DatabaseTrouble, TimeoutError):
            async with asyncio.timeout(GOODBYE):
                await self.database.run(maintenance.worker_gone(self.id))

    def _summary(self) -> str:
        parts = [
            f"{'all queues' if names is None else ', '.join(names)}: {size} at a time"
            for names, size in self._queues.items()
        ]
        return "; ".join(parts)


def _declared(app: App) -> set[str]:
    definitions = [*app.tasks.values(), *(cls.definition for cls in Job.classes.values())]
    return {"default"} | {definition.options.queue for definition in definitions}


async def _either(event: asyncio.Event, *, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        pass
