"""The one loop of the worker. A service writes a single pass; this owns waiting and failing."""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import ClassVar

from pgqueue.worker.database import DatabaseAway

MOST_BACKOFF = 15.0


class Service(ABC):
    """Does a small piece of work, waits, and does it again. Tests call ``run_once``."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.log = logging.getLogger(f"pgqueue.{self.name}")
        self._wake = asyncio.Event()
        self._stopping = False

    @abstractmethod
    async def run_once(self) -> float:
        """Do one pass; return the seconds to wait before the next, unless woken."""

    def wake(self) -> None:
        """Cut the current wait short."""
        self._wake.set()

    def stop(self) -> None:
        """End the loop after the pass in hand."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        failures = 0
        while not self._stopping:
            self._wake.clear()  # before the pass: a wake during it is kept
            try:
                wait = await self.run_once()
                failures = 0
            except Exception as error:
                failures += 1
                wait = min(0.1 * 2 ** min(failures, 10), MOST_BACKOFF)
                if not isinstance(error, DatabaseAway):  # that one has been reported
                    self.log.exception("%s failed %d time(s) in a row", self.name, failures)
                self._wake.clear()  # work that arrives must not turn the backoff into a spin
            if wait > 0:
                await self._wait(wait)
            else:
                await asyncio.sleep(0)
        await self.aclose()

    async def aclose(self) -> None:  # noqa: B027  most services hold nothing
        """Release what the service holds; called once, after the last pass."""

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds * random.uniform(0.9, 1.0)):
                await self._wake.wait()
