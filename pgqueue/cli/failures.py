"""Errors of the command line: one line that says what to do, and an exit code."""

from __future__ import annotations

import errno
import socket

import asyncpg
import psycopg

from pgqueue.connect import NONE_GIVEN
from pgqueue.drivers import read_only, sqlstate
from pgqueue.errors import ConfigError, DatabaseNotGiven, PgQueueError, SchemaError
from pgqueue.liveness import READ_ONLY
from pgqueue.worker.database import DatabaseAway

# What a server says that cannot be used now: no connection, shutting down, too many connections.
_NOT_THERE = ("08", "28", "3D", "57P", "53300")
# What others mean, beyond the server's own words. https://www.postgresql.org/docs/current/errcodes-appendix.html
_MEANING = {
    "57014": "it was canceled by an administrator, or took longer than statement_timeout",
    "55P03": "others held a lock for longer than lock_timeout; try again",
    "40P01": "a deadlock; try again",
    "40001": "it met a change by somebody else; try again",
    "53100": "the disk of the server is full",
    "53200": "the server is out of memory",
    "54000": "a limit of the server is reached",
}
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
    if isinstance(error, DatabaseAway):
        return NO_DATABASE, str(error)
    if isinstance(error, PgQueueError):
        return FAILED, str(error)
    if (state := sqlstate(error)) is not None and not state.startswith(_NOT_THERE):
        return FAILED, _refused(error, state)
    if NONE_GIVEN in getattr(error, "__notes__", ()):
        return NO_DATABASE, NONE_GIVEN
    if _of_the_connection(error):
        return NO_DATABASE, f"cannot reach the database: {_first_line(error) or 'no answer'}"
    if isinstance(error, OSError):
        what = "cannot write the output: " if error.errno in _OUTPUT and not error.filename else ""
        return FAILED, what + _first_line(error)
    if isinstance(error, psycopg.Error | asyncpg.PostgresError | asyncpg.InterfaceError):
        return FAILED, f"the database refused: {_first_line(error)}"
    raise error


_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF)


def _refused(error: BaseException, state: str) -> str:
    if state == READ_ONLY:
        return str(read_only())
    meaning = _MEANING.get(state)
    return f"the database refused: {_first_line(error)}{f' ({meaning})' if meaning else ''}"


def _of_the_connection(error: BaseException) -> bool:
    """Did the way to the server fail, not what was done there?"""
    if isinstance(error, OSError):
        at_a_socket = ".s.PGSQL." in str(error.filename or error)
        several = error.errno is None  # asyncio's, when each address of a host failed
        return several or at_a_socket or isinstance(error, _NETWORK) or error.errno in _UNREACHABLE
    return isinstance(error, psycopg.OperationalError | asyncpg.PostgresConnectionError) or (
        (sqlstate(error) or "").startswith(_NOT_THERE)
    )


_NETWORK = (
    ConnectionRefusedError,
    ConnectionResetError,
    ConnectionAbortedError,
    TimeoutError,
    socket.gaierror,
)
_UNREACHABLE = (
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.EHOSTDOWN,
    errno.EADDRNOTAVAIL,
)


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")
