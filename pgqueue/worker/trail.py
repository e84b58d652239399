"""The way a cursor has come: marks every so many jobs, between which a sweep can go over a stretch. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pgqueue.operations.claims import Place

FRONT: Place = (datetime.fromtimestamp(0, UTC), 0)
END: Place = (datetime(9999, 12, 30, tzinfo=UTC), 0)
EVERY = 10_000
SELDOM = timedelta(minutes=1)
MOST_MARKS = 512


class Trail:
    """Places that a lane's cursor has passed, oldest first."""

    def __init__(self) -> None:
        self.marks: list[Place] = []
        self._since = 0
        self._every = EVERY

    def passed(self, place: Place, jobs: int) -> None:
        """The cursor is at ``place`` now, ``jobs`` further than before."""
        self._since += jobs
        if self._since >= self._every or len(self.marks) < 2:
            self._mark(place)

    def seen(self, at: datetime) -> None:
        """Whatever was due at this time has been seen."""
        if not self.marks or at - self.marks[-1][0] > SELDOM:
            self._mark((at, 0))

    def _mark(self, place: Place) -> None:
        if self.marks and place <= self.marks[-1]:
            return
        self.marks.append(place)
        self._since = 0
        if len(self.marks) > MOST_MARKS:
            del self.marks[::2]
            self._every *= 2

    def back_to(self, place: Place) -> None:
        """The cursor went back: what lies ahead of it is no trail any more."""
        while self.marks and self.marks[-1] >= place:
            self.marks.pop()

    def whole(self, at: int, reach: int) -> bool:
        """Is that all of the way?"""
        return at == 0 and reach >= self._latest

    def latest(self) -> Place:
        """Where what is looked at most often begins: a whole stretch at least, for late commits are near the cursor."""
        return [FRONT, *self.marks][self._latest]

    def stretch(self, at: int, reach: int, cursor: Place) -> tuple[Place, Place]:
        """From the mark of number ``at`` on over ``reach`` of them, or to the cursor: what is ahead of it is no trail."""
        edges, at = [FRONT, *self.marks], min(at, self._latest)
        return edges[at], edges[at + reach] if at + reach < self._latest else cursor

    @property
    def _latest(self) -> int:
        return max(len(self.marks) - 1, 0)
