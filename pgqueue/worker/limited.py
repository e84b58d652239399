"""Which queues are claimed from under limits; writes those that the code declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pgqueue.app import App
from pgqueue.limits import Limits
from pgqueue.operations import limits
from pgqueue.worker.database import Database
from pgqueue.worker.service import Service

LOOK_EVERY = 1.0


class LimitedQueues(Service):
    """Knows the queues under limits, at most a second old."""

    name: ClassVar[str] = "limits"
    since: ClassVar[int] = 5  # the schema

    def __init__(
        self, *, database: Database, tasks: Mapping[str, Limits], queues: Mapping[str, Limits]
    ) -> None:
        super().__init__()
        self._database = database
        self._declared = (tasks, queues) if tasks or queues else None
        self.queues: list[str] = []

    @classmethod
    def of_app(cls, app: App, database: Database) -> LimitedQueues:
        """With what the code of an app declares."""
        return cls(database=database, tasks=app.task_limits, queues=app.queue_limits)

    async def run_once(self) -> float:
        await self.look()
        return LOOK_EVERY

    async def look(self) -> bool:
        """Write what is declared, once, and see which queues are under limits now; True if others."""
        if self._database.version < self.since:
            return False
        if self._declared is not None:
            for name in await self._database.run(limits.declare(*self._declared)):
                self.log.info("%s: its limits are those of the code now", name)
            self._declared = None
        before, self.queues = self.queues, await self._database.run(limits.limited_queues(None))
        return before != self.queues

    def of(self, queues: list[str] | None) -> list[str]:
        """Those of a pool's queues; None: of all."""
        return [name for name in self.queues if queues is None or name in queues]
