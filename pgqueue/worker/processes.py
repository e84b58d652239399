"""The process pool of ``run="process"`` tasks: real parallelism, and a handler that can be killed."""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import reduce
from typing import Any

from pebble import ProcessExpired, ProcessPool

from pgqueue.connections import Connections
from pgqueue.context import Context
from pgqueue.databases import CURRENT
from pgqueue.definition import Definition
from pgqueue.dispatch import Job
from pgqueue.errors import ConfigError
from pgqueue.gateway import Gateway
from pgqueue.job import ClaimedJob
from pgqueue.operations import claims
from pgqueue.outcome import Outcome, decide
from pgqueue.privacy import Privacy
from pgqueue.task import Task
from pgqueue.worker import logs

EVERY = 1.0


class HandlerFailed(Exception):
    """The handler failed in its process, which decided the outcome."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error or outcome.kind)
        self.outcome = outcome


class Processes:
    """A pool that is started by its first job."""

    def __init__(self, size: int, *, dsn: str, schema: str, privacy: Privacy) -> None:
        self._size, self._dsn, self._schema = size, dsn, schema
        self._privacy = privacy
        self._pool: ProcessPool | None = None

    async def call(self, definition: Definition, job: ClaimedJob) -> tuple[Outcome, bool]:
        """Run the handler in a process; cancelling this kills the process.

        Returns its success, and whether the handler completed the job itself, in its own transaction.

        Raises:
            HandlerFailed: with the outcome the process decided.
        """
        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=self._size,
                initializer=_start_child,
                initargs=(logs.chosen(),),
                context=multiprocessing.get_context("spawn"),
            )
        future = self._pool.schedule(
            run_here,
            args=(
                definition.module, definition.qualname, job, self._dsn, self._schema, self._privacy,
            ),
        )  # fmt: skip
        try:
            outcome, completed = await asyncio.wrap_future(future)
        except ProcessExpired as error:
            raise HandlerFailed(
                Outcome("retry", None, "ProcessDied", f"exit code {error.exitcode}")
            ) from None
        if outcome.kind not in ("succeeded", "completed"):
            raise HandlerFailed(outcome)
        return outcome, completed

    def close(self) -> None:
        """Kill what still runs and end the pool."""
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
            self._pool = None


def _start_child(log: tuple[str, str] | None) -> None:
    if log is not None:
        logs.set_up(*log)
    # Ctrl-C reaches the whole group; the worker decides when its children stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, name="pgqueue-parent", daemon=True).start()


def _end_with_parent() -> None:
    # Killed, the worker cannot end this process, whose job another worker is about to run.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def find(module: str, qualname: str) -> Definition:
    """Import a task by where it was defined."""
    found: Any = reduce(getattr, qualname.split("."), importlib.import_module(module))
    if isinstance(found, Task):
        return found.definition
    if isinstance(found, type) and issubclass(found, Job):
        return found.definition
    raise ConfigError(
        f"{module}.{qualname} is not a task: a process task needs a module-level name"
    )


def run_here(
    module: str, qualname: str, job: ClaimedJob, dsn: str, schema: str, privacy: Privacy
) -> tuple[Outcome, bool]:
    """Run one job in this process; returns its outcome and whether it completed itself."""
    CURRENT.set(dsn)
    connections = Connections(dsn, size=1)
    context = Context(job, schema=schema, connect=connections.sync, aconnect=connections.aio)
    definition = find(module, qualname)
    arguments = definition.signature.decode(job.args, task=job.task, keys=privacy.keys)
    conceal = definition.concealer(privacy, job, arguments)
    try:
        with TELLER.telling(context, dsn, schema):
            value = definition.invoke(context, arguments)
    except BaseException as error:
        outcome = decide(
            error,
            attempt=job.attempt,
            retry_on=definition.retry_on,
            backoff=definition.backoff_of(arguments),
            conceal=conceal,
        )
        return replace(outcome, log=definition.log_of(context, conceal)), context.completed
    finally:
        connections.close()
    return definition.outcome(value, context, conceal), context.completed


class Teller:
    """Writes how far the job of this process is, once a second, in a thread with a connection of its own.

    The thread stays for the jobs that follow, all of one database: to start one for each was more than half of what a
    job cost.
    """

    def __init__(self) -> None:
        self._context: Context | None = None
        self._started = False

    @contextmanager
    def telling(self, context: Context, dsn: str, schema: str) -> Iterator[None]:
        """Of this job, while it runs."""
        self._context = context
        if not self._started:
            self._started = True
            threading.Thread(
                target=self._run, args=(dsn, schema), name="pgqueue-progress", daemon=True
            ).start()
        try:
            yield
        finally:
            self._context = None

    def _run(self, dsn: str, schema: str) -> None:
        gateway: Gateway | None = None
        while True:
            time.sleep(EVERY)
            context = self._context
            said = None if context is None else context.said
            if context is None or said is None:
                if gateway is not None:
                    gateway.connections.close()
                    gateway = None
            elif (text := said.news(EVERY)) is not None:
                gateway = gateway or Gateway(dsn, schema)
                with suppress(Exception):  # it is for people to look at: it costs no job
                    gateway.run(claims.note_progress([(context.id, context.claim_id, text)]), None)


TELLER = Teller()
