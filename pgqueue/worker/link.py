"""One connection of the worker, with its settings: for the session, or per statement.

Through a pooler in transaction mode a session is shared: settings and prepared statements of ours
would meet the application's transactions there, and would not be there for our own. Each statement
then carries its settings along, in a transaction that goes and returns as one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import asyncpg
import psycopg

from pgqueue.connect import connect_async, connect_pipelined
from pgqueue.liveness import shut
from pgqueue.operations import Row
from pgqueue.pinning import MOST_TRIES, pin_async
from pgqueue.sql import Statement

Statements = Mapping[str, Statement]
Values = Mapping[str, object]
CANCELLED = "57014"


class Link(Protocol):
    """A connection that runs statements under the worker's settings.

    ``pooled`` tells that a pooler is between: each statement may meet another session.
    """

    pooled: bool

    async def fetch(self, statement: Statement, values: Values) -> Sequence[Row]: ...

    async def listen(self, channel: str, heard: Callable[[], object]) -> None:
        """Call ``heard`` for each notification on a channel, as long as the session lasts."""

    def is_closed(self) -> bool: ...

    def terminate(self) -> None:
        """Close at once, without a word to the server."""

    async def close(self, *, timeout: float) -> None: ...


async def connect(
    dsn: str, statements: Statements, *, limit: str, timeout: float, lost: Callable[[], None]
) -> Link:
    """Connect, and find out what kind of connection it is.

    Args:
        limit: the server's own time limit of a statement, such as ``5s``.
        timeout: seconds to wait for the connection.
        lost: called when a direct connection has gone.
    """
    connection = await connect_async(dsn, timeout=timeout)
    try:
        async with asyncio.timeout(timeout):
            direct = await pin_async(connection, "pin_session", limit=limit)
    except BaseException:
        connection.terminate()
        raise
    if direct:
        connection.add_termination_listener(lambda _: lost())
        return Direct(connection)
    connection.terminate()
    return Pooled(await connect_pipelined(dsn, timeout=timeout), statements, limit)


class Direct:
    """PostgreSQL itself, by asyncpg: settings for the session, statements prepared once."""

    pooled = False

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection

    async def fetch(self, statement: Statement, values: Values) -> Sequence[Row]:
        rows: Sequence[Row] = await self._connection.fetch(
            statement.numbered, *[values[name] for name in statement.parameters]
        )
        return rows

    async def listen(self, channel: str, heard: Callable[[], object]) -> None:
        await self._connection.add_listener(channel, lambda *_: heard())

    def is_closed(self) -> bool:
        return bool(self._connection.is_closed())

    def terminate(self) -> None:
        self._connection.terminate()

    async def close(self, *, timeout: float) -> None:
        await self._connection.close(timeout=timeout)


class Pooled:
    """A pooler, by psycopg, which can send several statements in one message."""

    pooled = True

    def __init__(
        self, connection: psycopg.AsyncConnection[Any], statements: Statements, limit: str
    ) -> None:
        self._connection = connection
        self._begin, self._pin = statements["begin_pinned"], statements["pin_session"]
        self._commit = statements["commit_pinned"]
        self._settings = {"limit": limit, "local": True, "pid": None}
        self._work: asyncio.Task[Sequence[Row]] | None = None

    async def fetch(self, statement: Statement, values: Values) -> Sequence[Row]:
        self._work = asyncio.create_task(self._transaction(statement, values))
        # Not awaited itself: psycopg answers a cancellation by waiting for the server.
        await asyncio.wait({self._work})
        return self._work.result()

    async def _transaction(self, statement: Statement, values: Values) -> Sequence[Row]:
        """One round trip; tried again if a statement_timeout of the role ended it too early."""
        for tries in range(MOST_TRIES):
            cursor = self._cursor()
            pinned = self._cursor()
            try:
                async with self._connection.pipeline():
                    await _send(self._cursor(), self._begin, {})
                    await _send(pinned, self._pin, self._settings)
                    await _send(cursor, statement, values)
                    await _send(self._cursor(), self._commit, {})
                return await cursor.fetchall() if cursor.description else []
            except psycopg.Error as error:
                if error.sqlstate is None and self._connection.closed:
                    raise ConnectionError(str(error)) from error
                await self._connection.rollback()
                settled = pinned.statusmessage is not None
                if settled or tries + 1 == MOST_TRIES or error.sqlstate != CANCELLED:
                    raise
        raise AssertionError("unreachable")

    async def listen(self, channel: str, heard: Callable[[], object]) -> None:
        raise NotImplementedError("through a pooler nothing is heard")

    def _cursor(self) -> psycopg.AsyncRawCursor[Any]:
        return psycopg.AsyncRawCursor(self._connection)

    def is_closed(self) -> bool:
        return bool(self._connection.closed)

    def terminate(self) -> None:
        if self._work is None or self._work.done():
            self._connection.pgconn.finish()
        else:
            self._work.add_done_callback(self._terminated)
            shut(self._connection.pgconn.socket)

    def _terminated(self, work: asyncio.Task[Sequence[Row]]) -> None:
        if not work.cancelled():
            work.exception()  # nobody waits for it
        self._connection.pgconn.finish()

    async def close(self, *, timeout: float) -> None:
        self.terminate()


async def _send(cursor: psycopg.AsyncRawCursor[Any], statement: Statement, values: Values) -> None:
    await cursor.execute(statement.encoded, [values[name] for name in statement.parameters])
