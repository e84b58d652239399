"""The process pool of ``run="process"`` tasks: real parallelism, and a handler that can be killed."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import reduce
from itertools import count
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from struct import Struct
from typing import Any
from uuid import UUID, uuid4

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from pgqueue.connections import Connections
from pgqueue.context import NOWHERE, Context, awaited, called
from pgqueue.databases import CURRENT
from pgqueue.definition import Definition
from pgqueue.dispatch import Job
from pgqueue.errors import ConfigError
from pgqueue.gateway import Gateway
from pgqueue.job import ClaimedJob
from pgqueue.operations import claims
from pgqueue.outcome import RELEASED, Outcome
from pgqueue.privacy import Privacy
from pgqueue.returned import checked
from pgqueue.task import Task
from pgqueue.worker import logs
from pgqueue.worker.outage import Seldom
from pgqueue.worker.signals import unheeded
from pgqueue.worker.slots import MOMENT, PREFETCH_SECONDS
from pgqueue.worker.threads import DaemonThreads
from pgqueue.worker.tracebacks import clear_tracebacks

EVERY = 1.0
MOST_AHEAD = 100
START_WITHIN = 60.0
LONGEST_REST = 30.0
NUMBER = Struct("!Q")
# That reach all processes of a terminal, or of a service. The worker decides when those of its pool end.
SIGNALS = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
UNASKED = 256  # no exit code of a process: it ended with 0

log = logging.getLogger("pgqueue.worker")


class HandlerFailed(Exception):
    """The handler failed in its process, which decided the outcome."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error or outcome.kind)
        self.outcome = outcome


class _Sent:
    """A job that was handed to the pool."""

    def __init__(self, begin: Callable[[], None], result: asyncio.Future[Any]) -> None:
        self._begin, self.result = begin, result
        self.began_at: float | None = None

    def began(self) -> None:
        self.began_at = time.monotonic()
        self._begin()


