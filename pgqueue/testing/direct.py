"""Contexts without a job in the database: of ``inline``, and for calling a task directly."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from pgqueue.context import Context
from pgqueue.durations import Duration
from pgqueue.errors import ConfigError
from pgqueue.job import ClaimedJob
from pgqueue.steps import StepPolicy
from pgqueue.testing.sharing import asyncpg_of, psycopg_of

NOTHING: Mapping[type, Any] = MappingProxyType({})


class DirectContext(Context):
    """Its transaction is one; there is no row to complete, and no step is stored: each is called."""

    in_queue = False

    def complete(self, connection: object) -> None:
        self.completed = True

    async def acomplete(self, connection: object) -> None:
        self.completed = True

    def _step(
        self,
        policy: StepPolicy,
        name: str,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self._meet(name)
        return function(*args, **kwargs)

    def sleep(self, duration: Duration, *, name: str = "sleep") -> Any:
        self._meet(name)
        return _Over()

    def sleep_until(self, moment: datetime, *, name: str = "sleep") -> Any:
        self._meet(name)
        return _Over()

    def wait_for_event(
        self,
        event: str | Sequence[str],
        timeout: Duration | None = None,
        *,
        name: str | None = None,
    ) -> Any:
        raise ConfigError("there are no events without a queue: use QueueTester.drain()")

    def receive(
        self, message: str, timeout: Duration | None = None, *, name: str | None = None
    ) -> Any:
        raise ConfigError("there are no messages without a queue: use QueueTester.drain()")

    def _join(
        self, handles: list[Any], timeout: Duration | None, name: str, *, several: bool
    ) -> Any:
        self._meet(name)
        if asyncio._get_running_loop() is not None:
            return self._joined(handles, several)
        values = [handle.result(0) for handle in handles]
        return values if several else values[0]

    async def _joined(self, handles: list[Any], several: bool) -> Any:
        values = [await handle.aresult(0) for handle in handles]
        return values if several else values[0]

    def _transaction_step(
        self,
        policy: StepPolicy,
        name: str,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        on: object,
    ) -> Any:
        self._meet(name)
        if inspect.iscoroutinefunction(function):
            return self._awaited_step(lambda connection: function(connection, *args, **kwargs), on)
        with self._transaction_on(on) as connection:
            return function(connection, *args, **kwargs)

    async def _awaited_step(self, call: Callable[[Any], Any], on: object) -> Any:
        async with self._atransaction_on(on) as connection:
            return await call(connection)


class _Over:
    """A sleep that is over: awaited by async handlers, ignored by sync ones."""

    def __await__(self) -> Iterator[None]:
        return iter(())


def context(
    connection: object = None,
    *,
    id: int = 1,
    task: str = "test",
    queue: str = "default",
    attempt: int = 1,
    max_retries: int = 10,
    tick: datetime | None = None,
    resources: Mapping[type, Any] = NOTHING,
) -> Context:
    """A ``Context`` for calling a task in a unit test: ``charge(context(), order_id=7)``. No queue is needed.

    Steps are called, sleeps are over, ``ctx.transaction()`` is a savepoint of the connection.

    Args:
        connection: the test's, sync for ``def`` and async for ``async def`` tasks; only transactions
            need it.
        id, task, queue, attempt, max_retries, tick: what the context says of its job.
        resources: by type, what ``ctx.resource`` gives.
    """
    job = ClaimedJob(
        id,
        task,
        "{}",
        queue,
        0,
        attempt,
        max_retries,
        0,
        datetime.fromtimestamp(0, UTC),
        None,
        tick,
        0.0,
        uuid4(),
    )
    return DirectContext(
        job,
        schema="pgqueue",
        resources=resources,
        connect=_none if connection is None else lambda: psycopg_of(connection),
        aconnect=_anone if connection is None else lambda: asyncpg_of(connection),
    )


@contextmanager
def _none() -> Iterator[Any]:
    raise _no_connection()
    yield


@asynccontextmanager
async def _anone() -> Any:
    await asyncio.sleep(0)
    raise _no_connection()
    yield


def _no_connection() -> ConfigError:
    return ConfigError("this context has no connection: give context() that of the test")
