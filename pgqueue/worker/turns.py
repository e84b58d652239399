"""Few of the worker processes of one supervisor hand in and claim many jobs at a time.

A process with a batch takes one of a few places, as a lock on a byte of a file that they share. Without it more
processes than cores are put aside in the middle of their statements, and what these hold makes those of the others
dearer (docs/adr/0021). It only saves time: a lock ends with its process, and nobody waits for long.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache

if sys.platform != "win32":  # where nobody gives turns
    import fcntl

INHERITED = "PGQUEUE_TURNS"  # the supervisor's pid, the file, the places
PATIENCE = 1.0
SHORTEST, LONGEST = 0.001, 0.05


@contextmanager
def among(processes: int) -> Iterator[tuple[int, ...]]:
    """Set turns up among so many processes of this one's; they are to inherit these descriptors.

    There are twice as many places as cores, for some processes wait for their commits. Only on Linux.
    """
    os.environ.pop(INHERITED, None)
    if sys.platform != "linux" or processes <= (places := 2 * len(os.sched_getaffinity(0))):
        yield ()
        return
    file = os.memfd_create("pgqueue-turns")
    os.environ[INHERITED] = f"{os.getpid()}:{file}:{places}"
    try:
        yield (file,)
    finally:
        os.close(file)


@cache
def of_process() -> Turns:
    """Those of this process, by its supervisor; without one, or among few, nobody waits."""
    parent, file, places = map(int, os.environ.get(INHERITED, "0:0:0").split(":"))
    return Turns(file, places if parent == os.getppid() else 0)


class Turns:
    """Gives turns.

    Args:
        file: the descriptor of a file that is open for writing; its first bytes are the places.
        places: how many processes have a turn at a time; 0: all.
        patience: how long to wait, in seconds.
    """

    def __init__(self, file: int, places: int, *, patience: float = PATIENCE) -> None:
        self._file, self.places, self._patience = file, places, patience
        self._mine: set[int] = set()
        self._took = SHORTEST

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Begins when a place is free, or after ``patience`` seconds without one."""
        place = await self._place()
        begun = time.monotonic()
        try:
            yield
        finally:
            if place is not None:
                self._took = min(max(time.monotonic() - begun, SHORTEST), LONGEST)
                self._mine.discard(place)
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    async def _place(self) -> int | None:
        # To be woken costs a process more than to look: it looks after as long as a turn takes, then less often.
        until, wait = time.monotonic() + self._patience, self._took
        while (place := self._free()) is None and time.monotonic() < until and self.places:
            await asyncio.sleep(random.uniform(0.5, 1.0) * wait)
            wait = min(wait * 2, self._took * 8)
        return place

    def _free(self) -> int | None:
        for place in random.sample(range(self.places), self.places):
            if place in self._mine:  # a process is not kept out by its own lock
                continue
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except (BlockingIOError, PermissionError):
                continue
            except OSError:  # the application closed it, say
                self.places = 0
                return None
            self._mine.add(place)
            return place
        return None
