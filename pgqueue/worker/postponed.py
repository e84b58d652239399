"""Results that could not be recorded yet, because others have locked their rows or the database refused them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgqueue.operations.claims import Finished
from pgqueue.worker import clock
from pgqueue.worker.run import Run

# Seconds between tries, the first and the longest, for a locked row and for a refused one.
LOCKED = (0.05, 2.0)
REFUSED = (1.0, 15.0)


@dataclass
class Entry:
    """One result, since when it has been tried, and when it is next; ``refusal`` is the database's reason."""

    finished: Finished
    run: Run | None
    since: float
    tries: int = 0
    due: float = 0.0
    refusal: str | None = None


class Postponed:
    """They are tried again, later and later; the leases of their jobs are renewed meanwhile."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def add(self, finished: Finished, *, refusal: str | None = None) -> None:
        """Try this one again after a while, twice the last one."""
        now = clock.seconds()
        entry = self._entries.get(finished.id)
        if entry is None or entry.finished.claim_id != finished.claim_id:
            run = None if finished.job is None else Run(finished.job, now)
            entry = self._entries[finished.id] = Entry(finished, run, now)
        entry.finished, entry.refusal = finished, refusal
        first, longest = LOCKED if refusal is None else REFUSED
        entry.due = now + min(first * 2.0 ** min(entry.tries, 20), longest)
        entry.tries += 1

    def put_back(self, tried: Iterable[Finished]) -> None:
        """The database did not answer to these: some may have been recorded."""
        for each in tried:
            if (entry := self._entries.get(each.id)) is not None:
                entry.finished = entry.finished._replace(doubtful=each.doubtful)

    def due(self) -> list[Entry]:
        """Those to be tried now; each stays until it is dropped."""
        now = clock.seconds()
        return [entry for entry in self._entries.values() if entry.due <= now]

    def wait(self) -> float | None:
        """Seconds until the next is due; None if there is none."""
        if not self._entries:
            return None
        return max(min(entry.due for entry in self._entries.values()) - clock.seconds(), 0.0)

    def drop(self, job_ids: Iterable[int]) -> None:
        """These are recorded, or lost."""
        for job_id in job_ids:
            self._entries.pop(job_id, None)

    def runs(self) -> list[Run]:
        """The jobs whose leases are to be renewed; called from other threads as well."""
        return [entry.run for entry in list(self._entries.values()) if entry.run is not None]
