"""What a handler of a test gets of the test's own connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from typing import Any

from psycopg.pq import TransactionStatus

from pgqueue.errors import ConnectionUnusable


@contextmanager
def psycopg_of(connection: Any) -> Iterator[Any]:
    """The psycopg connection below the test's, for ``ctx.transaction()``: a savepoint in its transaction."""
    while not hasattr(connection, "transaction"):  # a cursor; SQLAlchemy's or Django's, around it
        below: Any = connection.connection
        below = below() if callable(below) and not hasattr(below, "execute") else below
        connection = getattr(below, "driver_connection", below)
    if not connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        connection.execute(
            "select"
        )  # begins the test's: without one a savepoint would be committed
    yield connection


@asynccontextmanager
async def asyncpg_of(connection: Any, one_by_one: asyncio.Lock | None = None) -> AsyncIterator[Any]:
    if one_by_one is not None:
        async with one_by_one, asyncpg_of(connection) as own:
            yield own
        return
    if type(connection).__module__.startswith("sqlalchemy."):
        if hasattr(connection, "connection"):
            connection = await connection.connection()
        connection = (await connection.get_raw_connection()).driver_connection
    yield connection


def no_async(**_: object) -> Any:
    raise ConnectionUnusable(
        "an async handler's ctx.transaction() cannot share a sync connection: use AsyncQueueTester, or"
        " commit in the test and run a Worker with drain=True"
    )


def no_sync(**_: object) -> Any:
    raise ConnectionUnusable(
        "a sync handler's ctx.transaction() cannot share an async connection: use QueueTester, or commit"
        " in the test and run a Worker with drain=True"
    )


def awaited(coroutine: Any) -> Any:
    """Run a coroutine to its end, also while a loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_await(coroutine))
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(copy_context().run, asyncio.run, _await(coroutine)).result()


async def _await(coroutine: Any) -> Any:
    return await coroutine
