"""The part of an app that keeps queues within their bounds, and gives jobs the defaults of their queues."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Unpack

from pgqueue.durations import Duration
from pgqueue.gateway import Gateway
from pgqueue.job import NewJob, check_queue
from pgqueue.operations import queues
from pgqueue.queues import DeclaredQueue, QueueGiven, QueueSettings, WhenFull, declared_queue
from pgqueue.rooms import Rooms, Seen


class Admits:
    """Looks at the queues that the code declares before jobs go to them; the others cost nothing."""

    queues: dict[str, DeclaredQueue]

    def __init__(self) -> None:
        super().__init__()
        self.queues = {}
        self._rooms = Rooms(self.queues)

    def queue(
        self,
        name: str,
        *,
        when_full: WhenFull = "raise",
        max_wait: Duration = 30.0,
        **settings: Unpack[QueueGiven],
    ) -> None:
        """Declare a queue, whose settings are then honoured when jobs are enqueued to it.

        A worker writes them into the table ``queues`` when it starts; there they may be changed at run time.

        Args:
            name: 1 to 64 characters of A-Z a-z 0-9 _ . : -
            limit: jobs of it that run at once, over all workers.
            rate: jobs of it that start in a time: "100/min".
            burst: how many may start at once after a quiet time; default 1.
            max_pending: jobs that may wait in it.
            when_full: what enqueuing does then: "raise" ``QueueFull``, or "wait" for room.
            max_wait: how long it waits, before it raises; default 30 s.
            keep_succeeded: retention of its succeeded jobs instead of the workers'; 0 deletes them at once.
            keep_dead, keep_cancelled: the same of dead and cancelled ones; "forever" keeps them.
            priority, max_retries, backoff, expires: of jobs of which neither the task nor the call says it.
            timeout: longest run of a job whose task sets none.

        Raises:
            ConfigError: one of them is not usable, or they do not go together.
            TypeError: there is no such setting.
        """
        declared = declared_queue(when_full=when_full, max_wait=max_wait, **settings)
        self.queues[check_queue(name)] = declared

    @property
    def dsns(self) -> tuple[str, ...]:
        raise NotImplementedError

    def _way(self, on: object) -> Gateway:
        raise NotImplementedError

    @property
    def queue_settings(self) -> dict[str, QueueSettings]:
        """What the code declares of queues, by name."""
        return {name: declared.settings for name, declared in self.queues.items()}

    def _admit(
        self, jobs: Sequence[NewJob], on: object, entering: Sequence[NewJob] | None = None
    ) -> Sequence[NewJob]:
        """The jobs with the defaults of their queues, when there is room for them.

        Args:
            entering: those that take room now, where others wait for them; default all.

        Raises:
            QueueFull: there is none.
        """
        counts = self._rooms.counts(jobs, entering)
        since = time.monotonic()
        while counts and not self._has_room(counts):
            seen = self._way(on).run(queues.look(self._of(counts)), on)
            full = self._rooms.take_of(seen, counts, time.monotonic())
            if full is None:
                break
            time.sleep(self._wait(full, counts, since, on))
        return self._rooms.completed(jobs) if counts else jobs

    async def _aadmit(
        self, jobs: Sequence[NewJob], on: object, entering: Sequence[NewJob] | None = None
    ) -> Sequence[NewJob]:
        """The same, awaited."""
        counts = self._rooms.counts(jobs, entering)
        since = time.monotonic()
        while counts and not self._has_room(counts):
            seen = await self._way(on).arun(queues.look(self._of(counts)), on)
            full = self._rooms.take_of(seen, counts, time.monotonic())
            if full is None:
                break
            await asyncio.sleep(self._wait(full, counts, since, on))
        return self._rooms.completed(jobs) if counts else jobs

    def _has_room(self, counts: Mapping[str, int]) -> bool:
        # With several databases nothing tells which one was looked at.
        return len(self.dsns) == 1 and self._rooms.take(counts, time.monotonic())

    def _of(self, counts: Mapping[str, int]) -> dict[str, QueueSettings]:
        return {name: self.queues[name].settings for name in counts}

    def _wait(self, full: Seen, counts: Mapping[str, int], since: float, on: object) -> float:
        waited = time.monotonic() - since
        return self._rooms.wait(full, counts[full.name], waited, ours=on is None)
