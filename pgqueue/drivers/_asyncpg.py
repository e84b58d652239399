"""asyncpg: connections, also those acquired from a pool."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from pgqueue.errors import ConnectionUnusable, nested
from pgqueue.interruptible import interruptible
from pgqueue.sql import Statement

# asyncpg takes the parts of a COPY, and writes the statement itself.
_COPY = re.compile(r"copy (\w+)\.(\w+) \((.*)\) from stdin")


_CONNECTIONS = (asyncpg.Connection, PoolConnectionProxy)


class AsyncpgDriver:
    """Runs on the caller's connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def fetch(self, statement: Statement, values: Mapping[str, object]) -> Awaitable[list[Any]]:
        rows: Awaitable[list[Any]] = self._connection.fetch(
            statement.numbered, *[values[n] for n in statement.parameters]
        )
        return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        if self._connection.is_in_transaction():
            raise nested("asyncpg")
        async with interruptible(self._connection):
            yield

    async def acopy(self, statement: Statement, pieces: Iterable[bytes]) -> None:
        match = _COPY.match(statement.numbered)
        assert match is not None
        schema, table, columns = match.groups()
        await self._connection.copy_to_table(
            table, schema_name=schema, columns=columns.split(", "), source=_awaited(pieces)
        )


async def _awaited(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def async_driver(connection: object) -> AsyncpgDriver | None:
    if isinstance(connection, asyncpg.Pool):
        raise ConnectionUnusable(
            "on() takes a connection, not a pool: a transaction belongs to one connection;"
            " use: async with pool.acquire() as conn"
        )
    if not isinstance(connection, _CONNECTIONS):
        return None
    if connection.is_closed():
        raise ConnectionUnusable("the asyncpg connection given to on() is closed")
    return AsyncpgDriver(connection)
