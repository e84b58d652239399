"""Listens for new jobs. A notification is a hint: polling finds what it misses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import ClassVar
from uuid import uuid4

from pgqueue.operations import maintenance
from pgqueue.worker.database import CHECK_AFTER, Database
from pgqueue.worker.service import Service

TEST_EVERY = 60.0
TEST_PATIENCE = 3.0


class Notifier(Service):
    """Keeps one connection listening on the channels of the queues; wakes the claimers.

    It notifies itself now and then over the ``control`` connection: a pooler in transaction mode
    accepts LISTEN and never passes anything on.
    """

    name: ClassVar[str] = "notifier"

    def __init__(
        self, *, database: Database, control: Database, on_wake: Callable[[], object]
    ) -> None:
        super().__init__()
        self._database, self._control = database, control
        self._on_wake = on_wake
        self._wanted: set[str] = set()
        self._listening: set[str] = set()
        self._session = 0
        self._own = f"pgqueue_{uuid4().hex}"
        self._heard = asyncio.Event()
        self._test_at = 0.0
        self.works: bool | None = None

    def want(self, queues: set[str]) -> None:
        """Listen for these queues as well."""
        if not queues <= self._wanted:
            self._wanted |= queues
            self.wake()

    async def run_once(self) -> float:
        new = sorted(self._wanted - self._listening)
        channels = await self._database.run(maintenance.channels(new))
        if self._database.pooled:  # LISTEN would stay in a shared session and hear nothing
            await self._database.close()
            self.works = False
            return TEST_EVERY
        if self._database.session != self._session:
            await self._start_session()
            return 0.0
        for channel in channels:
            await self._database.listen(channel, self._on_wake)
        if new:
            self._listening |= set(new)
            self._on_wake()  # what was enqueued before the LISTEN gave no notification
        if time.monotonic() >= self._test_at:
            await self._test()
        return CHECK_AFTER

    async def _start_session(self) -> None:
        self._session, self._listening, self._test_at = self._database.session, set(), 0.0
        await self._database.listen(self._own, self._heard.set)

    async def _test(self) -> None:
        self._heard.clear()
        if not await self._control.run(maintenance.notify_self(self._own)):
            self._no_room()
            return
        try:
            async with asyncio.timeout(TEST_PATIENCE):
                await self._heard.wait()
        except TimeoutError:
            await self._not_heard()
            return
        self._test_at = time.monotonic() + TEST_EVERY
        if self.works is False:
            self.log.info("notifications arrive now")
        self.works = True

    def _no_room(self) -> None:
        self._test_at = time.monotonic() + TEST_EVERY
        if self.works is not False:
            self.log.warning(
                "the server's queue of notifications is half full, since a session that listens does not"
                " read them (pg_stat_activity: the oldest transaction): new jobs are found by polling"
            )
        self.works = False

    async def _not_heard(self) -> None:
        if self.works:  # they did arrive: perhaps another session will do
            await self._database.close()
        else:
            self._test_at = time.monotonic() + TEST_EVERY
        if self.works is None or self.works:
            self.log.warning(
                "notifications do not arrive (a pooler in transaction mode?):"
                " new jobs are found by polling; notify = false is for this"
            )
        self.works = False

    async def aclose(self) -> None:
        await self._database.close()
