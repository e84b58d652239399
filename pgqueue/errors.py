"""Every exception pgqueue raises; the four a handler raises to steer its job are in control.py.

PgQueueError
├── ConfigError         a setting, option or name is wrong
│   └── DatabaseNotGiven nothing says where the database is
├── TaskError           a task or job class cannot be used as declared
├── ArgumentsError      a job's arguments do not fit, or cannot be stored
│   └── UnknownArguments  there are more than this version of the task knows
├── KeyMissing          an argument is encrypted with a key that is not here
├── ConnectionUnusable  the connection given to .on() cannot be used
├── ConnectionTimeout   all connections of this process are in use
├── DatabaseReadOnly    the server takes no writes: it is a standby, or was made read-only
├── SchemaError         the database's pgqueue schema is missing, older or newer
├── PrivilegeMissing    the database role may not do this
├── ClaimLost           the job is no longer this worker's
├── StepError           a step cannot go on; the job is dead at once
│   ├── StepChanged     the code has another kind of step by this name than what is stored
│   ├── StepNotStored   it was done, and what it returned cannot be stored
│   └── WaitInHandler   a handler waits for another job, and would keep its slot
├── StepNotFound        the job has no step of this name
├── JobNotFound         no job has this id
├── JobFailed           the job whose result was asked for is dead or cancelled
├── ResultMissing       the job succeeded, but its result was not kept
├── JobExists           another job holds the unique key, and that was to raise
├── QueueFull           as many jobs wait in the queue as may
├── ScheduleNotFound    no schedule has this name
└── WorkflowNotFound    no workflow has this id
"""

from __future__ import annotations


class PgQueueError(Exception):
    """Base of the errors of pgqueue."""


class ConfigError(PgQueueError, ValueError):
    """A setting, option or name is wrong; nothing was written."""


class TaskError(PgQueueError, TypeError):
    """A task or job class cannot be used as it is declared."""


class ArgumentsError(PgQueueError, ValueError):
    """A job's arguments do not fit its task, or cannot be stored; nothing was written."""


class UnknownArguments(ArgumentsError):
    """A stored job has all arguments that its task needs, and others that this version does not know."""


class KeyMissing(PgQueueError):
    """An argument is encrypted with a key that this process does not have."""


class ConnectionUnusable(PgQueueError):
    """The connection given to ``.on()`` cannot be used; nothing was written."""


def nested(library: str) -> ConnectionUnusable:
    """The error of a connection whose transaction would not end here."""
    return ConnectionUnusable(
        f"the {library} connection given with on= is in a transaction already, which would go on: give one that is"
        " in none, or end yours with ctx.complete(connection)"
    )


class ConnectionTimeout(PgQueueError, TimeoutError):
    """All connections of this process are in use, and none came back in time; nothing was written."""

    def __init__(self, size: int, seconds: float, *, ours: bool) -> None:
        whose = "pgqueue's own statements" if ours else "handlers, ctx.transaction() and steps"
        super().__init__(
            f"no connection became free within {seconds:g} s: all {size} of this process for {whose} are in"
            " use; hold them for shorter, or run fewer jobs or threads at once"
        )


class DatabaseReadOnly(PgQueueError):
    """The server takes no writes: it is a standby, or was made read-only; nothing was written."""


class SchemaError(PgQueueError):
    """The database's pgqueue schema is missing, older or newer than this code."""


class PrivilegeMissing(PgQueueError):
    """The database role of this connection may not do this; ``pgqueue sql roles`` has the grants."""


class ClaimLost(PgQueueError):
    """The job is no longer held by this worker; its transaction must roll back."""


class StepError(PgQueueError):
    """A step cannot go on, however often it is tried: the job is dead at once, with all its retries."""


class StepChanged(StepError):
    """What is stored by this name is another kind of step, waits for another event, or is of another type."""


class StepNotStored(StepError):
    """A step was done, and what it returned cannot be stored; it is not done again unless it is forgotten."""


class WorkflowClosed(PgQueueError):
    """No job can be added: the one that adds it, or its workflow, is cancelled. Its transaction must roll back."""


class WaitInHandler(StepError):
    """A handler waits with ``handle.result()`` for another job: once all slots do, none is left to run the others."""

    def __init__(self, job_id: int, waits_for: int) -> None:
        super().__init__(
            f"the handler of job {job_id} waits for job {waits_for} with handle.result(), and would keep its slot: once all"
            " do, no slot is left to run what they wait for. Use ctx.result_of(handle) or ctx.gather(handle, ...), which"
            " give the slot back meanwhile; handle.result(0) looks once"
        )


class StepNotFound(PgQueueError, LookupError):
    """The job has no stored step of this name."""


class JobNotFound(PgQueueError, LookupError):
    """No job has this id."""


class JobExists(PgQueueError):
    """Another job holds the unique key of this one, and ``on_conflict`` is "raise"; nothing was inserted.

    ``job_id`` is the job that holds it; None if this transaction cannot see it.
    """

    def __init__(self, task: str, job_id: int | None) -> None:
        holder = "a job this transaction cannot see" if job_id is None else f"job {job_id}"
        super().__init__(
            f"{holder} has the unique key of this call of {task}: nothing was enqueued"
        )
        self.job_id = job_id


class JobFailed(PgQueueError):
    """The job whose result was asked for is dead or cancelled; ``job_id``, ``status``."""

    def __init__(self, job_id: int, status: str) -> None:
        super().__init__(f"job {job_id} is {status}: pgqueue job {job_id} tells why")
        self.job_id, self.status = job_id, status


class ResultMissing(PgQueueError, LookupError):
    """The job succeeded, but its result was not kept, or its row is gone."""


class QueueFull(PgQueueError):
    """As many jobs wait in the queue as may, or the batch has more; nothing was inserted.

    ``queue``; ``max_pending``.
    """

    def __init__(self, queue: str, max_pending: int, jobs: int) -> None:
        if jobs > max_pending:
            why = f"{jobs} jobs at once never fit into queue {queue}, whose max_pending is {max_pending}: enqueue fewer at a time"
        else:
            why = (
                f"queue {queue} has no room for {jobs} more: its max_pending is {max_pending}; try"
                " again later, or let workers catch up"
            )
        super().__init__(f"{why}. Nothing was enqueued")
        self.queue, self.max_pending = queue, max_pending


class ScheduleNotFound(PgQueueError, LookupError):
    """No schedule has this name."""


class WorkflowNotFound(PgQueueError, LookupError):
    """No workflow has this id: it never existed or was pruned."""


class DatabaseNotGiven(ConfigError):
    """Nothing says where the database is, and what libpq does then led nowhere."""
