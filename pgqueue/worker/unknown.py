"""Jobs this worker lacks the task or a key for: left for one that has it, looked at ever more rarely."""

from __future__ import annotations

import logging
import time

from pgqueue.outcome import Outcome

log = logging.getLogger("pgqueue.job")

SHORTEST = 10.0
LONGEST = 300.0
REPORT_EVERY = 60.0


class Unknown:
    """Remembers since when each task has been met without what it needs, and when it was reported."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._reported: dict[str, float] = {}

    def met(self, task: str, why: str) -> Outcome:
        """A snooze, so that no attempt is used up; reported at most once a minute."""
        now = time.monotonic()
        if now - self._reported.get(task, -REPORT_EVERY) >= REPORT_EVERY:
            self._reported[task] = now
            log.warning("%s: its jobs are left for a worker that has it", why)
        return Outcome("snooze", wait(now - self._since.setdefault(task, now)))


def wait(known_for: float) -> float:
    """Seconds until the next look: as long as this has lasted, so the wait doubles."""
    return min(max(known_for, SHORTEST), LONGEST)
