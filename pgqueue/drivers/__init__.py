"""Run a statement on a connection somebody else owns, whatever library it comes from.

None of these opens, commits, rolls back or closes anything, or changes a setting.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import cache
from importlib import import_module
from typing import Any, Protocol, TypeVar, runtime_checkable

from pgqueue.errors import (
    ArgumentsError,
    ClaimLost,
    ConfigError,
    ConnectionUnusable,
    DatabaseReadOnly,
    JobNotFound,
    PgQueueError,
    PrivilegeMissing,
    SchemaError,
    StepChanged,
    StepNotFound,
    WorkflowClosed,
)
from pgqueue.liveness import READ_ONLY
from pgqueue.roles import role_for
from pgqueue.sql import Statement

T = TypeVar("T")
Rows = Sequence[Sequence[Any]]
Values = Mapping[str, object]


UNTRANSLATABLE = "22P05"
# What our functions raise themselves.
_RAISED: Mapping[str, type[PgQueueError]] = {
    "PQ001": ClaimLost,
    "PQ002": StepChanged,
    "PQ003": JobNotFound,
    "PQ004": StepNotFound,
    "PQ005": WorkflowClosed,
    "PQ006": ConfigError,
}


class Driver(Protocol):
    """Runs statements on a sync connection."""

    def fetch(self, statement: Statement, values: Values) -> Rows: ...

    def transaction(self) -> AbstractContextManager[None]: ...


@runtime_checkable
class Copying(Protocol):
    """A driver that can also copy rows in."""

    def copy(self, statement: Statement, pieces: Iterable[bytes]) -> None: ...


@runtime_checkable
class AsyncCopying(Protocol):
    """The same, awaited."""

    async def acopy(self, statement: Statement, pieces: Iterable[bytes]) -> None: ...


class AsyncDriver(Protocol):
    """Runs statements on an async connection."""

    def fetch(self, statement: Statement, values: Values) -> Awaitable[Rows]: ...

    def transaction(self) -> AbstractAsyncContextManager[None]: ...


# Imported when first met: an application pays for the libraries it uses.
_LIBRARIES = ("psycopg", "asyncpg", "sqlalchemy", "django")

_TAKES = (
    "psycopg Connection, AsyncConnection or cursor; asyncpg Connection; SQLAlchemy Connection,"
    " Session, AsyncConnection or AsyncSession; Django connection"
)


def sync_driver(connection: object) -> Driver:
    """Return the driver of a sync connection.

    Raises:
        ConnectionUnusable: closed, async, or of no known library.
    """
    driver: Driver | None = _adapt(connection, "sync_driver")
    if driver is None and _adapt(connection, "async_driver") is not None:
        raise ConnectionUnusable(
            f"{_name(connection)} is an async connection: await the verb with an a in front"
            " (aenqueue)"
        )
    return _known(driver, connection)


def async_driver(connection: object) -> AsyncDriver:
    """Return the driver of an async connection.

    Raises:
        ConnectionUnusable: closed, sync, or of no known library.
    """
    driver: AsyncDriver | None = _adapt(connection, "async_driver")
    if driver is None and _adapt(connection, "sync_driver") is not None:
        raise ConnectionUnusable(
            f"{_name(connection)} is a sync connection: use the verb without the a in front"
            " (enqueue)"
        )
    return _known(driver, connection)


def sync_transaction(connection: object) -> AbstractContextManager[None]:
    """A transaction of the caller's connection or session, with what it has begun: committed at the end, or rolled back.

    Raises:
        ConnectionUnusable: closed, async, of no known library, or in a transaction that would go on.
    """
    return sync_driver(connection).transaction()


def async_transaction(connection: object) -> AbstractAsyncContextManager[None]:
    """The same of an async connection or session."""
    return async_driver(connection).transaction()


def _adapt(connection: object, maker: str) -> Any:
    adapt = _adapter(type(connection), maker)  # type: ignore[arg-type]
    return None if adapt is None else adapt(connection)


@cache
def _adapter(kind: type, maker: str) -> Callable[[object], Any] | None:
    roots = {each.__module__.partition(".")[0] for each in kind.__mro__}
    for library in _LIBRARIES:
        if library in roots:
            adapt: Callable[[object], Any] | None
            adapt = getattr(import_module(f"pgqueue.drivers._{library}"), maker, None)
            return adapt
    return None


def _known(driver: T | None, connection: object) -> T:
    if driver is None:
        raise _unknown(connection)
    return driver


def translate(error: BaseException, statement: str | None = None) -> PgQueueError | None:
    """Return our error for the SQLSTATEs we promise to explain; None for all others.

    Args:
        statement: the name of the statement that failed, for the role it needs.
    """
    state = sqlstate(error)
    if state == UNTRANSLATABLE or (
        isinstance(error, UnicodeEncodeError) and not error.encoding.lower().startswith("utf")
    ):
        return ArgumentsError(
            f"a text has a character that this database or connection cannot take ({first_line(error)}): with"
            " encoding UTF8 for the database and client_encoding UTF8 for the connection, both take all but \\0"
        )
    if (raised := _RAISED.get(state or "")) is not None:
        return raised(first_line(error))
    if state == "42501":
        return PrivilegeMissing(f"{first_line(error)}: {role_for(statement)}")
    if state in ("42P01", "3F000", "42703", "42883"):
        return SchemaError(
            f"this database has no matching pgqueue schema ({first_line(error)}): is it the right"
            " database? run: pgqueue migrate"
        )
    if state == READ_ONLY:
        return read_only()
    if state in ("26000", "42P05"):
        return ConnectionUnusable(
            "prepared statements do not work on this connection, as through PgBouncer: connect with"
            " statement_cache_size=0 (asyncpg) or prepare_threshold=None (psycopg)"
        )
    return None


def first_line(error: BaseException) -> str:
    """The first line of a driver's error, also when SQLAlchemy wraps it."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def sqlstate(error: BaseException | None) -> str | None:
    """The SQLSTATE of a driver's error, also when SQLAlchemy or Django wraps it."""
    while error is not None:
        for holder in (error, getattr(error, "orig", None)):
            state = getattr(holder, "sqlstate", None) or getattr(holder, "pgcode", None)
            if state:
                return str(state)
        error = error.__cause__
    return None


def _name(connection: object) -> str:
    return f"{type(connection).__module__.split('.')[0]} {type(connection).__name__}"


def _unknown(connection: object) -> ConnectionUnusable:
    name = f"{type(connection).__module__}.{type(connection).__qualname__}"
    hint = " (psycopg2: use psycopg 3, or SQLAlchemy)" if "psycopg2" in name else ""
    return ConnectionUnusable(f"on() cannot use {name}{hint}; it takes a {_TAKES}")


def read_only() -> DatabaseReadOnly:
    """The error of a server that takes no writes."""
    return DatabaseReadOnly(
        "this server takes no writes: it is a standby, or default_transaction_read_only is on; nothing was"
        " written; give the DSN of the primary, or all hosts and target_session_attrs=read-write"
    )
