"""What a handler raises to say how its job goes on."""

from __future__ import annotations

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
