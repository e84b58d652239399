"""A pool of asyncpg connections of one event loop that gives out only connections that are of use."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import asyncpg

from pgqueue.connect import connect_async
from pgqueue.errors import ConnectionTimeout
from pgqueue.liveness import (
    CHECK_AFTER,
    CONNECT_TIMEOUT,
    READ_ONLY,
    answers_async,
    has_word,
    let_go,
)
from pgqueue.pinning import CLIENT_LIMIT, pin_async
from pgqueue.pooler import is_pooled_async

WAIT = 10.0  # seconds for a connection when all are in use
CLOSE_WITHIN = 5.0


class AsyncPool:
    """At most ``size`` connections. One that ran a statement of ours is kept out for the next.

    asyncpg's own giving out and taking back costs as much as the statement.

    Args:
        ours: the connections run single statements of pgqueue, whose settings are pinned and which
            leave nothing behind in the session; else they are an application's, as its role has them.
    """

    def __init__(self, dsn: str, *, size: int, ours: bool) -> None:
        self._dsn, self._size, self._ours = dsn, size, ours
        self._pool = asyncpg.create_pool(min_size=0, max_size=size, connect=self._connect)
        self._spare: Any = None
        self._free = asyncio.Semaphore(size)
        self._waiting = 0
        self._end: Any = None
        self._pid = os.getpid()

    def connection(self) -> AbstractAsyncContextManager[Any]:
        """A connection, for the length of the block.

        Raises:
            ConnectionTimeout: all are in use, and none came back in time.
        """
        return _Loan(self)

    async def lend(self) -> Any:
        """A connection that is of use, to be taken back."""
        if self._free.locked():
            try:
                async with asyncio.timeout(WAIT):
                    await self._free.acquire()
            except TimeoutError:
                raise ConnectionTimeout(self._size, WAIT, ours=self._ours) from None
        else:
            await self._free.acquire()
        try:
            return await self._useful()
        except BaseException:
            self._free.release()
            raise

    async def _useful(self) -> Any:
        while True:
            connection = await self._take()
            try:
                good = await self._is_good(connection)
            except BaseException:  # cancelled, without an answer
                if not _is_gone(connection):
                    connection.terminate()
                await self._pool.release(connection)
                raise
            if good:
                connection.lent(clean=self._ours)
                return connection
            await self._pool.release(connection)

    async def _is_good(self, connection: Any) -> bool:
        if _is_gone(connection):
            return False
        raw = connection._con
        if raw.idle() <= CHECK_AFTER and not has_word(raw):
            return True
        return await answers_async(raw)

    async def take_back(self, connection: Any, error: BaseException | None) -> None:
        """``error``: what its use ended with; then it is not kept out for the next."""
        keep = False
        try:
            if error is None:
                keep = self._ours and self._spare is None and not self._waiting
                if not _is_gone(connection):
                    connection.used()
            elif isinstance(error, asyncpg.PostgresError) and error.sqlstate == READ_ONLY:
                await self._pool.expire_connections()
        finally:
            try:
                if keep:
                    self._spare = connection
                else:
                    # With a limit: it asks the server, which may be gone.
                    await self._pool.release(connection, timeout=CLOSE_WITHIN)
            finally:
                self._free.release()

    async def _take(self) -> Any:
        spare, self._spare = self._spare, None
        if spare is not None and not _is_gone(spare):
            return spare
        if not self._pool._initialized:
            await self._pool
            await self._until_the_loop_ends()
        self._waiting += 1
        try:
            return await self._pool.acquire()
        finally:
            self._waiting -= 1

    async def _until_the_loop_ends(self) -> None:
        """Close the pool when the loop shuts its asynchronous generators down, as asyncio.run() does."""
        self._end = self._closes()
        await anext(self._end)

    async def _closes(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self.close()

    async def _connect(self, _: object, **options: Any) -> asyncpg.Connection[Any]:
        """For asyncpg's pool: no prepared statements that would stay behind in a pooler."""
        options["connection_class"] = _Dated
        connection = await connect_async(self._dsn, timeout=CONNECT_TIMEOUT, **options)
        try:
            pooled = (
                not await pin_async(connection, "pin_client", limit=CLIENT_LIMIT)
                if self._ours
                else await is_pooled_async(connection)
            )
        except BaseException:
            connection.terminate()
            raise
        if pooled:
            await connection.close()
            options |= {"connection_class": _Shared, "statement_cache_size": 0}
            connection = await connect_async(self._dsn, timeout=CONNECT_TIMEOUT, **options)
        return connection

    async def close(self) -> None:
        """Close all connections; those in use, and those that do not answer, after 5 s."""
        if not self._pool._initialized or self._pool._closed or self._pid != os.getpid():
            return
        spare, self._spare = self._spare, None
        if spare is not None and not _is_gone(spare):
            await self._pool.release(spare)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._pool.close(), CLOSE_WITHIN)

    async def aclose(self) -> None:
        """The same, before the loop ends."""
        if self._end is not None:
            await self._end.aclose()
        await self.close()

    def let_go(self) -> None:
        """End the connections of a loop that was closed without a word."""
        for holder in self._pool._holders:
            if holder._con is not None:
                let_go(holder._con)


def _is_gone(connection: Any) -> bool:
    """Has asyncpg's pool taken it back? So it does as soon as it learns that the other end closed it."""
    return connection._con is None or connection.is_closed()


class _Loan(AbstractAsyncContextManager[Any]):
    """A connection lent for a block; by ``asynccontextmanager`` it would cost a tenth of an enqueue."""

    def __init__(self, pool: AsyncPool) -> None:
        self._pool = pool

    async def __aenter__(self) -> Any:
        self._connection = await self._pool.lend()
        return self._connection

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        await self._pool.take_back(self._connection, error)


class _Dated(asyncpg.Connection):  # type: ignore[misc]
    """A connection that knows how long it has not been used, and what for."""

    _used = 0.0
    _clean = False

    def lent(self, *, clean: bool) -> None:
        self._clean = clean

    def used(self) -> None:
        self._used = time.monotonic()

    def idle(self) -> float:
        return time.monotonic() - self._used if self._used else 0.0

    def get_reset_query(self) -> str:
        """For the pool, which spends a round trip on it."""
        return "" if self._clean else str(super().get_reset_query())


class _Shared(_Dated):
    """A connection through a pooler, whose sessions are not ours to reset."""

    def get_reset_query(self) -> str:
        return ""
