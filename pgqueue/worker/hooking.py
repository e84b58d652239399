"""Calls the hooks of an app after an end was recorded; what they raise is logged and costs nothing."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pgqueue.hooks import Ended, Kind
from pgqueue.job import Status
from pgqueue.operations.claims import Finished, Recorded

log = logging.getLogger("pgqueue.hooks")

GOODBYE = 10.0
Registered = Mapping[Kind, Sequence[tuple[frozenset[str], Callable[[Ended], Any]]]]


class Hooking:
    """Hooks run beside the jobs, each by itself: a slow one holds up no job."""

    def __init__(self, hooks: Registered) -> None:
        self._hooks = hooks
        self._running: set[asyncio.Task[None]] = set()
        self.wants_successes = bool(hooks.get("success"))
        self.any = bool(hooks)

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

    def crashed(self, job_id: int, task: str, attempt: int) -> None:
        """This job is dead, for its workers died."""
        self._call(
            "dead",
            Ended(job_id, task, "", attempt, "WorkerCrashed", "its worker died or lost its lease"),
        )

    def _happened(self, kind: Kind, each: Finished, wait: float | None) -> None:
        if each.job is not None:
            job, outcome = each.job, each.outcome
            self._call(kind, Ended(job.id, job.task, job.queue, job.attempt,
                                   outcome.error_type, outcome.error, wait))  # fmt: skip

    def _call(self, kind: Kind, ended: Ended) -> None:
        for tasks, function in self._hooks.get(kind, ()):
            if not tasks or ended.task in tasks:
                task = asyncio.get_running_loop().create_task(self._one(function, ended))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _one(self, function: Callable[[Ended], Any], ended: Ended) -> None:
        try:
            if inspect.iscoroutinefunction(function):
                await function(ended)
            else:
                await asyncio.to_thread(function, ended)
        except Exception:
            log.exception(
                "the hook %s raised for job %d",
                getattr(function, "__qualname__", function),
                ended.job_id,
            )

    async def finish(self) -> None:
        """Wait for those under way, 10 s at most."""
        if self._running:
            await asyncio.wait(self._running, timeout=GOODBYE)
