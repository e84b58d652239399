"""What holds for queues while they are worked on; writes what the code declares of them."""

from __future__ import annotations

import random
import time
from typing import ClassVar

from pgqueue.app import App
from pgqueue.config import Settings
from pgqueue.operations import limits
from pgqueue.operations.limits import Declared, QueueAtWork
from pgqueue.worker.database import LOCK_NOT_AVAILABLE, Database, StatementRefused
from pgqueue.worker.service import Service

LOOK_EVERY = 1.0
REVIEW_EVERY = 10.0
# A look of more than LONG seconds takes at most this share of the time.
LONG, SHARE, LONGEST = 0.1, 0.1, 30.0


class Queues(Service):
    """Knows the queues with limits, a retention or a timeout of their own, at most a second old."""

    name: ClassVar[str] = "queues"

    def __init__(
        self,
        *,
        database: Database,
        declared: Declared,
        delete: bool,
        longest: float | None,
    ) -> None:
        super().__init__()
        self._database = database
        self.declared = declared
        self._starting, self._declare_at = True, 0.0
        self._delete, self._longest = delete, longest
        self._known: dict[str, QueueAtWork] = {}
        self._look_at = 0.0

    @classmethod
    def of_app(cls, app: App, settings: Settings, database: Database) -> Queues:
        """With what the code of an app declares, and what the settings say of queues of which nothing is said."""
        return cls(
            database=database,
            declared=app.settings_declared(),
            delete=settings.keep_succeeded == 0,
            longest=settings.default_timeout,
        )

    async def run_once(self) -> float:
        if time.monotonic() >= self._declare_at:
            await self.declare()
        await self.look()
        return max(LOOK_EVERY, self._look_at - time.monotonic())

    async def declare(self) -> None:
        """Write what the code declares, and now and then see whether another's declaration has ended.

        Until another session lets go of its rows, what they say holds.
        """
        declare = limits.declare(self.declared, starting=self._starting)
        try:
            names = await self._database.run(declare)
        except StatementRefused as refused:
            if refused.state != LOCK_NOT_AVAILABLE:
                raise
            if self._seldom("locked"):
                self.log.warning("another session has locked rows of the settings of queues and tasks: those of"
                                 " the code are written when it lets go of them")  # fmt: skip
            return
        self._starting = False
        self._declare_at = time.monotonic() + REVIEW_EVERY * random.uniform(0.8, 1.2)
        for name in names:
            self.log.info("%s: its settings are those of the code now", name)

    async def look(self) -> bool:
        """See what holds now; True if other queues have limits."""
        begun = time.monotonic()
        if begun < self._look_at:
            return False
        before = self.limited(None)
        found = await self._database.run(limits.queues_at_work(None))
        self._known = {each.name: each for each in found}
        # It walks over every queue that has jobs under limits, and who enqueues chooses how many there are.
        if (took := time.monotonic() - begun) > LONG:
            self._look_at = time.monotonic() + min(took / SHARE, LONGEST)
        return before != self.limited(None)

    def limited(self, queues: list[str] | None) -> list[str]:
        """Those under limits, of a pool's queues; None: of all."""
        return [
            name
            for name, each in self._known.items()
            if each.limited and (queues is None or name in queues)
        ]

    def timeout(self, queue: str) -> float | None:
        """The longest run of a job whose task sets none, in seconds; None for no limit."""
        known = self._known.get(queue)
        return self._longest if known is None else known.timeout or self._longest

    def deletes_succeeded(self, queue: str) -> bool:
        """Are its jobs deleted when they have succeeded?"""
        known = self._known.get(queue)
        return self._delete if known is None or known.keep is None else known.keep == 0
