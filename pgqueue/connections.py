"""The connection pools of a process."""

from __future__ import annotations

import asyncio
import os
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from threading import Lock
from typing import Any
from weakref import WeakSet

from pgqueue.async_pool import AsyncPool
from pgqueue.sync_pool import SyncPool


class Connections:
    """Pools that are opened when they are needed: psycopg for sync code, asyncpg for each event loop.

    Statements of pgqueue and those of an application have pools of their own: only the former run
    under pinned settings, and neither waits for a connection that the other holds.

    Each process has pools of its own: after ``os.fork()`` the child makes new ones and leaves the
    parent's alone.
    """

    def __init__(self, dsn: str, *, size: int = 10) -> None:
        self._dsn = dsn
        self._sizes = {True: size, False: size}
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        """Start without pools: in the beginning, and again in a forked child."""
        self._pid = os.getpid()
        self._lock = Lock()
        self._pools: dict[bool, SyncPool] = {}
        self._loops: dict[tuple[asyncio.AbstractEventLoop, bool], AsyncPool] = {}

    def sync(self, *, ours: bool = False) -> AbstractContextManager[Any]:
        """A psycopg connection in autocommit mode, for the length of the block.

        Args:
            ours: it will run single statements of pgqueue, which leave nothing behind in the session.
        """
        if (
            self._pid != os.getpid()
        ):  # forked by a server that runs no hooks of Python, as uWSGI may
            self._begin()
        pool = self._pools.get(ours)
        if pool is None:
            with self._lock:
                pool = self._pools.get(ours)
                if pool is None:
                    pool = self._pools[ours] = SyncPool(
                        self._dsn, size=self._sizes[ours], ours=ours
                    )
        return pool.connection()

    def aio(self, *, ours: bool = False) -> AbstractAsyncContextManager[Any]:
        """An asyncpg connection, for the length of the block.

        Args:
            ours: it will run statements of pgqueue only, which leave nothing behind in the session.
        """
        if self._pid != os.getpid():
            self._begin()
        loop = asyncio.get_running_loop()
        pool = self._loops.get((loop, ours))
        if pool is None:
            self._drop_closed_loops()
            pool = AsyncPool(self._dsn, size=self._sizes[ours], ours=ours)
            self._loops[loop, ours] = pool
        return pool.connection()

    def fit(self, size: int) -> None:
        """Have at least so many connections for an application: a worker's handlers may each hold one.

        Statements of pgqueue hold theirs for one round trip, and wait for no other meanwhile.
        """
        with self._lock:
            if size <= self._sizes[False]:
                return
            self._sizes[False] = size
            if (pool := self._pools.get(False)) is not None:
                pool.grow(size)
            for key in [key for key in self._loops if not key[1]]:
                # Its connections in use come back to it; then, or with its loop, it is closed.
                del self._loops[key]

    def _drop_closed_loops(self) -> None:
        with self._lock:
            closed = [key for key in self._loops if key[0].is_closed()]
            pools = [self._loops.pop(key) for key in closed]
        for pool in pools:
            pool.let_go()

    def close(self) -> None:
        """Close the sync pools."""
        with self._lock:
            pools = list(self._pools.values())
            self._pools.clear()
        for pool in pools:
            pool.close()

    async def aclose(self) -> None:
        """Close the sync pools and the async pools of this event loop."""
        loop = asyncio.get_running_loop()
        for ours in (True, False):
            if (pool := self._loops.pop((loop, ours), None)) is not None:
                await pool.aclose()
        self.close()


_all: WeakSet[Connections] = WeakSet()


def _begin_all() -> None:
    for connections in list(_all):
        connections._begin()


os.register_at_fork(after_in_child=_begin_all)
