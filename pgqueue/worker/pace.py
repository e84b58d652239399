"""How much a look goes over at once, by how long the last ones took. Pure."""

from __future__ import annotations

ALL = 1 << 62
LONG, SHORT = 0.1, 0.025  # seconds
SHARE, SLOW_SHARE = 0.05, 0.02


class Pace:
    """All at once as long as that is quick; where it is not, halves and doubles, and rests longer."""

    def __init__(self) -> None:
        self.reach = ALL

    def rest(self, took: float) -> float:
        """How long to wait after a look that took so long, in seconds."""
        return took / (SHARE if self.reach == ALL and took <= LONG else SLOW_SHARE)

    def took(self, seconds: float, whole: int) -> None:
        """The last look took so long; ``whole`` would be all there is."""
        if seconds > LONG:
            self.reach = max(min(self.reach, whole) // 2, 1)
        elif seconds < SHORT and self.reach < ALL:
            self.reach = self.reach * 2 if self.reach < whole else ALL

    def cut_short(self, whole: int) -> None:
        """The last look was cancelled for its length."""
        self.reach = max(min(self.reach, whole) // 16, 1)
