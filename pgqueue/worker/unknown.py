"""Jobs that this worker cannot run as they are: it leaves them for one that can."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from pgqueue.durations import duration_text
from pgqueue.outcome import MESSAGE_LIMIT, Outcome, clean
from pgqueue.worker.log_limiter import LogLimiter

log = logging.getLogger("pgqueue.job")

LATELY = 300.0
REPORT_EVERY = 60.0
ELSEWHERE = "its jobs are left for a worker that has it"


class Unknown:
    """Turns what a worker lacks into outcomes, and tells claims what to pass by.

    Once it has met a task that it does not know, it claims only jobs of those it knows, for five minutes: a list
    that its own tasks bound, however many names others use.

    Args:
        names: the tasks that the worker knows.
        patience: for how many seconds a job with arguments that its task does not know is left for a worker
            of a newer version; None for ever.
    """

    def __init__(self, names: Callable[[], Collection[str]], *, patience: float | None) -> None:
        self._names, self._patience = names, patience
        self._met_until = 0.0
        self._limiter = LogLimiter(log, "jobs that this worker cannot run", REPORT_EVERY)

    @property
    def only(self) -> list[str] | None:
        """The tasks whose jobs are claimed; None for all. Asked before each claim."""
        self._limiter.sum_up()
        if time.monotonic() >= self._met_until:
            return None
        return sorted(self._names())

    def task(self, task: str) -> Outcome:
        """No task of this name is known here."""
        self._met_until = time.monotonic() + LATELY
        return self._left(task, f"no task {task!r} in this worker; {ELSEWHERE}")

    def key(self, task: str, error: Exception) -> Outcome:
        """An argument is encrypted with a key that is not here."""
        return self._left(task, f"arguments of task {task!r}: {error}; {ELSEWHERE}")

    def arguments(self, task: str, error: Exception) -> Outcome:
        """There are arguments that the task does not have in this version.

        Or in that of a process of the pool: one that was started after a deployment has read other code.
        """
        why = f"arguments of task {task!r}: {error}"
        if self._patience is None:
            return self._left(task, why)
        why = f"{why}; left for a worker of a newer version, for {duration_text(self._patience)} at most"
        return self._left(task, why, self._patience)

    def _left(self, task: str, why: str, delay: float | None = None) -> Outcome:
        self._limiter.warn(task, why)
        error_type = None if delay is None else "UnknownArguments"
        return Outcome("leave", delay, error_type, clean(why, MESSAGE_LIMIT))
