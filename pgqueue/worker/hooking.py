"""Calls the hooks of an app after an end was recorded; what they raise is logged and costs nothing."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from typing import Any

from pgqueue.hooks import Ended, Kind
from pgqueue.job import Status
from pgqueue.operations.claims import Finished, Recorded
from pgqueue.operations.maintenance import Rescued
from pgqueue.returned import ended as until_ended
from pgqueue.user_frames import exc_info_of
from pgqueue.worker.exits import IN_JOB
from pgqueue.worker.outage import Seldom
from pgqueue.worker.threads import DaemonThreads, in_thread
from pgqueue.worker.tracebacks import clear_tracebacks

log = logging.getLogger("pgqueue.hooks")

AT_ONCE = 16
MOST_WAITING = 1_000
Registered = Mapping[Kind, Sequence[tuple[frozenset[str], Callable[[Ended], Any]]]]


class Hooking:
    """Hooks run beside the jobs, 16 at once, in threads of their own if they are not async.

    Up to 1,000 wait for their turn; while more do, the worker claims no jobs.
    """

    def __init__(self, hooks: Registered) -> None:
        self._hooks = hooks
        self._waiting: deque[tuple[Callable[[Ended], Any], Ended]] = deque()
        self._running: dict[asyncio.Task[None], tuple[str, float]] = {}
        self._threads = DaemonThreads(AT_ONCE, "pgqueue-hook")
        self._seldom = Seldom()
        self.wants_successes = bool(hooks.get("success"))
        self.any = bool(hooks)
        self._clean = copy_context()
        self._clean.run(IN_JOB.set, True)

    def succeeded(self, finished: Sequence[Finished]) -> None:
        """These successes were recorded."""
        if self.wants_successes:
            for each in finished:
                self._happened("success", each, None)

    def failed(self, each: Finished, recorded: Recorded) -> None:
        """This failure was recorded."""
        if recorded.status is Status.DEAD:
            self._happened("dead", each, None)
        elif recorded.status is Status.PENDING and each.outcome.kind == "retry":
            self._happened("retry", each, recorded.wait)

    def crashed(self, job: Rescued) -> None:
        """This job is dead, for its workers died."""
        self._call(
            "dead",
            Ended(
                job.id,
                job.task,
                job.queue,
                job.attempt,
                "WorkerCrashed",
                "its worker died or lost its lease",
            ),
        )

    def _happened(self, kind: Kind, each: Finished, wait: float | None) -> None:
        if each.job is not None:
            job, outcome = each.job, each.outcome
            self._call(kind, Ended(job.id, job.task, job.queue, job.attempt,
                                   outcome.error_type, outcome.error, wait))  # fmt: skip

    def _call(self, kind: Kind, ended: Ended) -> None:
        for tasks, function in self._hooks.get(kind, ()):
            if not tasks or ended.task in tasks:
                self._waiting.append((function, ended))
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._running) < AT_ONCE:
            function, ended = self._waiting.popleft()
            one, context = self._one(function, ended), self._clean.copy()
            task = asyncio.get_running_loop().create_task(one, context=context)
            self._running[task] = (_name(function), time.monotonic())
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._fill()

    @property
    def behind(self) -> bool:
        """Do so many wait that no more jobs are to be claimed?"""
        if len(self._waiting) < MOST_WAITING:
            return False
        if self._seldom("behind"):
            name, since = next(iter(self._running.values()))
            log.warning("%d calls of hooks wait, the first for %s, which runs for %.0f s: until there are fewer,"
                        " no jobs are claimed", len(self._waiting), name, time.monotonic() - since)  # fmt: skip
        return True

    async def _one(self, function: Callable[[Ended], Any], ended: Ended) -> None:
        try:
            if inspect.iscoroutinefunction(function):
                value, raised = await function(ended), None
            else:
                value, raised = await in_thread(self._threads, _caught, function, ended)
            if raised is not None:
                raise raised
            await until_ended(value)
        except BaseException as error:  # not even a SystemExit ends the worker
            this = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and this is not None and this.cancelling():
                raise
            log.error(
                "the hook %s raised for job %d",
                _name(function),
                ended.job_id,
                exc_info=exc_info_of(error),
            )
            clear_tracebacks(error)

    async def finish(self, seconds: float) -> None:
        """Wait for those under way and those that wait for their turn, for so many seconds at most."""
        deadline = time.monotonic() + seconds
        while self._running and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if left_out := len(self._waiting) + len(self._running):
            log.error("%d calls of hooks had not ended when the worker did", left_out)
        self._waiting.clear()
        for task in self._running:
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _name(function: Callable[[Ended], Any]) -> str:
    return str(getattr(function, "__qualname__", function))


def _caught(function: Callable[[Ended], Any], ended: Ended) -> tuple[Any, BaseException | None]:
    """What it returned or raised: a future would never end with a StopIteration."""
    try:
        return function(ended), None
    except BaseException as error:
        return None, error
