"""Background jobs in your own PostgreSQL: enqueue in your transaction, run by workers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgqueue.app import App
    from pgqueue.codec import given
    from pgqueue.context import Context
    from pgqueue.control import Cancel, Dead, Retry, Snooze
    from pgqueue.dispatch import Job
    from pgqueue.errors import (
        ArgumentsError,
        ClaimLost,
        ConfigError,
        ConnectionTimeout,
        ConnectionUnusable,
        DatabaseReadOnly,
        JobExists,
        JobFailed,
        JobNotFound,
        KeyMissing,
        PgQueueError,
        PrivilegeMissing,
        QueueFull,
        ResultMissing,
        ScheduleNotFound,
        SchemaError,
        StepChanged,
        StepError,
        StepNotFound,
        StepNotStored,
        TaskError,
        WaitInHandler,
        WorkflowClosed,
        WorkflowNotFound,
    )
    from pgqueue.hooks import Ended
    from pgqueue.job import Attempt, JobRow, Status
    from pgqueue.keys import Encrypted, Keys, Secret
    from pgqueue.operations.jobs import Change, Filter
    from pgqueue.retry import Backoff
    from pgqueue.schedule import Schedule, ScheduleRun
    from pgqueue.steps import Event
    from pgqueue.task import Handle, Task
    from pgqueue.unique import Unique
    from pgqueue.worker import Worker
    from pgqueue.workflow import Workflow

__version__ = "0.1.0"

__all__ = [
    "App",
    "ArgumentsError",
    "Attempt",
    "Backoff",
    "Cancel",
    "Change",
    "ClaimLost",
    "ConfigError",
    "ConnectionTimeout",
    "ConnectionUnusable",
    "Context",
    "DatabaseReadOnly",
    "Dead",
    "Encrypted",
    "Ended",
    "Event",
    "Filter",
    "Handle",
    "Job",
    "JobExists",
    "JobFailed",
    "JobNotFound",
    "JobRow",
    "KeyMissing",
    "Keys",
    "PgQueueError",
    "PrivilegeMissing",
    "QueueFull",
    "ResultMissing",
    "Retry",
    "Schedule",
    "ScheduleNotFound",
    "ScheduleRun",
    "SchemaError",
    "Secret",
    "Snooze",
    "Status",
    "StepChanged",
    "StepError",
    "StepNotFound",
    "StepNotStored",
    "Task",
    "TaskError",
    "Unique",
    "WaitInHandler",
    "Worker",
    "Workflow",
    "WorkflowClosed",
    "WorkflowNotFound",
    "given",
]

# Imported when first used: `pgqueue --help` and `import pgqueue` cost no database drivers.
_MODULES = {
    "App": "pgqueue.app",
    "ArgumentsError": "pgqueue.errors",
    "Attempt": "pgqueue.job",
    "Backoff": "pgqueue.retry",
    "Cancel": "pgqueue.control",
    "Change": "pgqueue.operations.jobs",
    "ClaimLost": "pgqueue.errors",
    "ConfigError": "pgqueue.errors",
    "ConnectionTimeout": "pgqueue.errors",
    "ConnectionUnusable": "pgqueue.errors",
    "Context": "pgqueue.context",
    "DatabaseReadOnly": "pgqueue.errors",
    "Dead": "pgqueue.control",
    "Encrypted": "pgqueue.keys",
    "Ended": "pgqueue.hooks",
    "Event": "pgqueue.steps",
    "Filter": "pgqueue.operations.jobs",
    "Handle": "pgqueue.task",
    "Job": "pgqueue.dispatch",
    "JobExists": "pgqueue.errors",
    "JobFailed": "pgqueue.errors",
    "JobNotFound": "pgqueue.errors",
    "JobRow": "pgqueue.job",
    "KeyMissing": "pgqueue.errors",
    "Keys": "pgqueue.keys",
    "PgQueueError": "pgqueue.errors",
    "PrivilegeMissing": "pgqueue.errors",
    "QueueFull": "pgqueue.errors",
    "ResultMissing": "pgqueue.errors",
    "Retry": "pgqueue.control",
    "Schedule": "pgqueue.schedule",
    "ScheduleNotFound": "pgqueue.errors",
    "ScheduleRun": "pgqueue.schedule",
    "SchemaError": "pgqueue.errors",
    "Secret": "pgqueue.keys",
    "Snooze": "pgqueue.control",
    "Status": "pgqueue.job",
    "StepChanged": "pgqueue.errors",
    "StepError": "pgqueue.errors",
    "StepNotFound": "pgqueue.errors",
    "StepNotStored": "pgqueue.errors",
    "Task": "pgqueue.task",
    "TaskError": "pgqueue.errors",
    "Unique": "pgqueue.unique",
    "WaitInHandler": "pgqueue.errors",
    "Worker": "pgqueue.worker",
    "Workflow": "pgqueue.workflow",
    "WorkflowClosed": "pgqueue.errors",
    "WorkflowNotFound": "pgqueue.errors",
    "given": "pgqueue.codec",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
