"""Tells the log that the database is away, and back: at most once a minute for all connections."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock

from pgqueue.connect import describe

log = logging.getLogger("pgqueue.database")

REPORT_EVERY = 60.0
MOST_KINDS = 1000
# While nothing of a process gets through, one connection attempt in this time, in seconds, is made for all.
PROBE_EVERY = 0.5
# After one got through the others need not take turns.
TRUSTED = 2.0


class Seldom:
    """Lets one report of each kind through every ``interval`` seconds; knows the latest thousand kinds."""

    def __init__(self, interval: float = REPORT_EVERY) -> None:
        self._interval = interval
        self._last: dict[object, float] = {}

    def __call__(self, kind: object) -> bool:
        """Is it time for another report of this kind?"""
        now = time.monotonic()
        if now - self._last.get(kind, -self._interval) < self._interval:
            return False
        self._last.pop(kind, None)
        self._last[kind] = now
        if len(self._last) > MOST_KINDS:
            del self._last[next(iter(self._last))]
        return True


class Outage:
    """Which of a worker's connections are away, and since when; shared by its threads."""

    def __init__(self, dsn: str) -> None:
        self._where = describe(dsn)
        self._lock = Lock()
        self._seldom = Seldom()
        self._away: set[str] = set()
        self._since = 0.0
        self._reported = False
        self._probe_at = 0.0
        self._trusted_until = 0.0
        self._waiting: dict[object, Callable[[], object]] = {}

    def may_try(self) -> bool:
        """May a connection attempt be made now? Services take turns while the database is away."""
        with self._lock:
            now = time.monotonic()
            if not self._away or now < self._trusted_until:
                return True
            if now < self._probe_at:
                return False
            self._probe_at = now + PROBE_EVERY * random.uniform(0.5, 1.0)
            return True

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """For the length of the block, call ``wake`` when a connection that was away is back.

        It is called in the thread that has the connection.
        """
        key = object()
        with self._lock:
            self._waiting[key] = wake
        try:
            yield
        finally:
            with self._lock:
                del self._waiting[key]

    def away(self, connection: str, reason: str) -> None:
        """Take note that a connection cannot be used."""
        with self._lock:
            if not self._away:
                self._since = time.monotonic()
            self._away.add(connection)
            if self._seldom("away"):
                self._reported = True
                log.warning("no database, will keep trying: %s, %s connection (%s)",
                            self._where, connection, reason)  # fmt: skip

    def back(self, connection: str) -> None:
        """Take note that a connection can be used."""
        if not self._away:
            return
        with self._lock:
            if connection not in self._away:
                return
            self._away.discard(connection)
            self._trusted_until = time.monotonic() + TRUSTED
            waiting = list(self._waiting.values())
            if not self._away and self._reported:
                self._reported = False
                log.info("database is back after %.1f s", time.monotonic() - self._since)
        for wake in waiting:
            with suppress(RuntimeError):  # its event loop has ended
                wake()

    def refused(self, statement: str, state: str, reason: str) -> None:
        """Take note that the server refused a statement."""
        with self._lock:
            if self._seldom(state):
                log.error("the database refuses %s, will keep trying: %s (SQLSTATE %s)",
                          statement, reason, state)  # fmt: skip
