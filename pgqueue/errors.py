"""Every exception pgqueue raises, and the four a handler raises to steer its job.

PgQueueError
├── ConfigError         a setting, option or name is wrong
├── TaskError           a task or job class cannot be used as declared
├── ArgumentsError      a job's arguments do not fit, or cannot be stored
├── ConnectionUnusable  the connection given to .on() cannot be used
├── SchemaError         the database's pgqueue schema is missing, older or newer
├── ClaimLost           the job is no longer this worker's
└── JobNotFound         no job has this id
Control                 raised by a handler: Retry, Snooze, Dead, Cancel
"""

from __future__ import annotations

from pgqueue.durations import Duration, seconds


class PgQueueError(Exception):
    """Base of the errors of pgqueue."""


class ConfigError(PgQueueError, ValueError):
    """A setting, option or name is wrong; nothing was written."""


class TaskError(PgQueueError, TypeError):
    """A task or job class cannot be used as it is declared."""


class ArgumentsError(PgQueueError, ValueError):
    """A job's arguments do not fit its task, or cannot be stored; nothing was written."""


class ConnectionUnusable(PgQueueError):
    """The connection given to ``.on()`` cannot be used; nothing was written."""


class SchemaError(PgQueueError):
    """The database's pgqueue schema is missing, older or newer than this code."""


class ClaimLost(PgQueueError):
    """The job is no longer held by this worker; its transaction must roll back."""


class JobNotFound(PgQueueError, LookupError):
    """No job has this id."""


class Control(Exception):
    """Raised by a handler to say how its job goes on."""


class Retry(Control):
    """Run the job again after a delay (default: its backoff); uses up an attempt.

    Args:
        after: seconds, ``timedelta`` or ``"90s"``; from 0 to 365 days.
        reason: kept with the attempt.
    """

    def __init__(self, reason: str = "", *, after: Duration | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = None if after is None else seconds(after)


class Snooze(Control):
    """Run the job again after a delay, without using up an attempt."""

    def __init__(self, after: Duration, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = seconds(after)


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
