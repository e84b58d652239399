"""The way to the database: operations on the caller's connection, or on one of our own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from pgqueue import bulk
from pgqueue.connect import NONE_GIVEN
from pgqueue.connections import Connections
from pgqueue.drivers import (
    AsyncCopying,
    AsyncDriver,
    Copying,
    Driver,
    async_driver,
    sync_driver,
    translate,
)
from pgqueue.errors import DatabaseNotGiven
from pgqueue.job import Added, NewJob
from pgqueue.operations import Operation
from pgqueue.operations import enqueue as operations
from pgqueue.sql import load

T = TypeVar("T")


class Gateway:
    """Runs operations, sync and async. Opens a connection only for those given none."""

    def __init__(self, dsn: str, schema: str) -> None:
        self.connections = Connections(dsn)
        self._statements = load(schema)

    def run(self, operation: Operation[T], on: object) -> T:
        """Run one operation; ``on`` is the caller's connection or None."""
        statement, values = self._statements[operation.statement], operation.values
        try:
            if on is not None:
                return operation.decode(sync_driver(on).fetch(statement, values))
            with self.connections.sync(ours=True) as connection:
                return operation.decode(sync_driver(connection).fetch(statement, values))
        except Exception as error:
            _explain(error, operation.statement)
            raise

    async def arun(self, operation: Operation[T], on: object) -> T:
        """The same, awaited."""
        statement, values = self._statements[operation.statement], operation.values
        try:
            if on is not None:
                return operation.decode(await async_driver(on).fetch(statement, values))
            async with self.connections.aio(ours=True) as connection:
                return operation.decode(await async_driver(connection).fetch(statement, values))
        except Exception as error:
            _explain(error, operation.statement)
            raise

    @contextmanager
    def _driver(self, on: object, statement: str) -> Iterator[Driver]:
        """The driver of the caller's connection, or of one of our own in autocommit mode."""
        try:
            if on is not None:
                yield sync_driver(on)
            else:
                with self.connections.sync(ours=True) as connection:
                    yield sync_driver(connection)
        except Exception as error:
            _explain(error, statement)
            raise

    @asynccontextmanager
    async def _adriver(self, on: object, statement: str) -> AsyncIterator[AsyncDriver]:
        try:
            if on is not None:
                yield async_driver(on)
            else:
                async with self.connections.aio(ours=True) as connection:
                    yield async_driver(connection)
        except Exception as error:
            _explain(error, statement)
            raise

    def _copy(self, jobs: Sequence[NewJob], notify: bool, on: object) -> list[int] | None:
        """Insert by COPY; None if this connection cannot."""
        with self._driver(on, "copy_jobs") as driver:
            if not isinstance(driver, Copying):
                return None
            statements = self._statements
            first = bulk.reserve(len(jobs))
            ids, now = first.decode(driver.fetch(statements[first.statement], first.values))
            driver.copy(statements["copy_jobs"], bulk.copy_text(jobs, ids, now))
            if notify:
                then = operations.notify(bulk.due_queues(jobs, now))
                driver.fetch(statements[then.statement], then.values)
            return ids

    async def _acopy(self, jobs: Sequence[NewJob], notify: bool, on: object) -> list[int] | None:
        """The same, awaited."""
        async with self._adriver(on, "copy_jobs") as driver:
            if not isinstance(driver, AsyncCopying):
                return None
            statements = self._statements
            first = bulk.reserve(len(jobs))
            ids, now = first.decode(await driver.fetch(statements[first.statement], first.values))
            await driver.acopy(statements["copy_jobs"], bulk.copy_text(jobs, ids, now))
            if notify:
                then = operations.notify(bulk.due_queues(jobs, now))
                await driver.fetch(statements[then.statement], then.values)
            return ids

    def insert(self, jobs: Sequence[NewJob], *, notify: bool, on: object) -> Sequence[Added]:
        """Insert jobs, many by COPY where the connection can; what became of each, in order.

        Raises:
            JobExists: another job holds a unique key, and that was to raise; none was inserted.
        """
        copied = self._copy(jobs, notify, on) if bulk.worth_it(jobs) else None
        if copied is not None:
            return bulk.Copied(copied)
        return self.run(operations.enqueue(jobs, notify=notify), on)

    async def ainsert(self, jobs: Sequence[NewJob], *, notify: bool, on: object) -> Sequence[Added]:
        """The same, awaited."""
        copied = await self._acopy(jobs, notify, on) if bulk.worth_it(jobs) else None
        if copied is not None:
            return bulk.Copied(copied)
        return await self.arun(operations.enqueue(jobs, notify=notify), on)


def _explain(error: Exception, statement: str) -> None:
    """Raise our own error for the SQLSTATEs we explain, and for a database that nobody named."""
    if NONE_GIVEN in getattr(error, "__notes__", ()):
        said = next(
            (line for line in str(error).splitlines() if line.strip()), type(error).__name__
        )
        raise DatabaseNotGiven(
            'no database given: set PGQUEUE_DSN, give App(dsn), or put dsn into pgqueue.toml; "pgqueue dev"'
            f" starts one for this directory. What libpq does without one failed: {said}"
        ) from None
    known = translate(error, statement)
    if known is not None:
        raise known from error
