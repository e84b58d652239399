"""How many more jobs a process may enqueue to queues with a bound, before it looks again. Pure.

A count costs as much as there are jobs, so a process counts once and then lives off a 64th of the room
it found, for a second at most: the fuller the queue, the more often it counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import NamedTuple

from pgqueue.errors import QueueFull
from pgqueue.job import NewJob
from pgqueue.queues import DeclaredQueue

LOOK_EVERY = 1.0
SHARE = 64
FIRST_WAIT, LONGEST_WAIT = 0.02, 1.0


class Seen(NamedTuple):
    """A queue as the database has it. ``pending`` is None without a bound, and at most ``max_pending``."""

    name: str
    max_pending: int | None
    priority: int | None
    max_retries: int | None
    backoff: Mapping[str, float] | None
    expires: float | None
    pending: int | None
    frozen: bool

    def fits(self, jobs: int) -> bool:
        """Is there room for so many?"""
        return self.max_pending is None or jobs <= self.max_pending - (self.pending or 0)

    def full(self, jobs: int) -> QueueFull:
        """The error of so many jobs that do not fit."""
        return QueueFull(self.name, self.max_pending or 0, jobs)


class Rooms:
    """The declared queues as they were last seen. For any number of threads."""

    def __init__(self, declared: Mapping[str, DeclaredQueue]) -> None:
        self._declared = declared
        self._seen: dict[str, Seen] = {}
        self._credit: dict[str, int] = {}
        self._until: dict[str, float] = {}
        self._lock = Lock()

    def counts(
        self, jobs: Sequence[NewJob], entering: Sequence[NewJob] | None = None
    ) -> dict[str, int]:
        """The declared queues of these jobs, and how many enter each; default all."""
        if not self._declared:
            return {}
        none = dict.fromkeys((job.queue for job in jobs if job.queue in self._declared), 0)
        entering = jobs if entering is None else entering
        return none | Counter(job.queue for job in entering if job.queue in self._declared)

    def take(self, counts: Mapping[str, int], now: float) -> bool:
        """Take the place of so many jobs, if what was seen last says that there is; else look first."""
        with self._lock:
            if any(now >= self._until.get(name, 0.0) for name in counts):
                return False
            bound = {n: k for n, k in counts.items() if self._seen[n].max_pending is not None}
            if any(number > self._credit[name] for name, number in bound.items()):
                return False
            for name, number in bound.items():
                self._credit[name] -= number
            return True

    def take_of(self, seen: Sequence[Seen], counts: Mapping[str, int], now: float) -> Seen | None:
        """The same after a look; returns the queue that is full."""
        with self._lock:
            full = next((each for each in seen if not each.fits(counts[each.name])), None)
            for each in seen:
                taken = 0 if full else counts[each.name]
                room = (each.max_pending or 0) - (each.pending or 0) - taken
                self._seen[each.name], self._credit[each.name] = each, max(room, 0) // SHARE
                self._until[each.name] = now + LOOK_EVERY
            return full

    def wait(self, full: Seen, jobs: int, waited: float, ours: bool) -> float:
        """How long to wait for room, in seconds.

        Args:
            waited: how long it has been.
            ours: the connection is not the caller's, so each look is a transaction of its own.

        Raises:
            QueueFull: that is not wanted, or useless, or has been long enough.
        """
        declared = self._declared[full.name]
        never = jobs > (full.max_pending or 0) or (full.frozen and not ours)
        if declared.when_full == "raise" or never or waited >= declared.max_wait:
            raise full.full(jobs)
        return min(max(FIRST_WAIT, waited / 4), LONGEST_WAIT, declared.max_wait - waited)

    def completed(self, jobs: Sequence[NewJob]) -> Sequence[NewJob]:
        """The jobs with their queues' defaults in place of what nobody chose."""
        with self._lock:
            seen = dict(self._seen)
        given = {name: _defaults(each) for name, each in seen.items() if name in self._declared}
        if not any(given.values()):
            return jobs
        return [_with(job, given.get(job.queue, {})) for job in jobs]


def _defaults(seen: Seen) -> dict[str, object]:
    names = ("priority", "max_retries", "backoff", "expires")
    return {name: value for name in names if (value := getattr(seen, name)) is not None}


def _with(job: NewJob, defaults: Mapping[str, object]) -> NewJob:
    unset = {name: value for name, value in defaults.items() if getattr(job, name) is None}
    return replace(job, **unset) if unset else job  # type: ignore[arg-type]
