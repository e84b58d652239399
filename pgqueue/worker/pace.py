"""How much a look goes over at once, by how long the last ones took. Pure."""

from __future__ import annotations

ALL = 1 << 62
LONG, GOAL, SHORT = 0.1, 0.05, 0.025  # seconds
SHARE, SLOW_SHARE = 0.05, 0.02


class Pace:
    """All at once as long as that is quick; where it is not, as much as will be, and rests longer.

    Args:
        least: what is not worth dividing, unless a look at it was cancelled.
    """

    def __init__(self, least: int = 1) -> None:
        self.reach = ALL
        self._least = least
        self._quick = 0

    def rest(self, took: float) -> float:
        """How long to wait after a look that took so long, in seconds."""
        return took / (SHARE if self.reach == ALL and took <= LONG else SLOW_SHARE)

    def took(self, seconds: float, whole: int) -> None:
        """The last look took so long; ``whole`` would be all there is."""
        reach = min(self.reach, whole)
        if seconds > LONG:
            self.reach = max(int(reach * GOAL / seconds), min(self._least, reach), 1)
        # Stretches without anything dead say nothing about the others.
        self._quick = self._quick + reach if seconds < SHORT else 0
        if self._quick >= whole and self.reach < ALL:
            self.reach = reach * 2 if reach < whole else ALL
            self._quick = 0

    def cut_short(self, whole: int) -> None:
        """The last look was cancelled for its length."""
        self.reach = max(min(self.reach, whole) // 16, 1)
        self._quick = 0
