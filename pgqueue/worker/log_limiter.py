"""Limits log lines whose number others choose: of many kinds a few are told, the others are counted."""

from __future__ import annotations

import logging
import time

from pgqueue.text import one_line

INTERVAL = 60.0
MOST_KINDS = 20
MOST_NAMED = 3
MOST_CHARACTERS = 500


class LogLimiter:
    """Warns of each kind once an interval, of at most 20 kinds, and then sums up the rest in one line.

    It keeps no more than the names of these kinds, however many there are.

    Args:
        what: what the summary counts, such as ``jobs left for other workers``.
        interval: in seconds.
    """

    def __init__(self, log: logging.Logger, what: str, interval: float = INTERVAL) -> None:
        self._log, self._what, self._interval = log, what, interval
        self._begun = float("-inf")
        self._told: set[str] = set()
        self._more = 0
        self._names: list[str] = []

    def warn(self, kind: str, text: str) -> None:
        """Log the text, unless one of its kind was logged in this interval or too many kinds were."""
        self.sum_up()
        if kind in self._told:
            return
        if len(self._told) < MOST_KINDS:
            self._told.add(kind)
            self._log.warning("%s", shortened(text))
            return
        self._more += 1
        if len(self._names) < MOST_NAMED and kind not in self._names:
            self._names.append(kind)

    def sum_up(self) -> None:
        """At the end of an interval, say how many were left out of it; to be called now and then."""
        now = time.monotonic()
        if now - self._begun < self._interval:
            return
        if self._more:
            names = ", ".join(map(shortened, self._names))
            self._log.warning("%d more %s, such as %s", self._more, self._what, names)
        self._begun, self._more = now, 0
        self._told.clear()
        self._names.clear()


def shortened(text: str) -> str:
    """One line of at most 500 characters."""
    shown = text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."
    return one_line(shown)
