"""The connection pools of an application's process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from threading import Lock
from typing import Any, Self
from weakref import WeakKeyDictionary

import psycopg
from psycopg_pool import ConnectionPool

from pgqueue.async_pool import CHECK_AFTER, CONNECT_TIMEOUT, READ_ONLY, AsyncPool
from pgqueue.connect import connect_sync, libpq_dsn, parse, without_passwords
from pgqueue.liveness import KEEPALIVES, answers
from pgqueue.pooler import is_pooled


class Connections:
    """Lazily opened pools of an application's process: psycopg for sync, asyncpg for each loop."""

    def __init__(self, dsn: str, *, size: int = 10) -> None:
        self._dsn, self._size = dsn, size
        self._lock = Lock()
        self._demoted_at = 0.0
        self._pool: ConnectionPool[Any] | None = None
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncPool]
        self._loops = WeakKeyDictionary()

    @contextmanager
    def sync(self) -> Iterator[psycopg.Connection[Any]]:
        """A psycopg connection in autocommit mode, for the length of the block."""
        with self._sync_pool().connection() as connection:
            try:
                yield connection
            except psycopg.Error as error:
                if error.sqlstate == READ_ONLY:
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

    def aio(self, *, ours: bool = False) -> AbstractAsyncContextManager[Any]:
        """An asyncpg connection, for the length of the block.

        Args:
            ours: it will run statements of pgqueue only, which leave nothing behind in the session.
        """
        loop = asyncio.get_running_loop()
        pool = self._loops.get(loop)
        if pool is None:
            pool = self._loops[loop] = AsyncPool(self._dsn, size=self._size)
        return pool.connection(ours=ours)

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
            await pool.close()
        self.close()


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
