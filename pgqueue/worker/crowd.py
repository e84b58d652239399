"""Whether claims pass by the rows that other transactions seem to have in hand. Pure."""

from __future__ import annotations

AFTER_A_SHORT_ONE = 32  # claims that skip nothing


class Crowd:
    """Knows whether there are jobs enough to leave those alone that others may have.

    Where many workers claim at a time, most rows a claim comes upon are being claimed by others, and each try
    for a lock costs more than passing the row by. But what looks taken may be free: locked for something else,
    or by a claim that was rolled back. So a claim passes rows by only while there are more jobs than claims
    ask for. What it left behind the cursors, a sweep finds.
    """

    def __init__(self) -> None:
        self.skips = False
        self._rest = 0

    def claimed(self, *, full: bool) -> None:
        """Take note of a claim, ``full`` if it got as many as it asked for."""
        if self.skips and not full:
            self._rest = AFTER_A_SHORT_ONE
        else:
            self._rest = max(self._rest - 1, 0)
        self.skips = full and self._rest == 0
