"""Operators: cancel, change, pause, limit and retry jobs all the time, as people and scripts do."""

from __future__ import annotations

import asyncio
import random
import threading

from pgqueue import App, Change
from pgqueue.errors import PgQueueError
from tests.chaos.producers import AWAY

EVERY = 0.2
TIMEOUT = 5.0
PAUSED = 0.3
RECENT = """
    select id from pgqueue.jobs
     where id > (select coalesce(max(id), 0) - 2000 from pgqueue.jobs) and status = any ($1)
     order by random() limit $2
"""


class Operators:
    """One, in a thread of its own; what it cannot do while something is broken it leaves undone."""

    def __init__(self, dsn: str, *, seed: int) -> None:
        self._app = App(dsn)
        self._random = random.Random(f"{seed} operators")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="operators")
        self.done = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End, with nothing left paused."""
        self._stopping.set()
        self._thread.join()

    async def _run(self) -> None:
        acts = (
            self._cancel,
            self._change,
            self._pause_queue,
            self._pause_task,
            self._limit,
            self._retry,
        )
        while not self._stopping.is_set():
            await self._try(self._random.choice(acts)())
            await asyncio.sleep(EVERY)
        for _ in range(100):
            if await self._try(self._resume()):
                break
            await asyncio.sleep(EVERY)
        await self._app.aclose()

    async def _try(self, act: object) -> bool:
        try:
            async with asyncio.timeout(TIMEOUT):
                await act  # type: ignore[misc]
        except (PgQueueError, *AWAY):
            return False
        self.done += 1
        return True

    async def _recent(self, count: int, *statuses: str) -> list[int]:
        async with self._app.connections.aio() as conn:
            return [row[0] for row in await conn.fetch(RECENT, list(statuses), count)]

    async def _cancel(self) -> None:
        ids = await self._recent(5, "pending", "running", "blocked")
        if ids:
            await self._app.aclient.cancel(*ids)

    async def _change(self) -> None:
        ids = await self._recent(20, "pending")
        if ids:
            to = Change(priority=self._random.randint(-1, 1))
            await self._app.aclient.change(ids, to=to)

    async def _pause_queue(self) -> None:
        await self._app.aclient.pause("limited")
        await asyncio.sleep(PAUSED)
        await self._app.aclient.resume("limited")

    async def _pause_task(self) -> None:
        await self._app.aclient.pause_task("flaky")
        await asyncio.sleep(PAUSED)
        await self._app.aclient.resume_task("flaky")

    async def _limit(self) -> None:
        await self._app.aclient.limit_task("limited", limit=self._random.randint(2, 20))

    async def _retry(self) -> None:
        ids = await self._recent(20, "cancelled")
        if ids:
            await self._app.aclient.retry_many(ids)

    async def _resume(self) -> None:
        await self._app.aclient.resume("limited")
        await self._app.aclient.resume_task("flaky")
