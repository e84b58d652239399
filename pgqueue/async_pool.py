"""An asyncpg pool of one event loop that gives out only connections that answer."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import asyncpg

from pgqueue.connect import connect_async
from pgqueue.liveness import CHECK_AFTER, CONNECT_TIMEOUT, READ_ONLY, answers_async, keep_alive
from pgqueue.pooler import is_pooled_async

CLOSE_WITHIN = 5.0


class AsyncPool:
    """At most ``size`` connections. One that ran a statement of ours is kept out for the next.

    asyncpg's own giving out and taking back costs as much as the statement.
    """

    def __init__(self, dsn: str, *, size: int) -> None:
        self._dsn = dsn
        self._pool = asyncpg.create_pool(min_size=0, max_size=size, connect=self._connect)
        self._spare: Any = None
        self._waiting = 0

    def connection(self, *, ours: bool) -> AbstractAsyncContextManager[Any]:
        """A connection, for the length of the block.

        Args:
            ours: it will run statements of pgqueue only, which leave nothing behind in the session.
        """
        return _Loan(self, ours)

    async def lend(self, *, ours: bool) -> Any:
        """A connection that answers, to be taken back."""
        while True:
            connection = await self._take()
            try:
                good = connection.idle() <= CHECK_AFTER or await answers_async(connection)
            except BaseException:  # cancelled, without an answer
                connection.terminate()
                await self._pool.release(connection)
                raise
            if good:
                connection.lent(clean=ours)
                return connection
            await self._pool.release(connection)

    async def take_back(self, connection: Any, error: BaseException | None, *, ours: bool) -> None:
        """``error``: what its use ended with; then it is not kept out for the next."""
        keep = False
        try:
            if error is None:
                connection.used()
                keep = ours and self._spare is None and not self._waiting
            elif isinstance(error, asyncpg.PostgresError) and error.sqlstate == READ_ONLY:
                await self._pool.expire_connections()
        finally:
            if keep:
                self._spare = connection
            else:
                # With a limit: it asks the server, which may be gone.
                await self._pool.release(connection, timeout=CLOSE_WITHIN)

    async def _take(self) -> Any:
        spare, self._spare = self._spare, None
        if spare is not None and not spare.is_closed():
            return spare
        if spare is not None:
            await self._pool.release(spare)
        if not self._pool._initialized:
            await self._pool
        self._waiting += 1
        try:
            return await self._pool.acquire()
        finally:
            self._waiting -= 1

    async def _connect(self, _: object, **options: Any) -> asyncpg.Connection[Any]:
        """For asyncpg's pool: no prepared statements that would stay behind in a pooler."""
        options["connection_class"] = _Dated
        connection = await connect_async(self._dsn, timeout=CONNECT_TIMEOUT, **options)
        if await is_pooled_async(connection):
            await connection.close()
            options |= {"connection_class": _Shared, "statement_cache_size": 0}
            connection = await connect_async(self._dsn, timeout=CONNECT_TIMEOUT, **options)
        keep_alive(connection)
        return connection

    async def close(self) -> None:
        """Close all connections; those in use, and those that do not answer, after 5 s."""
        if not self._pool._initialized:
            return
        spare, self._spare = self._spare, None
        if spare is not None:
            await self._pool.release(spare)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._pool.close(), CLOSE_WITHIN)


class _Loan(AbstractAsyncContextManager[Any]):
    """A connection lent for a block; by ``asynccontextmanager`` it would cost a tenth of an enqueue."""

    def __init__(self, pool: AsyncPool, ours: bool) -> None:
        self._pool, self._ours = pool, ours

    async def __aenter__(self) -> Any:
        self._connection = await self._pool.lend(ours=self._ours)
        return self._connection

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        await self._pool.take_back(self._connection, error, ours=self._ours)


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
