"""Sees when the process is better replaced: it holds too much memory, or a job that cannot end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import ClassVar

import psutil

from pgqueue.errors import ConfigError
from pgqueue.sizes import shown
from pgqueue.worker.run import Run
from pgqueue.worker.service import Service
from pgqueue.worker.threads import DaemonThreads, in_thread

LOOK_EVERY = 1.0


class Recycler(Service):
    """Looks once a second and calls ``recycle`` with the reason.

    A handler that ignores its interruption (a thread, or a coroutine that swallows its cancellation)
    is stuck when its lease has run out: its attempt was recorded, its job may run elsewhere, and its slot here is lost.

    Args:
        max_rss: resident bytes of the process and its children; None for no limit.
        stuck: the runs that cannot be ended.
        ends_process: ending the worker ends the process; else a stuck handler would go on anyway.
        threads: of the worker's own, to look in.
        apart: the pids of children that are workers of their own.
    """

    name: ClassVar[str] = "recycler"

    def __init__(
        self,
        *,
        max_rss: int | None,
        stuck: Callable[[], Iterable[Run]],
        ends_process: bool,
        recycle: Callable[[str], None],
        threads: DaemonThreads,
        apart: Callable[[], set[int]] = set,
    ) -> None:
        super().__init__()
        self._max_rss = max_rss
        self._stuck = stuck
        self._ends_process = ends_process
        self._recycle, self._apart = recycle, apart
        self._threads = threads
        self._reported: set[int] = set()

    def check(self) -> None:
        """Raise ConfigError if the process is over the limit before its first job."""
        if self._max_rss is not None and (resident := resident_bytes()) > self._max_rss:
            raise ConfigError(
                f"max_rss {shown(self._max_rss)} is less than the {shown(resident)} that this worker"
                " needs before its first job: raise it"
            )

    async def run_once(self) -> float:
        for run in self._stuck():
            reason = f"job {run.job.id} ({run.job.task}) cannot be stopped and its lease ran out"
            if self._ends_process:
                self._recycle(reason)
            elif run.job.id not in self._reported:
                self._reported.add(run.job.id)
                self.log.error("%s: its slot is lost until this process ends", reason)
        if self._max_rss is not None:
            resident = await in_thread(self._threads, resident_bytes, self._apart())
            if resident > self._max_rss:
                self._recycle(f"{shown(resident)} resident, over max_rss {shown(self._max_rss)}")
        return LOOK_EVERY


def resident_bytes(apart: Iterable[int] = ()) -> int:
    """Resident memory of this process and its children, the process pool of jobs; but not of those apart."""
    own = psutil.Process()
    total, apart = int(own.memory_info().rss), set(apart)
    for child in own.children():
        if child.pid in apart:
            continue
        with suppress(psutil.Error):
            total += int(child.memory_info().rss)
            total += sum(int(each.memory_info().rss) for each in child.children(recursive=True))
    return total
