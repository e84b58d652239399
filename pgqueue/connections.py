"""The connection pools of an application's process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from threading import Lock
from typing import Any, Self
from weakref import WeakKeyDictionary

import asyncpg
import psycopg
from psycopg_pool import ConnectionPool

from pgqueue.connect import connect_async, connect_sync, libpq_dsn, parse, without_passwords
from pgqueue.liveness import KEEPALIVES, answers, answers_async, keep_alive
from pgqueue.pooler import is_pooled, is_pooled_async

CHECK_AFTER = 5.0
CLOSE_WITHIN = 5.0
CONNECT_TIMEOUT = 5  # seconds, for each host


class Connections:
    """Lazily opened pools of an application's process: psycopg for sync, asyncpg for each loop."""

    def __init__(self, dsn: str, *, size: int = 10) -> None:
        self._dsn, self._size = dsn, size
        self._lock = Lock()
        self._demoted_at = 0.0
        self._pool: ConnectionPool[Any] | None = None
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncpg.Pool[Any]]
        self._loops = WeakKeyDictionary()

    @contextmanager
    def sync(self) -> Iterator[psycopg.Connection[Any]]:
        """A psycopg connection in autocommit mode, for the length of the block."""
        with self._sync_pool().connection() as connection:
            try:
                yield connection
            except psycopg.Error as error:
                if _refuses_writes(error):
                    self._demoted_at = time.monotonic()
                    connection.close()
                raise
            connection._pgqueue_used = time.monotonic()

    def _sync_pool(self) -> ConnectionPool[Any]:
        with self._lock:
            if self._pool is None:
                # Fail at once and in the server's words; the pool would only time out.
                connect_sync(self._dsn, timeout=CONNECT_TIMEOUT).close()
                given = parse(self._dsn)
                self._pool = ConnectionPool(
                    libpq_dsn(self._dsn),
                    connection_class=Quiet,
                    kwargs={
                        **{k: v for k, v in KEEPALIVES.items() if k not in given},
                        "autocommit": True,
                        "application_name": "pgqueue",
                        "connect_timeout": CONNECT_TIMEOUT,
                    },
                    min_size=1,
                    max_size=self._size,
                    check=self._check,
                    configure=_configure,
                    open=True,
                    timeout=10.0,
                    name="pgqueue",
                )
            return self._pool

    @asynccontextmanager
    async def aio(self) -> AsyncIterator[Any]:
        """An asyncpg connection, for the length of the block."""
        loop = asyncio.get_running_loop()
        pool = self._loops.get(loop)
        if pool is None:
            pool = asyncpg.create_pool(min_size=0, max_size=self._size, connect=self._connect)
            self._loops[loop] = pool
        if not pool._initialized:
            await pool
        connection = await pool.acquire()
        try:
            while connection.idle() > CHECK_AFTER and not await answers_async(connection):
                await pool.release(connection)
                connection = await pool.acquire()
            yield connection
            connection.used()
        except asyncpg.PostgresError as error:
            if _refuses_writes(error):
                await pool.expire_connections()
            raise
        finally:
            # With a limit: it asks the server, which may be gone.
            await pool.release(connection, timeout=CLOSE_WITHIN)

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

    def _check(self, connection: Any) -> None:
        """For psycopg's pool, before it hands out a connection: is it of use?"""
        if connection._pgqueue_born < self._demoted_at:
            raise psycopg.OperationalError("it may lead to a server that refuses writes")
        if time.monotonic() - connection._pgqueue_used > CHECK_AFTER:
            answers(connection)

    def close(self) -> None:
        """Close the sync pool."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    async def aclose(self) -> None:
        """Close both the sync pool and this loop's async pool."""
        pool = self._loops.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            # It waits for handlers that hold a connection, and for servers to say goodbye.
            with suppress(TimeoutError):
                await asyncio.wait_for(pool.close(), CLOSE_WITHIN)
        self.close()


def _refuses_writes(error: psycopg.Error | asyncpg.PostgresError) -> bool:
    """Is it a standby, or a primary that was demoted? Others may still lead there, and answer."""
    return error.sqlstate == "25006"


def _configure(connection: Any) -> None:
    connection._pgqueue_born = connection._pgqueue_used = time.monotonic()
    if is_pooled(connection):
        connection.prepare_threshold = None


class Quiet(psycopg.Connection[Any]):
    """A connection whose failures, which its pool logs, hold no password."""

    @classmethod
    def connect(cls, conninfo: str = "", **options: Any) -> Self:
        with without_passwords(conninfo):
            return super().connect(conninfo, **options)


class _Dated(asyncpg.Connection):  # type: ignore[misc]
    """A connection that knows how long it has not been used."""

    _used = 0.0

    def used(self) -> None:
        self._used = time.monotonic()

    def idle(self) -> float:
        return time.monotonic() - self._used if self._used else 0.0


class _Shared(_Dated):
    """A connection through a pooler, whose sessions are not ours to reset."""

    def get_reset_query(self) -> str:
        return ""
