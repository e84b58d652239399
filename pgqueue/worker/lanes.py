"""Where to claim next: a cursor per lane, and when to sweep from the start again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pgqueue.job import ClaimedJob
from pgqueue.operations.claims import MOST_LANES, Lane, Swept

SWEEP_SHARE = 0.05
AGING = 16
LONGEST_BETWEEN_SWEEPS = 5.0
FRONT = (datetime.fromtimestamp(0, UTC), 0)


class Lanes:
    """The lanes (queue, priority) known to be in use, each with the place claimed up to.

    A claim from the cursors on does not walk the dead index entries behind them. A sweep starts at
    the front and finds what appeared behind: late commits, rescued rows, new priorities. Sweeps
    take at most 5 % of the time, but one is due every 5 s.
    """

    def __init__(self) -> None:
        self._cursors: dict[tuple[str, int], tuple[datetime, int]] = {}
        self._next_sweep = 0.0
        self._turn = 0

    def sweep_due(self, now: float) -> bool:
        """Should the next claim start at the front? ``now`` in monotonic seconds."""
        return not self._cursors or now >= self._next_sweep

    def look_again(self) -> None:
        """Let the next claim start at the front."""
        self._next_sweep = 0.0

    def until_sweep(self, now: float) -> float:
        """Seconds until a sweep is due."""
        return max(0.0, self._next_sweep - now) if self._cursors else 0.0

    def in_order(self) -> list[Lane]:
        """Lanes by priority, queues of the same priority taking turns at the front.

        Every sixteenth time the lowest priority comes first, so that none is starved for ever.
        """
        self._turn += 1
        highest_first = self._turn % AGING != 0
        keys = sorted(self._cursors)
        shift = self._turn % len(keys) if keys else 0
        keys = sorted(keys[shift:] + keys[:shift], key=lambda key: key[1], reverse=highest_first)
        return [Lane(*key, *self._cursors[key]) for key in keys]

    def claimed(self, jobs: Sequence[ClaimedJob]) -> None:
        """Move the cursors behind what was claimed from them on."""
        for key, place in _last(jobs).items():
            self._cursors[key] = max(place, self._cursors.get(key, place))

    def swept(self, found: Swept, *, full: bool, now: float, took: float) -> None:
        """Take note of a sweep that ended at ``now`` after ``took`` seconds.

        A ``full`` one may have left more behind the old cursors, so these go back to where it ended.
        """
        for key, place in _last(found.jobs).items():
            self._cursors[key] = place if full else max(place, self._cursors.get(key, place))
        for key in found.lanes:  # where a full sweep has not been
            self._cursors.setdefault(key, FRONT)
        while len(self._cursors) > MOST_LANES:
            self._cursors.pop(next(iter(self._cursors)))
        self._next_sweep = now + min(took / SWEEP_SHARE, LONGEST_BETWEEN_SWEEPS)


def _last(jobs: Sequence[ClaimedJob]) -> dict[tuple[str, int], tuple[datetime, int]]:
    last: dict[tuple[str, int], tuple[datetime, int]] = {}
    for job in jobs:
        key, place = (job.queue, job.priority), (job.run_at, job.id)
        if key not in last or place > last[key]:
            last[key] = place
    return last
