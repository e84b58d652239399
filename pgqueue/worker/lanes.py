"""Where to claim next: a cursor per lane, and where and when to look behind it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pgqueue.job import ClaimedJob
from pgqueue.operations.claims import MOST_LANES, Lane, Place, Slice, Swept
from pgqueue.worker.pace import ALL, LONG, SHARE, Pace
from pgqueue.worker.trail import END, FRONT, Trail

AGING = 16
LONGEST_BETWEEN_SWEEPS = 5.0

Key = tuple[str, int]


class Lanes:
    """The lanes (queue, priority) known to be in use, each with the place claimed up to.

    A claim from the cursors on does not walk the dead index entries behind them. A sweep finds what
    appeared behind: late commits, rescued rows, new priorities. One is due every 5 s, and they take about 5 %
    of the time at most. While an old snapshot is held, dead entries stay, and one that goes over all of them
    would take seconds: then each goes over a stretch of what was claimed, when there is time for it, and
    over the latest.
    """

    def __init__(self) -> None:
        self._cursors: dict[Key, Place] = {}
        self._trails: dict[Key, Trail] = {}
        self._pace = Pace()
        self._at = 0
        self._next_sweep = 0.0
        self._next_stretch = 0.0
        self._reach = 0
        self.partial = False
        self._turn = 0
        self._found = False
        self.swept_all = False

    def sweep_due(self, now: float) -> bool:
        """Should the next claim look behind the cursors? ``now`` in monotonic seconds."""
        return not self._cursors or now >= self._next_sweep

    def look_again(self) -> None:
        """Let the next claim look behind the cursors."""
        self._next_sweep = self._next_stretch = 0.0

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

    def slices(self, now: float) -> list[Slice]:
        """What the next sweep goes over, of the lanes known.

        All there is, or what is latest, both to the end. Or, ``partial``, stretches behind the cursors, and nothing
        else: what is due ahead of them would fill each sweep, and none would come to the next stretch.
        """
        reach = self._reach = self._pace.reach if now >= self._next_stretch else 0
        trails = {key: self._trail(key) for key in self._cursors}
        whole = all(trail.whole(self._at, reach) for trail in trails.values())
        self.partial = reach > 0 and not whole
        if self.partial:
            return [
                Slice(*key, *trail.stretch(self._at, reach, self._cursors[key]))
                for key, trail in trails.items()
            ]
        return [
            Slice(*key, FRONT if whole else trail.latest(), END) for key, trail in trails.items()
        ]

    def claimed(self, jobs: Sequence[ClaimedJob]) -> None:
        """Move the cursors behind what was claimed from them on."""
        for key, (place, number) in _last(jobs).items():
            self._cursors[key] = max(place, self._cursors.get(key, place))
            self._trail(key).passed(self._cursors[key], number)
        self._forget()

    def swept(self, found: Swept, *, full: bool, now: float, took: float) -> None:
        """Take note of a sweep that ended at ``now`` after ``took`` seconds.

        A ``full`` one may have left more behind the old cursors, so these go back to where it ended; unless
        claims would then have to go over what took the sweep so long: the next sweeps find the rest.
        """
        back = full and self._pace.reach == ALL and took <= LONG
        for key, (place, _) in _last(found.jobs).items():
            self._cursors[key] = place if back else max(place, self._cursors.get(key, place))
            if back:
                self._trail(key).back_to(place)
        for key in found.lanes:  # a full sweep has perhaps not been there
            self._cursors.setdefault(key, FRONT if full else (found.at, 0))
        self._forget()
        self._found = self._found or bool(found.jobs)
        self.swept_all = False
        self._next_sweep = now + min(took / SHARE, LONGEST_BETWEEN_SWEEPS)
        if self._reach and not full:
            self._go_on(found.at)
        if self._reach:
            self._next_stretch = now + self._pace.rest(took)
            self._pace.took(took, self._longest())

    def cut_short(self, now: float, took: float) -> None:
        """A sweep was cancelled by the server's time limit: the next ones go over less."""
        self._pace.cut_short(self._longest())
        self.swept_all = False
        self._next_sweep = now + LONGEST_BETWEEN_SWEEPS
        self._next_stretch = now + self._pace.rest(took)

    def start_at(self, places: Sequence[Lane]) -> None:
        """Go on from these places, where the front of a lane cannot be found in time."""
        for lane in places:
            key, place = (lane.queue, lane.priority), (lane.after_at, lane.after_id)
            self._cursors[key] = max(place, self._cursors.get(key, place))
        self._forget()

    def _forget(self) -> None:
        """Sweeps find what is in the lanes beyond those that are known."""
        while len(self._cursors) > MOST_LANES:
            dropped = next(iter(self._cursors))
            del self._cursors[dropped]
            self._trails.pop(dropped, None)

    def _go_on(self, at: datetime) -> None:
        """The next sweep goes over the next stretch; after the last, from the front again."""
        self._at += self._reach
        if self._at >= self._longest():
            self.swept_all = not self._found
            self._at, self._found = 0, False
            for key in self._cursors:
                self._trail(key).seen(at)

    def _longest(self) -> int:
        return max((len(trail.marks) for trail in self._trails.values()), default=0) + 1

    def _trail(self, key: Key) -> Trail:
        if (trail := self._trails.get(key)) is None:
            trail = self._trails[key] = Trail()
        return trail


def _last(jobs: Sequence[ClaimedJob]) -> dict[Key, tuple[Place, int]]:
    """The last place of each lane, and how many jobs of it there are."""
    last: dict[Key, tuple[Place, int]] = {}
    for job in jobs:
        key, place = (job.queue, job.priority), (job.run_at, job.id)
        known, number = last.get(key, (place, 0))
        last[key] = (max(place, known), number + 1)
    return last
