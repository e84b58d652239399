"""Each handler of a worker may hold a connection, and enqueue or take a step meanwhile."""

from __future__ import annotations

import asyncio
import threading

import psycopg
import pytest

from pgqueue import App, Context
from tests.support import drain, statuses

AT_ONCE = 20


@pytest.mark.parametrize("used", [False, True], ids=["first-use", "pools-in-use-before"])
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_all_handlers_hold_a_transaction_and_enqueue_beside_it(
    app: App, conn: psycopg.Connection, kind: str, used: bool
) -> None:
    together, atogether = threading.Barrier(AT_ONCE, timeout=60), asyncio.Barrier(AT_ONCE)

    @app.task(name="other")
    async def other() -> None: ...

    async def one() -> int:
        return 1

    @app.task(name="async", max_retries=0, timeout="60s")
    async def waits(ctx: Context) -> None:
        async with ctx.transaction() as connection:
            await connection.execute("select 1")
            await atogether.wait()  # all of them hold one now
            await other.aenqueue()
            await ctx.step("one", one)

    @app.task(name="thread", max_retries=0, timeout="60s")
    def blocks(ctx: Context) -> None:
        with ctx.transaction() as connection:
            connection.execute("select 1")
            together.wait()
            other.enqueue()
            ctx.step("one", lambda: 1)

    if used:
        with app.connections.sync() as connection:
            connection.execute("select 1")
        async with app.connections.aio() as aconnection:
            await aconnection.execute("select 1")
    task = waits if kind == "async" else blocks
    app.enqueue_many([task.call()] * AT_ONCE)
    await drain(app, concurrency=AT_ONCE)
    assert set(statuses(conn).values()) == {"succeeded"}
    assert len(statuses(conn)) == 2 * AT_ONCE
