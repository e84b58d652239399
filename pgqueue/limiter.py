"""How often a process notifies the workers of a queue. Pure."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

SPARSE = 0.04
BETWEEN = 0.1
MOST_QUEUES = 1000


class NotifyLimiter:
    """Notifies of every job where they are sparse, of a burst ten times a second.

    A commit that notifies takes a lock of the whole cluster until it is on disk, so that many of
    them wait for each other; a worker that was woken looks again by itself for a while.
    """

    def __init__(self) -> None:
        self._enqueued: dict[str, float] = {}
        self._notified: dict[str, float] = {}

    def allows(self, queues: AbstractSet[str], now: float) -> bool:
        """May an enqueue to these queues notify? ``now`` in monotonic seconds."""
        if len(self._enqueued) > MOST_QUEUES:
            self._forget(now)
        due = False
        for queue in queues:
            due = due or self._due(queue, now)
            self._enqueued[queue] = now
        if due:
            self._notified.update(dict.fromkeys(queues, now))
        return due

    def _forget(self, now: float) -> None:
        """Names of queues may be made up for each tenant: only those of the last moment matter.

        If fewer than half are older than that, all go, so that the next look is not due at once: a queue that is forgotten
        notifies once more than it needs to.
        """
        for times in (self._enqueued, self._notified):
            old = [queue for queue, at in times.items() if now - at >= BETWEEN]
            for queue in old if len(old) * 2 > len(times) else list(times):
                del times[queue]

    def _due(self, queue: str, now: float) -> bool:
        return (
            now - self._enqueued.get(queue, -BETWEEN) >= SPARSE
            or now - self._notified.get(queue, -BETWEEN) >= BETWEEN
        )
