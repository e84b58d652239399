"""Errors of the command line: one line that says what to do, and an exit code."""

from __future__ import annotations

import asyncpg
import psycopg

from pgqueue.connect import NONE_GIVEN
from pgqueue.drivers import sqlstate
from pgqueue.errors import ConfigError, DatabaseNotGiven, PgQueueError, SchemaError

READ_ONLY = "25006"
FAILED, USAGE, NO_DATABASE, NO_SCHEMA = 1, 2, 3, 4


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the line for an error; re-raises what only a bug can cause."""
    if isinstance(error, BaseExceptionGroup):
        return explain(error.exceptions[0])
    error = getattr(error, "orig", None) or error  # SQLAlchemy's, around the driver's
    if isinstance(error, SchemaError):
        return NO_SCHEMA, str(error)
    if isinstance(error, DatabaseNotGiven):
        return NO_DATABASE, NONE_GIVEN
    if isinstance(error, ConfigError):
        return USAGE, str(error)
    if isinstance(error, PgQueueError):
        return FAILED, str(error)
    if isinstance(error, psycopg.OperationalError | asyncpg.PostgresConnectionError | OSError):
        if NONE_GIVEN in getattr(error, "__notes__", ()):
            return NO_DATABASE, NONE_GIVEN
        first = next((line for line in str(error).splitlines() if line.strip()), "no answer")
        return NO_DATABASE, f"cannot reach the database: {first}"
    if sqlstate(error) == READ_ONLY:
        return FAILED, (
            "this server takes no writes: it is a standby, or default_transaction_read_only is on;"
            " give the DSN of the primary"
        )
    if isinstance(error, psycopg.Error | asyncpg.PostgresError):
        return FAILED, f"the database refused: {str(error).splitlines()[0]}"
    raise error
