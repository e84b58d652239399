"""Each handler of a worker may hold a connection, and enqueue or take a step meanwhile."""

from __future__ import annotations

import asyncio
import threading

import psycopg
import pytest

from pgqueue import App, Context
from tests.support import drain, eventually_async, statuses, working

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


async def test_a_worker_that_has_left_is_not_said_to_be_there(
    app: App, conn: psycopg.Connection
) -> None:
    """Its last sign of life is on its way, on another connection, when it takes its leave."""
    conn.execute(
        "create function slow() returns trigger language plpgsql as"
        " $$ begin perform pg_sleep(0.3); return new; end $$;"
        "create trigger slow before insert on pgqueue.workers for each row"
        " when (new.state = 'stopping') execute function slow()"
    )
    async with working(app):
        pass
    active = "select count(*) from pg_stat_activity where datname = current_database() and state = 'active'"
    await eventually_async(lambda: conn.execute(active).fetchone() == (1,))  # this one
    assert await app.aclient.workers() == []
