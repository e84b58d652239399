"""One run of one job: what the worker holds from the claim to the outcome."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any, Literal

from pgqueue.context import Context
from pgqueue.control import Cancel, Control
from pgqueue.definition import Definition
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Outcome
from pgqueue.text import one_line
from pgqueue.worker import clock

Reason = Literal["timeout", "cancelled", "stopping", "lost"]
INTERRUPTIONS = (asyncio.CancelledError, Cancel)  # by a cancelled coroutine, by ctx.check()


class Run:
    """A claimed job in this process. ``renewed_at``: when its lease was last known to start, by the clock of leases.

    ``queued``: its handler waits for a thread or a process; until it has one, no time counts against the job.
    """

    __slots__ = (
        "awaits", "claimed_at", "context", "definition", "in_process", "job", "queued", "reason", "renewed_at", "started_at",
        "task",
    )  # fmt: skip

    def __init__(self, job: ClaimedJob, renewed_at: float) -> None:
        self.job = job
        self.claimed_at = self.renewed_at = renewed_at
        self.in_process = self.queued = False
        self.started_at = 0.0
        self.definition: Definition | None = None
        self.context: Context | None = None
        self.task: asyncio.Task[Any] | None = None
        self.awaits: asyncio.Task[Any] | None = None  # what a handler in a thread waits for
        self.reason: Reason | None = None

    def begin(self) -> None:
        """The handler starts now, in its thread or process."""
        self.started_at = time.monotonic()
        self.queued = False

    def interrupt(self, reason: Reason) -> None:
        """Stop the handler: a coroutine is cancelled, a process killed, a thread asked."""
        if self.reason is None or reason == "lost":
            self.reason = reason
        if self.context is not None:
            self.context.stop()
        if (
            self.task is not None
            and self.definition is not None
            and self.definition.run != "thread"
        ):
            self.task.cancel()
        if self.awaits is not None:
            self.awaits.cancel()

    def lapsed(self, lease: float) -> bool:
        """May its lease (seconds) have run out, as far as this process knows?"""
        return clock.seconds() - self.renewed_at > lease

    def stuck(self, lease: float) -> bool:
        """Has it outlived both its interruption and its lease, which is no longer renewed?"""
        return self.reason is not None and self.lapsed(lease)

    def seconds(self) -> float:
        """How long the handler has been running; 0 if it has not begun."""
        begun = self.started_at and not self.queued
        return time.monotonic() - self.started_at if begun else 0.0


def say(log: logging.Logger, level: int, run: Run, text: str, *values: str) -> None:
    """Log a line about a run; a closed stderr or a broken filter must not cost a result."""
    job = run.job
    with suppress(Exception):
        log.log(
            level,
            f"job %d (%s) attempt %d: {text}",
            job.id,
            one_line(job.task),
            job.attempt,
            *map(one_line, values),
        )


def interruption(reason: Reason | None, raised: BaseException) -> bool:
    """Is it by its interruption that a run ended with this error?

    One that the worker stopped, that was cancelled or whose claim is lost is judged by that, whatever its
    handler raised. One whose time was over may have failed in its own way, and may say how it goes on.
    """
    if reason is None:
        return False
    return reason != "timeout" or _came_of(raised, INTERRUPTIONS)


def _came_of(raised: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Is the error, or what it was raised from, or any of its group, of these kinds?"""
    seen: set[int] = set()
    left: list[BaseException | None] = [raised]
    while left:
        each = left.pop()
        if isinstance(each, kinds):
            return True
        if each is None or id(each) in seen or isinstance(each, Control):
            continue
        seen.add(id(each))
        left += (each.__cause__, each.__context__)
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions
    return False


def interrupted(reason: Reason, timeout: float | None) -> Outcome:
    """The outcome of a run that was interrupted."""
    match reason:
        case "timeout":
            return Outcome("retry", None, "TimeoutError", f"ran longer than {timeout:g} s")
        case "cancelled":
            return Outcome("cancelled", None, "Cancelled", "cancelled while it ran")
        case "stopping":
            # No failure of the job's: it keeps its attempt, or deploys would use up its retries.
            return Outcome("snooze", 0.0, "WorkerStopped", "the worker stopped before it ended")
        case "lost":
            # Its lease may hold: then it is given back. If others have it, its claim is another, and nothing happens.
            return Outcome("snooze", 0.0, "LeaseLost", "its lease could not be renewed in time")
