"""The worker's control connection: one statement at a time, never without a time limit."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, TypeVar

import asyncpg

from pgqueue.connect import connect_async, describe
from pgqueue.drivers import sqlstate, translate
from pgqueue.operations import Operation
from pgqueue.sql import load

T = TypeVar("T")
log = logging.getLogger("pgqueue.database")

STATEMENT_TIMEOUT = 35.0  # beyond the server's own 30 s: a half-open connection has no server
REPORT_EVERY = 60.0
# The connection is of no use any more: lost, shutting down, or led to a standby.
_BROKEN = ("08", "57P", "25006", "53")


class DatabaseAway(Exception):
    """The database did not answer. ``sent``: the statement may have been carried out."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Database:
    """Runs operations on one connection, opened when needed and again after any doubt."""

    def __init__(self, dsn: str, schema: str) -> None:
        self._dsn = dsn
        self._statements = load(schema)
        self._lock = asyncio.Lock()
        self._connection: asyncpg.Connection[Any] | None = None
        self._away_since: float | None = None
        self._reported = 0.0

    async def run(self, operation: Operation[T]) -> T:
        """Run one operation.

        Raises:
            DatabaseAway: the database did not answer; reported already, at most once a minute.
        """
        statement = self._statements[operation.statement]
        values = [operation.values[name] for name in statement.parameters]
        async with self._lock:
            connection = await self._connected()
            try:
                rows = await connection.fetch(
                    statement.numbered, *values, timeout=STATEMENT_TIMEOUT
                )
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                raise self._judge(error) from error
            except asyncio.CancelledError:
                self._drop()
                raise
        return operation.decode(rows)

    async def _connected(self) -> asyncpg.Connection[Any]:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        try:
            connection = await connect_async(self._dsn)
            await connection.execute(self._statements["pin_session"].numbered, timeout=10.0)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise self._away(error, sent=False) from error
        if self._away_since is not None:
            log.info("database is back after %.0f s", time.monotonic() - self._away_since)
            self._away_since = None
        self._connection = connection
        return connection

    def _judge(self, error: Exception) -> Exception:
        state = sqlstate(error)
        if state is not None and not state.startswith(_BROKEN):
            return translate(error) or error
        self._drop()
        return self._away(error, sent=state is None)

    def _away(self, error: Exception, *, sent: bool) -> DatabaseAway:
        now = time.monotonic()
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if self._away_since is None:
            self._away_since, self._reported = now, 0.0
        if now - self._reported > REPORT_EVERY:
            self._reported = now
            log.warning("no database, will keep trying: %s (%s)", describe(self._dsn), reason)
        return DatabaseAway(reason, sent=sent)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """Close the connection, or drop it when the server does not answer."""
        if self._connection is not None:
            try:
                await self._connection.close(timeout=2.0)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self._drop()
            self._connection = None
