"""The one loop of the worker. A service writes a single pass; this owns waiting and failing."""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from contextlib import ExitStack, suppress
from functools import partial
from typing import ClassVar

from pgqueue.worker.database import Database, DatabaseAway, DatabaseTrouble
from pgqueue.worker.outage import Seldom

FIRST_BACKOFF = 0.2
MOST_BACKOFF = 15.0
HURRIED_BACKOFF = 1.0
AWAY_BACKOFF = 1.0
CLOSING = 3.0


class Service(ABC):
    """Does a small piece of work, waits, and does it again. Tests call ``run_once``.

    Whatever a pass raises is reported and the pass tried again, later and later up to
    ``most_backoff`` seconds: nothing but ``stop()`` ends a service.
    """

    name: ClassVar[str]

    def __init__(self, *, most_backoff: float = MOST_BACKOFF) -> None:
        self.log = logging.getLogger(f"pgqueue.{self.name}")
        self.most_backoff = most_backoff
        self._wake = asyncio.Event()
        self._press = asyncio.Event()
        self._stopping = False
        self.woken = False
        self._seldom = Seldom()

    @abstractmethod
    async def run_once(self) -> float:
        """Do one pass; return the seconds to wait before the next, unless woken."""

    def wake(self) -> None:
        """Cut the current wait short; not the wait after a failure, which would be a spin."""
        self._wake.set()

    def hurry(self) -> None:
        """Wait for a second at most after failures from now on: the worker is to end."""
        self.most_backoff = min(self.most_backoff, HURRIED_BACKOFF)
        self._press.set()
        self._wake.set()

    def stop(self) -> None:
        """End the loop after the pass in hand."""
        self._stopping = True
        self.hurry()

    async def run(self) -> None:
        try:
            await self._loop()
        finally:
            try:
                async with asyncio.timeout(CLOSING):
                    await self.aclose()
            except Exception as error:
                self.log.debug("%s did not close in order: %r", self.name, error)

    async def _loop(self) -> None:
        failures = 0
        while not self._stopping:
            self.woken = self._wake.is_set()
            self._wake.clear()  # before the pass: a wake during it is kept
            try:
                wait = await self.run_once()
            except Exception as error:
                failures += 1
                await self._failed(error, failures)
                continue
            failures = 0
            if wait > 0:
                await _first(self._wake, wait * random.uniform(0.9, 1.0))
            else:
                await asyncio.sleep(0)

    async def aclose(self) -> None:  # noqa: B027  most services hold nothing
        """Release what the service holds; called once, after the last pass, within 3 s."""

    async def _failed(self, error: Exception, failures: int) -> None:
        if not isinstance(error, DatabaseTrouble) and self._seldom(type(error)):
            self.log.error(
                "%s failed %d time(s) in a row, will keep trying",
                self.name, failures, exc_info=error,
            )  # fmt: skip
        if self._stopping:
            return
        self._press.clear()
        most = self.most_backoff
        with ExitStack() as stack:
            if isinstance(error, DatabaseAway) and error.outage is not None:
                # A connection of this process that gets through wakes all; and one attempt serves all.
                most = min(most, AWAY_BACKOFF)
                loop = asyncio.get_running_loop()
                wake = partial(loop.call_soon_threadsafe, self._press.set)
                stack.enter_context(error.outage.waking(wake))
            await _first(self._press, backoff(failures, most) * random.uniform(0.5, 1.0))


class Keeper(Service):
    """Checks a connection that has been idle, so that a half-open one is noticed."""

    name: ClassVar[str] = "keeper"

    def __init__(self, database: Database, *, most_backoff: float = MOST_BACKOFF) -> None:
        super().__init__(most_backoff=most_backoff)
        self._database = database

    async def run_once(self) -> float:
        return await self._database.check()


def backoff(failures: int, most: float) -> float:
    """The longest wait in seconds after so many failures in a row: doubles, up to ``most``."""
    return min(FIRST_BACKOFF * 2.0 ** min(failures - 1, 20), most)


async def _first(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
