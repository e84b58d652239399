"""The log's lines about attempts: what happens next to one that did not succeed, and why. Never arguments."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from pgqueue.job import ClaimedJob, Status
from pgqueue.operations.claims import Finished, Recorded
from pgqueue.operations.maintenance import Rescued
from pgqueue.outcome import Outcome
from pgqueue.text import one_line

log = logging.getLogger("pgqueue.job")

FIRST_LINE = 300
AT_ONCE = 0.5
_LEVELS = {
    "retry": logging.WARNING,
    "dead": logging.ERROR,
    "snooze": logging.INFO,
    "suspend": logging.INFO,
    "cancelled": logging.INFO,
}


def report(job: ClaimedJob, outcome: Outcome, recorded: Recorded) -> None:
    """Log it; a closed stderr or a broken filter must not cost a result."""
    became = outcome.kind if recorded.status is Status.PENDING else recorded.status.value
    _say(_LEVELS[became], job, became, f"{_next(job, became, recorded.wait)}: {_why(outcome)}")


def report_successes(finished: Iterable[Finished]) -> None:
    """Log at debug that they were recorded as successes."""
    if log.isEnabledFor(logging.DEBUG):
        for each in finished:
            if each.job is not None:
                _say(logging.DEBUG, each.job, "succeeded", f"succeeded in {each.run_seconds:.3f} s")


def report_crash(job: Rescued) -> None:
    """Log that its lease ran out, and what became of it."""
    became = "retry" if job.status is Status.PENDING else job.status.value
    what = f"{_next(job, became, 0.0)}: WorkerCrashed: its lease ran out"
    _say(_LEVELS[became], job, became, what)


def _say(level: int, job: ClaimedJob | Rescued, became: str, what: str) -> None:
    fields = {
        "job": job.id,
        "task": job.task,
        "queue": job.queue,
        "attempt": job.attempt,
        "outcome": became,
    }
    text = (
        f"job {job.id} ({job.task}, queue {job.queue}) attempt {job.attempt} of"
        f" {job.max_retries + 1}: {what}"
    )
    with suppress(Exception):
        log.log(level, "%s", one_line(text), extra=fields)


def _next(job: ClaimedJob | Rescued, became: str, wait: float) -> str:
    match became:
        case "dead":
            return f"dead, see pgqueue job {job.id}"
        case "cancelled":
            return "cancelled"
        case _ if wait < AT_ONCE:
            return f"{became} at once"
        case "snooze" | "suspend":
            # By this machine's clock, for people; the database alone decides.
            due = datetime.now(UTC) + timedelta(seconds=wait)
            return f"snoozed until {due:%Y-%m-%d %H:%M:%S} UTC"
    return f"{became} in {wait:.0f} s" if wait >= 1 else f"{became} in {wait:.1f} s"


def _why(outcome: Outcome) -> str:
    first = next(iter((outcome.error or "").strip().splitlines()), "")
    shown = first if len(first) <= FIRST_LINE else f"{first[:FIRST_LINE]}..."
    return f"{outcome.error_type}: {shown}" if shown else f"{outcome.error_type}"
