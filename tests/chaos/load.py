"""The jobs. Each writes the start and the end of its run to the ledger, in transactions of its own.

Lines of one process go together, as many as gathered while the last were written, so that the
ledger costs little; a job goes on only when its line is committed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Thread
from typing import Any

import asyncpg
import psycopg

from pgqueue import App, Context
from pgqueue.connect import connect_async
from pgqueue.job import NewJob

WRITE_TIMEOUT = 5.0
RETRY_AFTER = 0.1
INSERT = "insert into chaos.ledger values (%s, %s, %s, %s, %s, %s, %s)"
COLUMNS = ("number", "event", "job", "attempt", "claim_id", "pid", "at")

app = App()


class Journal:
    """Writes lines of the ledger on one connection, which it drops after any doubt."""

    def __init__(self) -> None:
        self._lines: list[tuple[Any, ...]] = []
        self._kept: list[tuple[Any, ...]] = []
        self._written: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._connection: asyncpg.Connection[Any] | None = None

    async def write(self, line: tuple[Any, ...]) -> None:
        """Return when the line is committed; raise what kept it from that."""
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        self._lines.append(line)
        written = self._written
        self._begin()
        await asyncio.shield(written)

    def post(self, line: tuple[Any, ...]) -> None:
        """Write a line without waiting for it, again and again until it is committed."""
        self._kept.append(line)
        self._begin()

    def _begin(self) -> None:
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        while self._written is not None or self._kept:
            lines, kept = self._lines, list(self._kept)
            written = self._written or asyncio.get_running_loop().create_future()
            self._lines, self._written = [], None
            try:
                await self._copy(lines + kept)
                del self._kept[: len(kept)]
                written.set_result(None)
            except Exception as error:  # asyncpg's own errors have no common base
                if self._connection is not None:
                    self._connection.terminate()
                self._connection = None
                written.set_exception(error)
                written.exception()  # seen, also when every job that waited is gone
                await asyncio.sleep(RETRY_AFTER)
        self._writer = None

    async def _copy(self, lines: list[tuple[Any, ...]]) -> None:
        if self._connection is None:
            self._connection = await connect_async(app.dsn, timeout=WRITE_TIMEOUT)
        await self._connection.copy_records_to_table(
            "ledger", schema_name="chaos", columns=COLUMNS, records=lines, timeout=WRITE_TIMEOUT
        )


journal = Journal()


def line(ctx: Context, number: int, event: str) -> tuple[Any, ...]:
    return number, event, ctx.id, ctx.attempt, ctx.claim_id, os.getpid(), time.time()


@asynccontextmanager
async def noted(ctx: Context, number: int) -> AsyncIterator[None]:
    """The start of a run and how it ended. One that is interrupted does not wait for its last line."""
    await journal.write(line(ctx, number, "start"))
    try:
        yield
    except Exception:
        await journal.write(line(ctx, number, "failed"))
        raise
    except BaseException:
        journal.post(line(ctx, number, "stopped"))
        raise
    try:
        await journal.write(line(ctx, number, "done"))
    except BaseException:
        journal.post(line(ctx, number, "unsure"))
        raise


@app.task(name="plain", max_retries=1000, backoff="0.2s")
async def plain(ctx: Context, number: int) -> None:
    async with noted(ctx, number):
        pass


@app.task(name="effect", max_retries=1000, backoff="0.2s", timeout="10s")
async def effect(ctx: Context, number: int, seconds: float) -> None:
    """Writes its effect in the transaction that completes it."""
    async with noted(ctx, number):
        await asyncio.sleep(seconds)
        async with ctx.transaction() as conn:
            await conn.execute("insert into chaos.effects values ($1, $2)", number, ctx.claim_id)


@app.task(name="flaky", max_retries=1000, backoff="0.2s")
async def flaky(ctx: Context, number: int, seconds: float) -> None:
    """Fails once or twice."""
    async with noted(ctx, number):
        await asyncio.sleep(seconds)
        if ctx.attempt <= 1 + number % 2:
            raise RuntimeError("not yet")


@app.task(name="slow", max_retries=1000, backoff="0.2s")
async def slow(ctx: Context, number: int, seconds: float) -> None:
    """Long enough to need its lease renewed."""
    async with noted(ctx, number):
        await asyncio.sleep(seconds)


@app.task(name="thread", max_retries=1000, backoff="0.2s", timeout="10s")
def thread(ctx: Context, number: int) -> None:
    """A plain function, in a thread."""
    with app.connections.sync() as conn:
        conn.execute(INSERT, line(ctx, number, "start"))
        try:
            conn.execute(INSERT, line(ctx, number, "done"))
        except BaseException:
            unsure = line(ctx, number, "unsure")
            Thread(target=write_until_committed, args=(unsure,), daemon=True).start()
            raise


def write_until_committed(row: tuple[Any, ...]) -> None:
    """In a thread of its own: write a line on new connections, again and again."""
    while True:
        try:
            with psycopg.connect(app.dsn, autocommit=True, connect_timeout=5) as conn:
                conn.execute(INSERT, row)
            return
        except psycopg.Error:
            time.sleep(RETRY_AFTER)


@app.task(name="reporting", max_retries=1000, backoff="0.2s")
async def reporting(ctx: Context, number: int, seconds: float) -> None:
    """Says how far it is, all the time."""
    async with noted(ctx, number):
        for done in range(10):
            ctx.progress(done, 10)
            await asyncio.sleep(seconds / 10)


@app.task(name="limited", queue="limited", limit=10, per="key", max_retries=1000, backoff="0.2s")
async def limited(ctx: Context, number: int, key: int) -> None:
    """At most ten of a key at once."""
    async with noted(ctx, number):
        pass


@app.task(name="ordered", queue="ordered", order_by="key", max_retries=1000, backoff="0.2s")
async def ordered(ctx: Context, number: int, key: int) -> None:
    """One of a key at a time."""
    async with noted(ctx, number):
        pass


@app.task(name="durable", max_retries=1000, backoff="0.2s")
async def durable(ctx: Context, number: int) -> None:
    """Its effect is a step, done once in one of its runs."""
    async with noted(ctx, number):
        await ctx.sleep(0.1, name="before")

        async def effect(conn: Any) -> None:
            await conn.execute("insert into chaos.effects values ($1, $2)", number, ctx.claim_id)

        await ctx.transaction_step("effect", effect)
        await ctx.sleep(0.1, name="after")


def job(number: int, lease: float) -> NewJob:
    """The job of a number: 5 % with an effect, 3 % flaky, 1 % in a thread, 0.5 % slow, 1.5 % that report
    progress, 2 % under limits, 1 % in order, 1 % durable.

    Some of the first two last a while, so that workers are frozen and killed in the middle.
    """
    kind, seconds = number % 200, lease / 4 * (1 + number // 200 % 3)
    if kind < 10:
        return effect.call(number, seconds if kind == 0 else 0.0)
    if kind < 16:
        return flaky.call(number, seconds if kind == 10 else 0.0)
    if kind < 18:
        return thread.call(number)
    if kind == 18:
        return slow.call(number, 2 * seconds)
    if kind < 22:
        return reporting.call(number, seconds)
    if kind < 26:
        return limited.call(number, number % 7)
    if kind < 28:
        return ordered.call(number, number % 20)
    if kind < 30:
        return durable.call(number)
    return plain.call(number)
