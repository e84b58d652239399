"""Interrupts the runs whose time is over: one timer for all of them, for a timer each costs more than a short job."""

from __future__ import annotations

import asyncio
import logging
import time

from pgqueue.worker.run import Run, say

log = logging.getLogger("pgqueue.job")

THREAD = "has run for its timeout of %s s: a thread cannot be stopped, it is asked to end at its next ctx.check()"
GRAIN = 0.005  # seconds between two looks at least, so that many runs that end late do not cost a look each


class Deadlines:
    """The runs of a process that have a timeout. A run is interrupted as soon as its time is over."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._runs: dict[Run, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = float("inf")

    def add(self, run: Run, timeout: float) -> None:
        """Watch a run that has begun, or waits to begin; ``timeout`` in seconds."""
        self._runs[run] = timeout
        if (due := run.started_at + timeout) < self._next:
            self._arm(due)

    def remove(self, run: Run) -> None:
        """It has ended."""
        self._runs.pop(run, None)

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = due
        self._timer = self._loop.call_later(max(due - time.monotonic(), GRAIN), self._look)

    def _look(self) -> None:
        self._timer, self._next = None, float("inf")
        now, nearest = time.monotonic(), float("inf")
        over: list[tuple[Run, float]] = []
        for run, timeout in self._runs.items():
            # While it waits for a thread or a process, no time counts.
            due = (now if run.queued else run.started_at) + timeout
            if due > now:
                nearest = min(nearest, due)
            else:
                over.append((run, timeout))
        if nearest < float("inf"):
            self._arm(nearest)
        for run, timeout in over:
            del self._runs[run]
            if run.definition is not None and run.definition.run == "thread":
                say(log, logging.WARNING, run, THREAD, f"{timeout:g}")
            run.interrupt("timeout")
