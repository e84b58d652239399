"""SQLAlchemy Core and ORM, sync and async.

Everything is executed *through* the session: on asyncpg the raw connection below it has not sent
BEGIN yet, and what runs there would survive the session's rollback.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import Any

from sqlalchemy import Connection, TextClause, event, text
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, scoped_session

from pgqueue.errors import ConnectionUnusable, nested
from pgqueue.sql import Statement


@cache
def _clause(statement: Statement) -> TextClause:
    return text(statement.named)


class SQLAlchemyDriver:
    """Runs through a Connection or a Session."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def fetch(self, statement: Statement, values: Mapping[str, object]) -> list[Any]:
        clause, through = _clause(statement), self._connection
        if not isinstance(through, Connection):
            through = through.connection(bind_arguments={"clause": clause})
        with _in_binary(through):
            rows: list[Any] = self._connection.execute(clause, dict(values)).all()
            return rows

    @contextmanager
    def transaction(self) -> Iterator[None]:
        own = self._connection
        _check_ends(own)
        if isinstance(own, Connection):
            _check_commits(own)
        try:
            if not own.in_transaction():
                own.begin()
            if not isinstance(own, Connection):
                _check_commits(own.connection(bind_arguments={"clause": text("select 1")}))
            yield
            own.commit()
        except BaseException:
            own.rollback()
            raise


class SQLAlchemyAsyncDriver:
    """Runs through an AsyncConnection or an AsyncSession."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, statement: Statement, values: Mapping[str, object]) -> list[Any]:
        clause, through = _clause(statement), self._connection
        if not hasattr(through, "sync_connection"):  # a session
            through = await through.connection(bind_arguments={"clause": clause})
        with _in_binary(through.sync_connection):
            rows: list[Any] = (await self._connection.execute(clause, dict(values))).all()
            return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        own = self._connection
        _check_ends(own)
        session = not hasattr(own, "sync_connection")
        if not session:
            _check_commits(own.sync_connection)
        try:
            if not own.in_transaction():
                await own.begin()
            if session:
                through = await own.connection(bind_arguments={"clause": text("select 1")})
                _check_commits(through.sync_connection)
            yield
            await own.commit()
        except asyncio.CancelledError:
            # The statement in hand may never be answered, and a rollback would wait for that answer.
            await own.invalidate()
            raise
        except BaseException:
            await own.rollback()
            raise


def _check_ends(own: Any) -> None:
    if own.in_nested_transaction():
        raise nested("SQLAlchemy")


def _check_commits(connection: Connection) -> None:
    if (
        connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
        or getattr(connection.dialect, "_on_connect_isolation_level", None) == "AUTOCOMMIT"
    ):
        raise ConnectionUnusable(
            "the SQLAlchemy connection given with on= commits each statement by itself (isolation level AUTOCOMMIT):"
            " give one that has transactions"
        )


@contextmanager
def _in_binary(connection: Connection | None) -> Iterator[None]:
    """Have psycopg's results sent in binary, as ``PsycopgDriver`` does; asyncpg's always are."""
    if connection is None or connection.dialect.driver not in ("psycopg", "psycopg_async"):
        yield
        return
    from pgqueue.drivers._psycopg import BINARY

    def ask(conn: object, cursor: Any, *_: object) -> None:
        getattr(cursor, "_cursor", cursor).format = BINARY  # the async one wraps psycopg's

    event.listen(connection, "before_cursor_execute", ask)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", ask)


def _check(connection: Any) -> None:
    if getattr(connection, "closed", False):
        raise ConnectionUnusable("the SQLAlchemy connection given to on() is closed")
    try:
        bind = connection.get_bind() if hasattr(connection, "get_bind") else connection
    except UnboundExecutionError:
        return  # a session with a bind per mapper: the statement itself will tell
    if bind.dialect.name != "postgresql":
        raise ConnectionUnusable(
            f"on() needs SQLAlchemy on PostgreSQL, this connection is {bind.dialect.name}"
        )


def sync_driver(connection: object) -> SQLAlchemyDriver | None:
    if not isinstance(connection, Connection | Session | scoped_session):
        return None
    _check(connection)
    return SQLAlchemyDriver(connection)


def async_driver(connection: object) -> SQLAlchemyAsyncDriver | None:
    # Imported only for one of them: it needs greenlet, which SQLAlchemy brings along if it is asked to.
    if not any(
        cls.__module__.startswith("sqlalchemy.ext.asyncio") for cls in type(connection).__mro__
    ):
        return None
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    if not isinstance(connection, AsyncConnection | AsyncSession | async_scoped_session):
        return None
    _check(connection)
    return SQLAlchemyAsyncDriver(connection)
