"""The connection pools of an application's process."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from pgqueue.async_pool import AsyncPool
from pgqueue.sync_pool import SyncPool


class Connections:
    """Lazily opened pools of an application's process: psycopg for sync, asyncpg for each loop."""

    def __init__(self, dsn: str, *, size: int = 10) -> None:
        self._dsn, self._size = dsn, size
        self._lock = Lock()
        self._pool: SyncPool | None = None
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncPool]
        self._loops = WeakKeyDictionary()

    def sync(self, *, ours: bool = False) -> AbstractContextManager[Any]:
        """A psycopg connection in autocommit mode, for the length of the block.

        Args:
            ours: it will run single statements of pgqueue, which leave nothing behind in the session.
        """
        pool = self._pool
        if pool is None:
            with self._lock:
                pool = self._pool = self._pool or SyncPool(self._dsn, size=self._size)
        return pool.connection(ours=ours)

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
