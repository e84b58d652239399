"""What a handler may know and do about the job it runs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from contextvars import ContextVar
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload
from uuid import UUID, uuid5

from pgqueue.control import Cancel
from pgqueue.errors import ArgumentsError, ConfigError, PgQueueError
from pgqueue.job import ClaimedJob
from pgqueue.joblog import JobLogger, Progress
from pgqueue.operations import jobs as operations
from pgqueue.operations.steps import check_step
from pgqueue.returned import ended
from pgqueue.steps import Durable, check_step_time

if TYPE_CHECKING:
    import asyncpg
    import psycopg


# Of the handler that runs in this thread or task, also in what it starts by asyncio.
_RUNNING: ContextVar[Context | None] = ContextVar("pgqueue_running", default=None)


def running_context() -> Context | None:
    """The context of the handler that calls this; None outside of handlers, and in what has outlived its own."""
    context = _RUNNING.get()
    return None if context is None or context.over else context


S = TypeVar("S")
T = TypeVar("T")
NOWHERE = UUID(int=0)


class Context(Durable):
    """Given to a handler whose first parameter is annotated ``Context``."""

    in_queue = True  # its job has a row

    def __init__(
        self,
        job: ClaimedJob,
        *,
        schema: str,
        connect: Callable[..., AbstractContextManager[Any]],
        aconnect: Callable[..., AbstractAsyncContextManager[Any]],
        resources: Mapping[type, Any] = MappingProxyType({}),
        identity: Callable[[], UUID] | None = None,
        conceals: Callable[[ClaimedJob], Callable[[str], str]] | None = None,
    ) -> None:
        super().__init__()
        self._conceals = conceals
        self._resources, self._identity = resources, identity
        self._job = job
        self._schema = schema
        self._connect = connect
        self._aconnect = aconnect
        self.over = False  # the handler has ended
        self._stopped = False  # not an Event, which would cost a tenth of an async job
        self.completed = False  # so it said in a transaction
        self.committed = False  # which has been committed, as far as we have an answer
        self.doubtful = False
        self.said: Progress | None = None
        self._logger: JobLogger | None = None

    @property
    def id(self) -> int:
        """The job's id."""
        return self._job.id

    @property
    def task(self) -> str:
        """The task's name."""
        return self._job.task

    @property
    def queue(self) -> str:
        """The queue it was claimed from."""
        return self._job.queue

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self._job.attempt

    @property
    def workflow_id(self) -> int | None:
        """The workflow that it belongs to, if it does."""
        return self._job.workflow_id

    @property
    def tick(self) -> datetime | None:
        """The time for which its schedule made the job, whenever it runs; None if none made it."""
        return self._job.tick

    @property
    def claim_id(self) -> UUID:
        """The fencing token of this attempt; for ``pgqueue.complete_job(id, claim_id)``."""
        return self._job.claim_id

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this job, and no other job's: hand it to the services you call.

        It is made of the identity of the database's schema, the job's id and the time it was enqueued: so it
        stays the same in a standby, an upgraded server or a restored copy, and ids that are given again there
        make other keys.
        """
        job, schema = self._job, self._schema_id()
        return f"pgqueue-{job.id}-{uuid5(schema, f'{job.id} {job.created:.6f}').hex}"

    def idempotency_key_of(self, name: str) -> str:
        """The same for a step of this name in every attempt of this job, and no other step's or job's.

        For the services that a step calls: ``ctx.step("charge", charge, order, ctx.idempotency_key_of("charge"))``.
        It stays the same when the job is retried from that step, or with other arguments.
        """
        return f"{self.idempotency_key}-{uuid5(self._schema_id(), check_step(name)).hex}"

    def _schema_id(self) -> UUID:
        return NOWHERE if self._identity is None else self._identity()

    def resource(self, kind: type[T]) -> T:
        """What the app opened for its worker: ``@app.resource``.

        Raises:
            ConfigError: there is none of this type here; in the process of a process task there is none.
        """
        if kind not in self._resources:
            raise ConfigError(
                f"no resource of type {kind.__name__} here: declare it with @app.resource; the processes"
                ' of run="process" tasks have none'
            )
        found: T = self._resources[kind]
        return found

    def enter(self) -> None:
        """Its handler begins here, in a thread, a task or a process that is its own."""
        _RUNNING.set(self)

    def stop(self) -> None:
        """Ask the handler to stop; it hears of it at its next ``check()``."""
        self._stopped = True
        self.stop_steps()

    def check(self) -> None:
        """Raise Cancel if this job was cancelled or lost, or its worker is stopping; TimeoutError if its step takes too long."""
        if self._stopped:
            raise Cancel("asked to stop")
        check_step_time()

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far this job is: shown by ``pgqueue job`` and ``JobRow.progress``.

        Cheap enough for every turn of a loop: the worker writes the latest once a second.

        Args:
            done: of ``total``, in any unit; the total may be unknown.
            message: at most 500 characters.
        """
        if not isinstance(done, int | float) or not isinstance(total, int | float | None):
            raise ArgumentsError(f"ctx.progress takes numbers, got {done!r} of {total!r}")
        if self.said is None:
            self.said = Progress()
        self.said.say(done, total, message)

    @property
    def log(self) -> logging.Logger:
        """A logger whose lines from INFO on are kept with this attempt (``pgqueue job``), the latest 200 of them.

        They are printed as well if the level of the logger ``pgqueue.job.<task>``, or of the worker, lets them.
        """
        if self._logger is None:
            self._logger = JobLogger(self.task)
        return self._logger

    @property
    def logged(self) -> str | None:
        """The lines of ``log``."""
        return None if self._logger is None else self._logger.kept.text()

    @overload
    def transaction(self) -> _Transaction: ...
    @overload
    def transaction(self, *, on: S) -> _TransactionOn[S]: ...
    def transaction(self, *, on: object = None) -> Any:
        """A transaction that also completes the job: both commit, or neither.

        ``async with`` gives an asyncpg connection, ``with`` a psycopg one.

        Args:
            on: a connection or session of your own, on the database of the queue, which you get instead: SQLAlchemy's
                (sync or async), Django's, psycopg's or asyncpg's. What it has begun is committed too.

        Raises:
            ClaimLost: at the end, when the job is no longer this worker's; everything rolls back.
            ConnectionUnusable: ``on`` cannot be used, or is in a transaction that is not to be committed here.
        """
        return _TransactionOn(
            lambda: self._sync_transaction(on), lambda: self._async_transaction(on)
        )

    def complete(self, connection: object) -> None:
        """Complete the job in your own transaction; call it last, then commit.

        Raises:
            ClaimLost: the job is no longer this worker's; your transaction must roll back.
        """
        self._do(operations.complete(self.id, self.claim_id), connection)
        self.completed = True

    async def acomplete(self, connection: object) -> None:
        """The same on an async connection."""
        await self._ado(operations.complete(self.id, self.claim_id), connection)
        self.completed = True

    @contextmanager
    def _sync_transaction(self, on: object) -> Iterator[Any]:
        try:
            with self._transaction_on(on) as connection:
                yield connection
                self.complete(connection)
            self.committed = True
        except BaseException:
            # Completed, and then an error: it was the COMMIT that failed, or got no answer.
            self.completed, self.doubtful = False, self.completed
            raise

    @asynccontextmanager
    async def _async_transaction(self, on: object) -> AsyncIterator[Any]:
        try:
            async with self._atransaction_on(on) as connection:
                yield connection
                await self.acomplete(connection)
            self.committed = True
        except BaseException:
            # Completed, and then an error: it was the COMMIT that failed, or got no answer.
            self.completed, self.doubtful = False, self.completed
            raise