class Processes:
    """A pool that is started by its first job, and replaced when it breaks.

    While jobs are short, it is sent twice as many as there are processes, so that none of them waits for the next
    job. A child says when it begins a handler: until then the job can be taken back from it.
    """

    def __init__(self, size: int, *, dsn: str, schema: str, privacy: Privacy) -> None:
        self._size, self._dsn, self._schema = size, dsn, schema
        self._privacy = privacy
        self.identity = NOWHERE  # of the schema
        self._loop = asyncio.get_running_loop()
        self._pool: ProcessPool | None = None
        self._sent: dict[int, _Sent] = {}
        self._numbers = count(1)
        self._withdrawn = os.path.join(tempfile.gettempdir(), f"pgqueue-{uuid4().hex}")
        self._failures = 0
        self._average: float | None = None
        self._seldom = Seldom()
        self._ending = DaemonThreads(2, "pgqueue-pool-end")
        self.held = 0
        self.tasks: set[str] = set()
        self.queues: set[str] = set()
        self.crowded = False

    @property
    def room(self) -> int:
        """How many more of its jobs are worth holding: those that can start, or soon will."""
        ahead = 0 if self._average is None else self._size * PREFETCH_SECONDS / self._average
        return self._size + int(min(ahead, MOST_AHEAD)) - self.held

    @property
    def free(self) -> bool:
        """Can another job be sent?"""
        short = self._average is not None and self._average <= PREFETCH_SECONDS
        return len(self._sent) < self._size * (2 if short else 1)

    def stall(self) -> None:
        """Jobs waited too long: hold no more than there are processes, until another has ended."""
        self._average, self.crowded = None, True

    async def call(
        self,
        definition: Definition,
        job: ClaimedJob,
        context: Context,
        begin: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Run the handler in a process; cancelling this kills the process.

        Returns its success.

        Args:
            context: is told whether the handler completed the job itself, in its own transaction.
            begin: called when the handler begins.

        Raises:
            HandlerFailed: with the outcome the process decided, or that gives back a job for which there was none.
        """
        number = next(self._numbers)
        sent = self._sent[number] = _Sent(begin, self._loop.create_future())
        future = None
        try:
            future = self._send(number, sent, definition, job)
            self._look_after(number, time.monotonic() + START_WITHIN)
            outcome: Outcome = await sent.result
        except asyncio.CancelledError:
            if future is not None and not self._take_back(number):
                future.cancel()  # type: ignore[no-untyped-call]
            raise
        except ProcessExpired as error:
            when = "" if sent.began_at else ", before its handler began"
            code = 0 if error.exitcode == UNASKED else error.exitcode
            died = Outcome("retry", None, "ProcessDied", f"exit code {code}{when}")
            raise HandlerFailed(died) from None
        except BrokenProcessPool as error:
            raise self._broken(sent, error) from error
        finally:
            del self._sent[number]
        if sent.began_at is not None:
            self._took(time.monotonic() - sent.began_at)
        context.completed = outcome.kind == "completed"
        context.committed = context.completed and outcome.otherwise is None
        if outcome.kind not in ("succeeded", "completed"):
            raise HandlerFailed(outcome)
        return outcome

    def _send(
        self, number: int, sent: _Sent, definition: Definition, job: ClaimedJob
    ) -> ProcessFuture[Any]:
        def settle(future: Future[Any]) -> None:
            if sent.result.done():
                return
            if future.cancelled():
                sent.result.cancel()
            elif (error := future.exception()) is not None:
                sent.result.set_exception(error)
            else:
                sent.result.set_result(future.result())

        def ended(future: Future[Any]) -> None:
            with suppress(RuntimeError):  # the worker has ended, and its loop
                self._loop.call_soon_threadsafe(settle, future)

        try:
            future = self._started().schedule(
                run_here,
                args=(
                    definition.module, definition.qualname, job, self._dsn, self._schema,
                    self._privacy, self.identity, number, self._mark(number),
                ),
            )  # fmt: skip
        except (OSError, RuntimeError) as error:  # the pool is broken, or it cannot be started
            raise BrokenProcessPool(str(error)) from error
        future.add_done_callback(ended)
        return future

    def _started(self) -> ProcessPool:
        if self._pool is None:
            context = _Spawning()
            self._reader, self._writer = context.Pipe(duplex=False)
            self._loop.add_reader(self._reader.fileno(), self._hear)
            self._pool = ProcessPool(
                max_workers=self._size,
                initializer=_start_child,
                initargs=(logs.chosen(), self._writer),
                context=context,
            )
        return self._pool

    def _hear(self) -> None:
        """Handlers have begun."""
        while self._pool is not None and self._reader.poll(0):
            (number,) = NUMBER.unpack(self._reader.recv_bytes())
            self._failures = 0
            if (sent := self._sent.get(number)) is not None:
                sent.began()

    def _mark(self, number: int) -> str:
        """The file whose existence tells a process that it may not begin this job any more."""
        return os.path.join(self._withdrawn, str(number))

    def _take_back(self, number: int) -> bool:
        """Take a job back from the pool; False if its handler has begun, or may have."""
        try:
            os.makedirs(self._withdrawn, mode=0o700, exist_ok=True)
            with open(self._mark(number), "x"):
                pass
        except OSError:
            return False
        # A process says that it begins before it looks for the file: either it sees the file, or we hear of it.
        self._hear()
        return self._sent[number].began_at is None

    def _look_after(self, number: int, until: float) -> None:
        """Take a job back that waits behind others for more than a moment; fail one whose process does not start."""
        sent = self._sent.get(number)
        if sent is None or sent.began_at is not None or sent.result.done():
            return
        if self._is_behind(number):
            if time.monotonic() > until - START_WITHIN + MOMENT and self._take_back(number):
                self.stall()
                sent.result.set_result(RELEASED)
                return
        elif time.monotonic() > until and self._take_back(number):
            text = f"no process began the handler within {START_WITHIN:.0f} s"
            sent.result.set_exception(BrokenProcessPool(text))
            return
        self._loop.call_later(MOMENT, self._look_after, number, until)

    def _is_behind(self, number: int) -> bool:
        """Do as many jobs as there are processes run, or come before this one?"""
        begun = sum(sent.began_at is not None for sent in self._sent.values())
        before = sum(n < number for n, sent in self._sent.items() if sent.began_at is None)
        return begun + before >= self._size

    def _took(self, seconds: float) -> None:
        old = self._average
        self._average = seconds if old is None else old + 0.1 * (seconds - old)

    def _broken(self, sent: _Sent, error: BaseException) -> HandlerFailed:
        """What the end of the pool means for a job; the next job gets another pool."""
        if self._pool is not None:
            self._hear()
            self._end(self._pool)
        if sent.began_at is not None:
            return HandlerFailed(Outcome("retry", None, "ProcessDied", "its process died"))
        self._failures += 1
        reason = str(error) or str(error.__cause__ or "its processes died as they started")
        text = f"the process pool could not be started: {reason}{_directory_gone()}"
        if self._seldom("broken"):
            log.error("%s; process tasks are given back and tried again", text)
        return HandlerFailed(Outcome("snooze", self._rest(), "ProcessNotStarted", text))

    def _rest(self) -> float:
        """Seconds after which a job for which there was no process is tried again."""
        return min(0.5 * 2.0 ** min(self._failures, 10), LONGEST_REST)

    async def aclose(self) -> None:
        """Kill what still runs and end the pool."""
        if self._pool is not None:
            await asyncio.wrap_future(self._end(self._pool))
        shutil.rmtree(self._withdrawn, ignore_errors=True)

    def _end(self, pool: ProcessPool) -> Future[None]:
        self._pool = None
        self._loop.remove_reader(self._reader.fileno())
        self._reader.close()
        self._writer.close()
        # Not here: it waits for each process in turn.
        return self._ending.submit(_stop, pool)


def _stop(pool: ProcessPool) -> None:
    with suppress(Exception):
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()


def _directory_gone() -> str:
    try:
        os.getcwd()
    except FileNotFoundError:
        return (
            "; the working directory of this worker was removed: start it again, in one that exists"
        )
    return ""


class _Killed(SpawnProcess):
    """A process that ends when its worker says so, and at nobody else's SIGTERM, from its first moment on."""

    def start(self) -> None:
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            super().start()
            return
        # The tracker is started with the first process, and by that changes which signals this thread blocks.
        resource_tracker.ensure_running()
        # A process begins with the mask of the thread that starts it: a signal to the group, while it is not yet
        # what _start_child makes it, would end it, and fail its job.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def terminate(self) -> None:
        self.kill()

    @property
    def exitcode(self) -> int | None:
        # To the pool, one that ends with 0 has done what it was made for, and its job would never end. Ours end when
        # they are killed; with 0 ends one whose handler calls ``os._exit(0)``.
        return UNASKED if super().exitcode == 0 else super().exitcode


class _Spawning(SpawnContext):
    """Starts processes of the pool."""

    Process = _Killed


class _Child:
    """Of a process of the pool: where it says that it begins a handler."""

    begun: Connection | None = None


def _start_child(log: tuple[str, str] | None, begun: Connection) -> None:
    _Child.begun = begun
    if log is not None:
        logs.set_up(*log)
    # Ctrl-C, and the end of a terminal, reach the whole group; the worker decides when its children stop.
    for number in set(SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    unheeded(signal.SIGTERM)  # of a service manager, to every process
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
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


def may_begin(number: int, mark: str) -> bool:
    """Tell the worker that the handler begins, unless it has taken the job back."""
    if _Child.begun is not None:
        _Child.begun.send_bytes(NUMBER.pack(number))
    return not os.path.exists(mark)


def run_here(
    module: str, qualname: str, job: ClaimedJob, dsn: str, schema: str, privacy: Privacy, identity: UUID,
    number: int, mark: str,
) -> Outcome:  # fmt: skip
    """Run one job in this process, in a context of its own; returns its outcome.

    Args:
        number: by which the worker knows it.
        mark: a file that exists when the worker has taken the job back.
    """
    run = copy_context().run
    return run(_run_here, find(module, qualname), job, dsn, schema, privacy, identity, number, mark)


def _run_here(
    definition: Definition, job: ClaimedJob, dsn: str, schema: str, privacy: Privacy, identity: UUID,
    number: int, mark: str,
) -> Outcome:  # fmt: skip
    CURRENT.set(dsn)
    connections = Connections(dsn, size=1)
    context = Context(
        job,
        schema=schema,
        connect=connections.sync,
        aconnect=connections.aio,
        identity=lambda: identity,
        conceals=lambda job: definition.concealer(privacy, job, arguments),
    )
    arguments = definition.signature.decode(job.args, task=job.task, keys=privacy.keys)
    if not may_begin(number, mark):
        return RELEASED
    value = raised = None
    try:
        with TELLER.telling(context, dsn, schema):
            value, raised = called(
                context, lambda: _ended(context, definition.invoke(context, arguments), connections)
            )
    except BaseException as error:
        raised = error
    finally:
        connections.close()
    try:
        return definition.judge(
            value, raised, job=job, arguments=arguments, context=context, privacy=privacy
        )
    finally:
        if raised is not None:
            clear_tracebacks(raised)


def _ended(context: Context, value: Any, connections: Connections) -> Any:
    """What a handler returned, awaited in an event loop of its own if it is to be awaited."""
    if not inspect.isawaitable(value):
        return checked(value)

    async def caught() -> tuple[Any, BaseException | None]:
        try:
            return await awaited(context, value)
        finally:
            await connections.aclose()

    result, raised = asyncio.run(caught())
    if raised is not None:
        raise raised
    return result


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
            elif (text := said.news()) is not None:
                gateway = gateway or Gateway(dsn, schema)
                with suppress(Exception):  # it is for people to look at: it costs no job
                    gateway.run(claims.note_progress([(context.id, context.claim_id, text)]), None)


TELLER = Teller()
