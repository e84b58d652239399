"""Who ran which job when, written by the jobs themselves: one memory-mapped file per process.

A file holds, for each of N jobs, the moment of its last start (int64, nanoseconds of CLOCK_MONOTONIC,
which all processes of a machine share) and then how often it was started (uint8); two int64 before
both count the jobs that waited at the gate and those beyond the N, which only make up a backlog. Standard library only: contestants import it in their
own environments.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

GATE = "gate"
POLL = 0.005
HEAD = 16
SAMPLE, MANY, NEAR = 61, 10_000, 0.95


class Ledger:
    """The file of this process; made by the first job that runs here."""

    def __init__(self, folder: Path, jobs: int) -> None:
        size = HEAD + 9 * jobs
        with (folder / f"{os.getpid()}.runs").open("w+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        view = memoryview(self._map)
        self._head = view[:HEAD].cast("q")
        self.starts = view[HEAD : HEAD + 8 * jobs].cast("q")
        self.counts = view[HEAD + 8 * jobs :]
        self._gate = folder / GATE
        self.open = not self._gate.exists()
        self._opened: asyncio.Event | None = None
        self._lock = threading.Lock()

    def record(self, number: int) -> None:
        """Job ``number``, from 0, starts now."""
        try:
            self.starts[number] = time.monotonic_ns()
            self.counts[number] += 1
        except IndexError:
            self._head[1] += 1

    def wait(self) -> None:
        """Hold a thread until the gate is gone: every process is up before the clock starts."""
        with self._lock:
            self._head[0] += 1
        while not self.open:
            time.sleep(POLL)
            self.open = not self._gate.exists()

    async def await_(self) -> None:
        """The same for a coroutine; one of them looks, the others are woken by it."""
        self._head[0] += 1
        if self._opened is not None:
            await self._opened.wait()
            return
        self._opened = asyncio.Event()
        while self._gate.exists():  # noqa: ASYNC110  a file has no event
            await asyncio.sleep(POLL)
        self.open = True
        self._opened.set()


@dataclass(frozen=True, slots=True)
class Tally:
    """What all processes of a run wrote, merged.

    ``starts`` are seconds of CLOCK_MONOTONIC by job, 0.0 for a job that never ran.
    """

    starts: tuple[float, ...]
    lost: int
    repeated: int
    waited: int
    beyond: int = 0

    @property
    def counted(self) -> int:
        """Jobs that ran at least once."""
        return len(self.starts) - self.lost

    @property
    def fault(self) -> str:
        """Why the run is no result; empty when every job ran exactly once."""
        found = []
        if self.lost:
            found.append(f"{self.lost} of {len(self.starts)} jobs did not run")
        if self.repeated:
            found.append(f"{self.repeated} ran more than once")
        return ", ".join(found)

    def rate(self, opened: float) -> float:
        """Jobs per second from the opening of the gate to the last start, without those that waited."""
        ran = self.counted - self.waited
        seconds = max(self.starts, default=0.0) - opened
        return ran / seconds if ran > 0 and seconds > 0 else 0.0


def merge(jobs: int, files: list[tuple[int, list[int], bytes]]) -> Tally:
    """Merge (waited, starts in nanoseconds, counts) of the processes of a run."""
    counts, starts = [0] * jobs, [0] * jobs
    for _, begun, ran in files:
        for number, times in enumerate(ran):
            if times:
                counts[number] += times
                starts[number] = max(starts[number], begun[number])
    return Tally(
        tuple(stamp / 1e9 for stamp in starts),
        counts.count(0),
        sum(1 for times in counts if times > 1),
        sum(waited for waited, _, _ in files),
    )


def read(folder: Path, jobs: int) -> Tally:
    """The merged ledgers of a run."""
    files, beyond = [], 0
    for path in folder.glob("*.runs"):
        raw = path.read_bytes()
        stamps = memoryview(raw)[: HEAD + 8 * jobs].cast("q")
        files.append((stamps[0], stamps[2:].tolist(), raw[HEAD + 8 * jobs :]))
        beyond += stamps[1]
    return replace(merge(jobs, files), beyond=beyond)


class Progress:
    """How many jobs have started, from the ledgers of a run while they are written."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self._folder, self._jobs = folder, jobs
        self._counts: dict[Path, memoryview] = {}

    def started(self, wanted: int) -> int:
        """Exact near ``wanted``; far from it, only every 61st of many is looked at.

        To count them all a hundred times a second took a tenth of a core from 32 processes.
        """
        for path in self._folder.glob("*.runs"):
            if path not in self._counts and path.stat().st_size == HEAD + 9 * self._jobs:
                with path.open("rb") as file:
                    whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                self._counts[path] = whole[HEAD + 8 * self._jobs :]
        for step in (SAMPLE, 1) if wanted >= MANY else (1,):
            parts = [counts[::step].tobytes() for counts in self._counts.values()]
            done = step * sum(len(part) - part.count(0) for part in parts)
            if done < wanted * NEAR:
                break
        return done