def called(context: Context, call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a sync handler returned or raised, once the steps that its threads have in hand are stored."""
    value: Any = None
    raised: BaseException | None = None
    context.main = threading.get_ident()
    context.enter()
    try:
        value = call()
    except BaseException as error:
        raised = error
    context.over = True
    return (
        (value, raised)
        if context.running_steps is None
        else context.running_steps.end_here(value, raised)
    )


async def awaited(context: Context, value: Any) -> tuple[Any, BaseException | None]:
    """What an awaitable of a handler came to, once the steps that it has in hand are stored."""
    raised: BaseException | None = None
    context.main = asyncio.current_task()
    context.enter()
    try:
        value = await ended(value)
    except BaseException as error:
        value, raised = None, error
    context.over = True
    return (
        (value, raised)
        if context.running_steps is None
        else await context.running_steps.end(value, raised)
    )


class _TransactionOn(Generic[S]):
    """Entered with ``with`` or ``async with``."""

    def __init__(
        self,
        sync: Callable[[], AbstractContextManager[Any]],
        asynchronous: Callable[[], AbstractAsyncContextManager[Any]],
    ) -> None:
        self._sync, self._async = sync, asynchronous

    def __enter__(self) -> S:
        if asyncio._get_running_loop() is not None:
            raise PgQueueError(
                "an async task takes `async with ctx.transaction()`: with `with` every statement"
                " would block the event loop"
            )
        self._entered = self._sync()
        entered: S = self._entered.__enter__()
        return entered

    def __exit__(self, *error: Any) -> bool | None:
        return self._entered.__exit__(*error)

    async def __aenter__(self) -> S:
        self._aentered = self._async()
        entered: S = await self._aentered.__aenter__()
        return entered

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._aentered.__aexit__(*error)


if TYPE_CHECKING:

    class _Transaction(_TransactionOn[Any]):
        """Of a connection of the worker's."""

        def __enter__(self) -> psycopg.Connection[Any]: ...
        async def __aenter__(self) -> asyncpg.Connection[Any]: ...
