"""Background jobs in your own PostgreSQL: enqueue in your transaction, run by workers."""

from pgqueue.app import App
from pgqueue.context import Context
from pgqueue.dispatch import Job
from pgqueue.errors import (
    ArgumentsError,
    Cancel,
    ClaimLost,
    ConfigError,
    ConnectionUnusable,
    Dead,
    JobNotFound,
    PgQueueError,
    Retry,
    SchemaError,
    Snooze,
    TaskError,
)
from pgqueue.job import Attempt, JobRow, Status
from pgqueue.operations.jobs import Filter
from pgqueue.retry import Backoff
from pgqueue.task import Handle, Task
from pgqueue.worker import Worker

__version__ = "0.1.0"

__all__ = [
    "App",
    "ArgumentsError",
    "Attempt",
    "Backoff",
    "Cancel",
    "ClaimLost",
    "ConfigError",
    "ConnectionUnusable",
    "Context",
    "Dead",
    "Filter",
    "Handle",
    "Job",
    "JobNotFound",
    "JobRow",
    "PgQueueError",
    "Retry",
    "SchemaError",
    "Snooze",
    "Status",
    "Task",
    "TaskError",
    "Worker",
]
