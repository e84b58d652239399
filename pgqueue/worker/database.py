"""A connection of the worker: one statement at a time, none without a time limit."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import asyncpg
import psycopg

from pgqueue.drivers import sqlstate, translate
from pgqueue.errors import PgQueueError
from pgqueue.operations import Operation, Row, maintenance
from pgqueue.sql import load
from pgqueue.worker.link import Link, connect
from pgqueue.worker.outage import Outage
from pgqueue.worker.verdict import Verdict, denied, verdict

T = TypeVar("T")

LOCK_NOT_AVAILABLE = "55P03"
TOO_LONG = "57014"  # the server's time limit of a statement
PATIENCE = 6.5  # seconds; the server's own limit is shorter: a half-open connection has no server
SERVER_SHARE = 0.75
CHECK_AFTER = 3.0
CONNECT_TIMEOUT = 5.0
MOST_RETRIES = 5
ERRORS = (
    OSError, EOFError, TimeoutError,
    asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, psycopg.Error,
)  # fmt: skip


# https://www.postgresql.org/docs/current/errcodes-appendix.html
DATA_EXCEPTION = "22000"


class DatabaseTrouble(PgQueueError):
    """A statement did not succeed; reported already, each kind at most once a minute."""


class DatabaseAway(DatabaseTrouble):
    """The database did not answer.

    ``sent``: the statement may have been carried out; ``outage``: tells when the database is back.
    """

    def __init__(self, reason: str, *, sent: bool, outage: Outage | None = None) -> None:
        super().__init__(reason)
        self.sent, self.outage = sent, outage


class StatementRefused(DatabaseTrouble):
    """The server refused the statement, so it was not carried out; ``state`` is the SQLSTATE."""

    def __init__(self, reason: str, state: str) -> None:
        super().__init__(reason)
        self.state = state


class Database:
    """Runs operations on one connection, opened when needed and again after any doubt.

    Args:
        name: what the connection is for, in reports.
        patience: seconds to wait for an answer, default 6.5; the server gives up after three
            quarters of it.
        lost: called when the connection has gone.
    """

    def __init__(
        self,
        dsn: str,
        schema: str,
        *,
        name: str = "control",
        outage: Outage | None = None,
        patience: float | None = None,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._dsn, self._name = dsn, name
        self._statements = load(schema)
        self._outage = outage or Outage(dsn)
        self._patience = PATIENCE if patience is None else patience
        self._lost = lost
        self._lock = asyncio.Lock()
        self._link: Link | None = None
        self._used = 0.0
        self._reason = "no answer"
        self.session = 0

    async def run(self, operation: Operation[T], *, logs_refusal: bool = True) -> T:
        """Run one operation; conflicts with other sessions are tried again, up to 5 times.

        Args:
            logs_refusal: log that the server refused it, and that it will be tried again; False where the caller
                ends instead.

        Raises:
            DatabaseAway: the database did not answer.
            StatementRefused: the server refused the statement.
        """
        statement = self._statements[operation.statement]
        tries = 0
        while True:
            try:
                rows: list[Row] = await self._use(
                    lambda link: link.fetch(statement, operation.values)
                )
                return operation.decode(rows)
            except StatementRefused as refused:
                if not operation.patient and refused.state == LOCK_NOT_AVAILABLE:
                    raise
                tries += 1
                if tries > MOST_RETRIES or verdict(refused.state) is not Verdict.AGAIN:
                    if logs_refusal:
                        self._outage.refused(operation.statement, refused.state, str(refused))
                    raise
            await asyncio.sleep(random.uniform(0.01, 0.2))

    async def listen(self, channel: str, heard: Callable[[], object]) -> None:
        """Call ``heard`` for each notification on a channel, as long as this session lasts.

        Raises:
            DatabaseAway: the database did not answer.
            StatementRefused: the server refused to listen.
        """
        try:
            await self._use(lambda link: link.listen(channel, heard))
        except StatementRefused as refused:
            self._outage.refused("listen", refused.state, str(refused))
            raise

    async def check(self) -> float:
        """See whether an idle connection still reaches a server that takes writes.

        Returns the seconds until the next check is due.
        """
        idle = time.monotonic() - self._used
        if idle < CHECK_AFTER:
            return CHECK_AFTER - idle
        if await self.run(maintenance.read_only()):
            raise self._away("the server is read-only", sent=False)
        return CHECK_AFTER

    async def _use(self, act: Callable[[Link], Any]) -> Any:
        async with self._lock:
            try:
                link = await self._connected()
            except ERRORS as error:
                if denied(state := sqlstate(error)):
                    raise StatementRefused(_first_line(error), str(state)) from error
                raise self._away(_first_line(error), sent=False) from error
            try:
                async with asyncio.timeout(self._patience):
                    result = await act(link)
            except ERRORS as error:
                raise self._judged(error) from error
            except BaseException:
                self._drop()
                raise
            self._used = time.monotonic()
        self._outage.back(self._name)
        return result

    async def _connected(self) -> Link:
        if self._link is not None and not self._link.is_closed():
            return self._link
        if not self._outage.may_try():  # another has tried a moment ago
            raise ConnectionError(self._reason)
        self._link = await connect(
            self._dsn,
            self._statements,
            limit=f"{self._patience * SERVER_SHARE * 1000:.0f}ms",
            timeout=CONNECT_TIMEOUT,
            lost=self._lost,
        )
        self.session += 1
        return self._link

    @property
    def pooled(self) -> bool:
        """Does the last connection lead through a pooler?"""
        return self._link is not None and self._link.pooled

    def _judged(self, error: Exception) -> DatabaseTrouble:
        if isinstance(error, ValueError):  # a value that the driver could not encode: not sent
            return StatementRefused(_first_line(error), DATA_EXCEPTION)
        forget_detail(error)
        state = sqlstate(error)
        judgement = verdict(state)
        reason = _first_line(translate(error, "claim") or error)
        if state is not None and judgement in (Verdict.AGAIN, Verdict.REFUSED):
            return StatementRefused(reason, state)
        return self._away(reason, sent=judgement is Verdict.LOST)

    def _away(self, reason: str, *, sent: bool) -> DatabaseAway:
        self._drop()
        self._outage.away(self._name, reason)
        self._reason = reason
        return DatabaseAway(reason, sent=sent, outage=self._outage)

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.terminate()

    async def close(self) -> None:
        """Close the connection, or drop it when the server does not answer."""
        link, self._link = self._link, None
        if link is not None:
            try:
                await link.close(timeout=2.0)
            except ERRORS:
                link.terminate()


def forget_detail(error: Exception) -> None:
    """Leave the first line: "Failing row contains (...)" would log the arguments."""
    if isinstance(error, asyncpg.PostgresError):
        error.detail = None
    elif isinstance(error, psycopg.Error):
        error.args = (_first_line(error),)


def _first_line(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error).partition("\n")[0] or type(error).__name__


def perhaps_done(error: BaseException) -> bool:
    """May a statement that failed like this have been carried out?"""
    if isinstance(error, DatabaseAway):
        return error.sent
    return not isinstance(error, StatementRefused)
