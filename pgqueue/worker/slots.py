"""How much a pool holds: its slots, and what is worth claiming ahead of them. Pure."""

from __future__ import annotations

from collections.abc import Callable

PREFETCH_SECONDS = 0.05
MOMENT = 0.5  # seconds that a claimed job may wait for a slot


class Slots:
    """Counts the jobs of one pool.

    Args:
        concurrency: jobs run at once.
        prefetch: jobs that may wait beside them; None to choose by their run time.
        budget: jobs this process may still claim; None for no limit.
    """

    def __init__(
        self, concurrency: int, *, prefetch: int | None, budget: Callable[[], int | None]
    ) -> None:
        self.concurrency = concurrency
        self.running = 0
        self.taken = 0
        self.ended = 0
        self._prefetch = prefetch
        self._budget = budget
        self._average: float | None = None
        self._stalled = False

    @property
    def free(self) -> bool:
        """Can another job start?"""
        return self.running < self.concurrency

    def room(self, held: int) -> int:
        """How many more jobs are worth claiming now; 0 while enough are waiting."""
        capacity = self.concurrency + self._ahead()
        room = capacity - held
        if not self.free and room * 4 < capacity:
            return 0  # many small claims cost more than a few larger ones
        budget = self._budget()
        return max(room if budget is None else min(room, budget), 0)

    def _ahead(self) -> int:
        """Only as many as would wait less than 50 ms: a long job must not hold others back."""
        if self._stalled:
            return 0
        if self._prefetch is not None:
            return self._prefetch
        if self._average is None or self.concurrency == 1:
            return 0
        return min(
            self.concurrency, int(self.concurrency * PREFETCH_SECONDS / (self._average + 1e-6))
        )

    def stall(self) -> None:
        """What was claimed ahead has waited too long: claim nothing ahead until a job has ended."""
        self._stalled = True

    def took(self, seconds: float) -> None:
        """Take note of the run time of a job."""
        self._stalled = False
        old = self._average
        self._average = seconds if old is None else old + 0.1 * (seconds - old)
