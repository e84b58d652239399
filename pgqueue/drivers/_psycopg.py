"""psycopg 3, sync and async: connections and cursors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from pgqueue.errors import ConnectionUnusable
from pgqueue.sql import Statement

BINARY = psycopg.pq.Format.BINARY
IDLE = psycopg.pq.TransactionStatus.IDLE
_CLOSED = "the psycopg connection given to on() is closed"


def _texts(rows: Sequence[Any], connection: Any) -> list[Any]:
    """Texts as such: a connection whose client_encoding is SQL_ASCII gives them as bytes."""
    if connection.pgconn.parameter_status(b"client_encoding") != b"SQL_ASCII":
        return list(rows)
    return [tuple(map(_text, row)) for row in rows]


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(each) for each in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class PsycopgDriver:
    """Uses a cursor of its own, so the caller's row factory stays out of it.

    Results come in binary: as text they would be written by DateStyle and other settings of the caller's.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def fetch(self, statement: Statement, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        with psycopg.RawCursor(self._connection, row_factory=tuple_row) as cursor:
            cursor.execute(
                statement.encoded, [values[n] for n in statement.parameters], binary=True
            )
            return _texts(cursor.fetchall(), self._connection)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        connection = self._connection
        if connection.info.transaction_status == IDLE:
            with connection.transaction():
                yield
            return
        try:
            yield
            connection.commit()  # psycopg refuses it inside a ``with connection.transaction()`` of the caller's
        except BaseException:
            connection.rollback()
            raise

    def copy(self, statement: Statement, pieces: Iterable[bytes]) -> None:
        with psycopg.RawCursor(self._connection) as cursor:
            with cursor.copy(statement.encoded) as copy:
                for piece in pieces:
                    copy.write(piece)


class PsycopgAsyncDriver:
    """The same, awaited."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def fetch(
        self, statement: Statement, values: Mapping[str, object]
    ) -> list[tuple[Any, ...]]:
        async with psycopg.AsyncRawCursor(self._connection, row_factory=tuple_row) as cursor:
            await cursor.execute(
                statement.encoded, [values[n] for n in statement.parameters], binary=True
            )
            return _texts(await cursor.fetchall(), self._connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        connection = self._connection
        if connection.info.transaction_status == IDLE:
            async with connection.transaction():
                yield
            return
        try:
            yield
            await connection.commit()
        except BaseException:
            await connection.rollback()
            raise

    async def acopy(self, statement: Statement, pieces: Iterable[bytes]) -> None:
        async with psycopg.AsyncRawCursor(self._connection) as cursor:
            async with cursor.copy(statement.encoded) as copy:
                for piece in pieces:
                    await copy.write(piece)


def sync_driver(connection: object) -> PsycopgDriver | None:
    if isinstance(connection, psycopg.Cursor):
        connection = connection.connection
    if not isinstance(connection, psycopg.Connection):
        return None
    if connection.closed:
        raise ConnectionUnusable(_CLOSED)
    return PsycopgDriver(connection)


def async_driver(connection: object) -> PsycopgAsyncDriver | None:
    if isinstance(connection, psycopg.AsyncCursor):
        connection = connection.connection
    if not isinstance(connection, psycopg.AsyncConnection):
        return None
    if connection.closed:
        raise ConnectionUnusable(_CLOSED)
    return PsycopgAsyncDriver(connection)
