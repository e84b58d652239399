"""Steps of a job that are done once, however often it runs; sleeps and waits that hold no worker."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, ParamSpec, TypeVar, overload

from pgqueue.annotations import hint_of
from pgqueue.control import Suspended
from pgqueue.drivers import async_driver, sync_driver, translate
from pgqueue.durations import LONGEST, Duration, seconds
from pgqueue.errors import ConfigError, PgQueueError
from pgqueue.interruptible import interruptible
from pgqueue.job import ClaimedJob
from pgqueue.operations import Operation, steps
from pgqueue.operations.steps import Awaited
from pgqueue.results import result_text, result_value
from pgqueue.sql import load

P = ParamSpec("P")
T = TypeVar("T")


class Durable:
    """The part of a handler's context that survives it.

    A handler that was retried, or that slept, runs from its beginning; what its steps returned comes from
    the database, so it must reach the same steps by the same names. Async handlers await each verb.
    """

    _job: ClaimedJob
    _schema: str
    _connect: Callable[..., AbstractContextManager[Any]]
    _aconnect: Callable[..., AbstractAsyncContextManager[Any]]

    def __init__(self) -> None:
        self._stored: dict[str, str] | None = None
        self._met: set[str] = set()

    @property
    def stepped(self) -> bool:
        """Has this run reached a step, a sleep or a wait?"""
        return bool(self._met)

    @overload
    def step(
        self, name: str, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]: ...
    @overload
    def step(
        self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function and store what it returned; in later runs of the job, return that instead.

        A crash between its end and the store calls it again: hand ``ctx.idempotency_key`` to services, or
        write to this database by ``transaction_step``.

        Args:
            name: of the step, once in a run: in a loop ``f"send {n}"``.
            function: sync in sync handlers, async in async ones. What it returns must be JSON, at most 1 MB.

        Raises:
            ClaimLost: the job is no longer this worker's; nothing was stored.
            ConfigError: the name was used before in this run.
            ArgumentsError: what it returned cannot be stored.
        """
        self._meet(name)
        kind = _returned(function)
        if inspect.iscoroutinefunction(function):
            return self._astep(name, kind, lambda: function(*args, **kwargs))
        _no_loop("step", "an async function as a step")
        if (text := self._stored_here().get(name)) is None:
            text = self._do(
                steps.save(self._job, name, result_text(function(*args, **kwargs), kind))
            )
        return result_value(text, kind)

    async def _astep(self, name: str, kind: Any, call: Callable[[], Awaitable[Any]]) -> Any:
        if (text := (await self._astored_here()).get(name)) is None:
            text = await self._ado(steps.save(self._job, name, result_text(await call(), kind)))
        return result_value(text, kind)

    def transaction_step(
        self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """The same in a transaction: what the function writes and its result commit together, once.

        Args:
            function: its first argument is the connection: psycopg in sync handlers, asyncpg in async ones.
        """
        self._meet(name)
        kind = _returned(function)
        if inspect.iscoroutinefunction(function):
            return self._atransaction_step(name, kind, lambda c: function(c, *args, **kwargs))
        _no_loop("transaction_step", "an async function as a step")
        if (text := self._stored_here().get(name)) is None:
            with self._connect() as connection, connection.transaction():
                value = result_text(function(connection, *args, **kwargs), kind)
                text = self._do(steps.save(self._job, name, value), connection)
        return result_value(text, kind)

    async def _atransaction_step(
        self, name: str, kind: Any, call: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        if (text := (await self._astored_here()).get(name)) is None:
            async with self._aconnect() as connection, interruptible(connection):
                value = result_text(await call(connection), kind)
                text = await self._ado(steps.save(self._job, name, value), connection)
        return result_value(text, kind)

    def sleep(self, duration: Duration, *, name: str = "sleep") -> Any:
        """Go on after a time, 365 days at most; meanwhile the job holds no worker, and uses no attempt.

        Args:
            name: of the sleep, once in a run; a second one needs a name of its own.
        """
        self._meet(name)
        operation = steps.sleep(self._job, name, seconds(duration, name="duration"))
        if _in_loop():
            return self._asleep(operation)
        return _suspend(self._do(operation))

    async def _asleep(self, operation: Operation[float]) -> None:
        _suspend(await self._ado(operation))

    def wait_for_event(
        self, event: str, timeout: Duration | None = None, *, name: str | None = None
    ) -> Any:
        """Wait for an event, and return its payload; meanwhile the job holds no worker.

        The first of this name that was emitted since the job was enqueued, and that it has not had yet.

        Args:
            timeout: the longest to wait; None and the most: 365 days.
            name: of the wait, once in a run; default ``event`` and the event's name.

        Raises:
            TimeoutError: it did not come in time.
        """
        name = f"event {event}" if name is None else name
        self._meet(name)
        limit = LONGEST if timeout is None else seconds(timeout, name="timeout")
        operation = steps.wait(self._job, name, event, limit)
        if _in_loop():
            return self._await_event(operation, event)
        # The second look sees what was committed before the first one's wait was to be seen.
        found = self._do(operation)
        return _payload(found if found.left == 0 else self._do(operation), event)

    async def _await_event(self, operation: Operation[Awaited], event: str) -> Any:
        found = await self._ado(operation)
        return _payload(found if found.left == 0 else await self._ado(operation), event)

    def _meet(self, name: str) -> None:
        if steps.check_step(name) in self._met:
            raise ConfigError(f"two steps of one run are named {name!r}: give each its own name")
        self._met.add(name)

    def _stored_here(self) -> dict[str, str]:
        if self._stored is None:
            self._stored = self._do(steps.stored(self._job))
        return self._stored

    async def _astored_here(self) -> dict[str, str]:
        if self._stored is None:
            self._stored = await self._ado(steps.stored(self._job))
        return self._stored

    def _do(self, operation: Operation[T], on: Any = None) -> T:
        statement, values = load(self._schema)[operation.statement], operation.values
        try:
            if on is not None:
                return operation.decode(sync_driver(on).fetch(statement, values))
            with self._connect(ours=True) as connection:
                return operation.decode(sync_driver(connection).fetch(statement, values))
        except Exception as error:
            raise translate(error, operation.statement) or error from error

    async def _ado(self, operation: Operation[T], on: Any = None) -> T:
        statement, values = load(self._schema)[operation.statement], operation.values
        try:
            if on is not None:
                return operation.decode(await async_driver(on).fetch(statement, values))
            async with self._aconnect(ours=True) as connection:
                return operation.decode(await async_driver(connection).fetch(statement, values))
        except Exception as error:
            raise translate(error, operation.statement) or error from error


def _returned(function: Callable[..., Any]) -> Any:
    return hint_of(function, "return", Any)


def _suspend(left: float) -> None:
    if left > 0:
        raise Suspended(left)


def _payload(found: Awaited, event: str) -> Any:
    _suspend(found.left)
    if not found.arrived:
        raise TimeoutError(f"event {event!r} did not come in time")
    return None if found.payload is None else result_value(found.payload, Any)


def _in_loop() -> bool:
    return asyncio._get_running_loop() is not None


def _no_loop(verb: str, takes: str) -> None:
    if _in_loop():
        raise PgQueueError(f"ctx.{verb} of an async handler takes {takes}, and is awaited")
