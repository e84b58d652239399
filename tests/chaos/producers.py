"""Producers: enqueue at a steady rate in transactions, some rolled back; they know what was committed."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import asyncpg

from pgqueue.connect import connect_async
from tests.chaos import load

Fate = Literal["committed", "rolled back", "unknown"]

TIMEOUT = 5.0
AWAY = (
    OSError, EOFError, TimeoutError,
    asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError,
)  # fmt: skip
ROLLED_BACK = 0.1
AT_ONCE = (10, 50)
CHAINED = 0.1  # of the transactions begin with a chain of three


@dataclass(frozen=True, slots=True)
class Batch:
    """Numbers enqueued in one transaction; unknown: the answer to its COMMIT was lost."""

    first: int
    count: int
    fate: Fate


class Producers:
    """One for each DSN, in a thread of their own, until ``stop`` or ``jobs`` are committed.

    They share the rate: one that is cut off leaves its part to the others.
    """

    def __init__(
        self, dsns: Sequence[str], *, rate: float, jobs: int | None, lease: float, seed: int
    ) -> None:
        self._dsns, self._rate, self._jobs, self._lease = dsns, rate, jobs, lease
        self._random = random.Random(f"{seed} producers")
        self.batches: list[Batch] = []
        self.committed = 0
        self.held = False
        self._next = 1
        self._sent = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="producers")

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the transactions in hand."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    async def _run(self) -> None:
        self._sent_since = time.monotonic()
        await asyncio.gather(*map(self._produce, self._dsns))

    def _behind(self) -> bool:
        """Is it time for more? While the backlog is long, time stands still."""
        now = time.monotonic()
        if not self.held:
            self._sent -= (now - self._sent_since) * self._rate
            self._sent = max(self._sent, -2 * self._rate)
        self._sent_since = now
        return self._sent <= 0 and not self.held

    async def _produce(self, dsn: str) -> None:
        connection: asyncpg.Connection[Any] | None = None
        while not self._stopping.is_set() and (self._jobs is None or self.committed < self._jobs):
            if not self._behind():
                await asyncio.sleep(0.005)
                continue
            try:
                async with asyncio.timeout(TIMEOUT):
                    if connection is None:
                        connection = await connect_async(dsn)
            except AWAY:
                await asyncio.sleep(0.1)
                continue
            count = self._random.randint(*AT_ONCE)
            first, self._next, self._sent = self._next, self._next + count, self._sent + count
            fate, usable = await self._enqueue(connection, first, count)
            self.batches.append(Batch(first, count, fate))
            self.committed += count if fate == "committed" else 0
            if not usable:
                connection.terminate()
                connection = None
        if connection is not None:
            connection.terminate()

    async def _enqueue(
        self, connection: asyncpg.Connection[Any], first: int, count: int
    ) -> tuple[Fate, bool]:
        """Enqueue in one transaction; what became of it, and whether the connection is usable."""
        jobs = [load.job(number, self._lease) for number in range(first, first + count)]
        fate: Fate = "rolled back"
        try:
            async with asyncio.timeout(TIMEOUT):
                transaction = connection.transaction()
                await transaction.start()
                if self._random.random() < CHAINED:
                    await load.app.chain(*jobs[:3]).aenqueue(on=connection)
                    del jobs[:3]
                await load.app.aenqueue_many(jobs, on=connection)
                if self._random.random() < ROLLED_BACK:
                    await transaction.rollback()
                    return fate, True
                fate = "unknown"
                await transaction.commit()
                return "committed", True
        except AWAY:
            return fate, False
