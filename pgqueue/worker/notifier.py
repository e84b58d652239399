"""Listens for new jobs. A notification is a hint: polling finds what it misses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import asyncpg

from pgqueue.connect import connect_async
from pgqueue.sql import load
from pgqueue.worker.database import DatabaseAway
from pgqueue.worker.service import Service

RECHECK = 30.0


class Notifier(Service):
    """Keeps one LISTEN connection on the channels of the queues; wakes the claimers."""

    name: ClassVar[str] = "notifier"

    def __init__(self, *, dsn: str, schema: str, on_wake: Callable[[], None]) -> None:
        super().__init__()
        self._dsn = dsn
        self._channels = load(schema)["channels"].numbered
        self._on_wake = on_wake
        self._wanted: set[str] = set()
        self._listening: set[str] = set()
        self._connection: asyncpg.Connection[Any] | None = None

    def want(self, queues: set[str]) -> None:
        """Listen for these queues as well."""
        if not queues <= self._wanted:
            self._wanted |= queues
            self.wake()

    async def run_once(self) -> float:
        try:
            await self._listen()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            await self.aclose()
            raise DatabaseAway(str(error), sent=False) from error
        return RECHECK

    async def _listen(self) -> None:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect_async(self._dsn)
            self._connection.add_termination_listener(lambda _: self.wake())
            self._listening = set()
        new = self._wanted - self._listening
        if new:
            rows = await self._connection.fetch(self._channels, sorted(new), timeout=10.0)
            for (channel,) in rows:
                await self._connection.add_listener(channel, self._notified)
            self._listening |= new
            self._on_wake()  # what was enqueued before the LISTEN gave no notification
        else:
            await self._connection.fetch(self._channels, [], timeout=10.0)

    def _notified(self, *_: object) -> None:
        self._on_wake()

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close(timeout=2.0)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()
