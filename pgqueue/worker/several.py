"""A worker process that serves several databases, each by a runtime of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from pgqueue.connect import describe
from pgqueue.databases import CURRENT
from pgqueue.errors import PgQueueError
from pgqueue.worker.runtime import Runtime
from pgqueue.worker.shutdown import either

log = logging.getLogger("pgqueue.worker")

AGAIN = 60.0


class Several:
    """Serves all until they end or it is told to stop; none waits for another.

    One that refuses to be worked on (no schema, another version, a wrong password) is reported and
    tried again every minute, while the others are served.

    Args:
        make: a runtime for the current database.
        drain: one that refuses is not tried again, so that the others' end is the end.
    """

    def __init__(
        self, dsns: Sequence[str], make: Callable[[], Runtime], *, drain: bool = False
    ) -> None:
        self._dsns, self._make, self._drain = dsns, make, drain
        self._runtimes: dict[str, Runtime] = {}
        self._stopping = asyncio.Event()
        self._refused: dict[str, Exception] = {}

    async def run(self) -> None:
        """Return when all have ended.

        Raises:
            PgQueueError: none of the databases can be worked on; or, draining, one of them.
            ConnectionRefusedError: the same.
        """
        async with asyncio.TaskGroup() as group:
            for dsn in self._dsns:  # each task has a context, and so a current database, of its own
                group.create_task(self._serve(dsn), name=describe(dsn))
        if self._refused and (self._drain or len(self._refused) == len(self._dsns)):
            raise next(iter(self._refused.values()))

    async def _serve(self, dsn: str) -> None:
        CURRENT.set(dsn)
        while not self._stopping.is_set():
            runtime = self._runtimes[dsn] = self._make()
            self._refused.pop(dsn, None)
            try:
                await runtime.run()
            except (PgQueueError, ConnectionRefusedError) as error:
                self._refused[dsn] = error
                if len(self._refused) == len(self._dsns):
                    self.stop()
                    return
                if self._drain:
                    log.error("%s: %s", describe(dsn), error)
                    return
                log.error("%s: %s; trying again every minute", describe(dsn), error)
                await either(self._stopping, timeout=AGAIN)
            else:
                break
        if self.recycled:
            for other in self._runtimes.values():
                other.shutdown.recycle("another database's runtime")

    def stop(self) -> None:
        """As ``Runtime.stop``, of all."""
        self._stopping.set()
        for runtime in self._runtimes.values():
            runtime.stop()

    @property
    def recycled(self) -> bool:
        """Is the process to be replaced?"""
        return any(runtime.recycled for runtime in self._runtimes.values())

    @property
    def running(self) -> int:
        """How many handlers run."""
        return sum(runtime.running for runtime in self._runtimes.values())
