"""What a handler raises to say how its job goes on."""

from __future__ import annotations

from collections.abc import Iterator

from pgqueue.durations import Duration, seconds


class Control(Exception):
    """Base of Retry, Snooze, Dead and Cancel. No errors: they steer."""


class Retry(Control):
    """Run the job again after a delay (default: its backoff); uses up an attempt.

    Args:
        after: seconds, ``timedelta`` or ``"90s"``; from 0 to 365 days.
        reason: kept with the attempt.
    """

    def __init__(self, reason: str = "", *, after: Duration | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = None if after is None else seconds(after, name="after")


class Snooze(Control):
    """Run the job again after a delay, without using up an attempt."""

    def __init__(self, after: Duration, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = seconds(after, name="after")


class Dead(Control):
    """Move the job to the dead letters now, whatever retries are left."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Cancel(Control):
    """End the job as cancelled."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Suspended(BaseException):
    """A handler sleeps or waits, and its job with it; no Exception, so that handlers let it pass.

    ``after``: seconds until it runs again, if nothing wakes it.
    """

    def __init__(self, after: float) -> None:
        super().__init__(f"suspended for {after:g} s")
        self.after = after


def suspension(error: BaseException) -> Suspended | None:
    """The suspension that an error is, or that all errors of a group are."""
    found = [each if isinstance(each, Suspended) else None for each in leaves_of(error)]
    sure = [each for each in found if each is not None]
    return min(sure, key=lambda each: each.after) if len(sure) == len(found) else None


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """The error itself, or those of a group and of the groups in it, in order, however deep they are."""
    left = [error]
    while left:
        each = left.pop()
        if isinstance(each, BaseExceptionGroup):
            left += reversed(each.exceptions)
        else:
            yield each
