"""Ends a worker process that was told to end and does not: its event loop is blocked."""

from __future__ import annotations

import logging
import os
import threading
import time

from pgqueue.worker import logs
from pgqueue.worker.wakeup import Wakeup

log = logging.getLogger("pgqueue.worker")

# Seconds after the grace time, or after a second signal: the worker itself needs less, whatever its jobs do.
AFTER_GRACE = 15.0
HURRIED = 10.0


class LastResort:
    """A thread that waits for signals beside the event loop.

    Args:
        grace: seconds that running jobs have after a signal.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._wake = Wakeup()
        self._told = 0
        self._over = False
        threading.Thread(target=self._run, name="pgqueue-last-resort", daemon=True).start()

    def told(self) -> None:
        """The process was told to end, or told again; from a signal handler."""
        self._told += 1
        self._wake.set()

    def over(self) -> None:
        """The worker has ended."""
        self._over = True
        self._wake.set()

    def _run(self) -> None:
        heard, deadline = 0, float("inf")
        while not self._over:
            now = time.monotonic()
            if self._told > heard:
                left = self._grace + AFTER_GRACE if self._told == 1 else HURRIED
                heard, deadline = self._told, min(deadline, now + left)
            if now >= deadline:
                log.critical(
                    "the worker did not end in time, a handler blocks it: its process ends now"
                )
                logs.say_last_words()
                os._exit(1)
            self._wake.wait(min(deadline - now, 3600.0))
        self._wake.close()
