"""A handler in ctx.transaction() on a dead connection can be interrupted: its slot is free again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import App, Context, Worker
from tests.faults.proxy import Mode, Proxy
from tests.support import eventually_async, statuses

Moment = Literal["statement", "commit"]


@pytest.fixture
async def cut_off(dsn: str) -> AsyncIterator[tuple[App, Proxy]]:
    """An app whose connections go through a proxy."""
    parts = conninfo_to_dict(dsn)
    with Proxy(str(parts["host"]), int(str(parts["port"]))) as proxy:
        app = App(make_conninfo(dsn, host="127.0.0.1", port=proxy.port))
        yield app, proxy
        await app.aclose()


async def works_on(app: App, conn: psycopg.Connection, proxy: Proxy, job_id: int) -> None:
    """A worker of one slot comes to this job, which waits behind a stuck one."""
    worker = Worker(app, concurrency=1)
    running = asyncio.create_task(worker.arun())
    try:
        await eventually_async(lambda: statuses(conn)[job_id] == "succeeded")
    finally:
        proxy.mode = "pass"
        proxy.reset()
        worker.stop()
        await running


@pytest.mark.parametrize("moment", ["statement", "commit"])
@pytest.mark.parametrize("mode", ["drop_replies", "blackhole"])
async def test_a_transaction_without_answers_ends_with_the_timeout(
    app: App, cut_off: tuple[App, Proxy], conn: psycopg.Connection, mode: Mode, moment: Moment
) -> None:
    far, proxy = cut_off

    @app.task(name="stuck", timeout="1s", backoff="1h")
    async def stuck(ctx: Context) -> None:
        ctx._aconnect = far.connections.aio
        async with ctx.transaction() as connection:
            await connection.execute("create table traces (id int)")
            if moment == "statement":
                proxy.mode = mode
                await connection.execute("select 1")
            else:
                proxy.watch = lambda sent: b"COMMIT" in sent and setattr(proxy, "mode", mode)

    @app.task(name="next")
    async def following() -> None: ...

    first, second = stuck.enqueue().id, following.enqueue().id
    await works_on(app, conn, proxy, second)
    if mode == "drop_replies" and moment == "commit":
        assert statuses(conn)[first] == "succeeded"  # carried out, though nobody was told
    else:
        assert statuses(conn)[first] == "pending"
        assert app.client.attempts(first)[0].error_type == "TimeoutError"
        assert conn.execute("select to_regclass('traces')").fetchone() == (None,)


@pytest.mark.parametrize("verb", ["step", "transaction_step", "sleep", "wait_for_event"])
@pytest.mark.parametrize("mode", ["drop_replies", "blackhole"])
async def test_a_step_without_answers_ends_with_the_timeout(
    app: App, cut_off: tuple[App, Proxy], conn: psycopg.Connection, mode: Mode, verb: str
) -> None:
    far, proxy = cut_off

    async def one() -> int:
        return 1

    async def write(connection: Any) -> None:
        await connection.execute("create table traces (id int)")

    @app.task(name="stuck", timeout="1s", backoff="1h")
    async def stuck(ctx: Context) -> None:
        ctx._aconnect = far.connections.aio
        await ctx.step("first", one)
        proxy.mode = mode
        match verb:
            case "step":
                await ctx.step("second", one)
            case "transaction_step":
                await ctx.transaction_step("second", write)
            case "sleep":
                await ctx.sleep("1d")
            case _:
                await ctx.wait_for_event("never")

    @app.task(name="next")
    async def following() -> None: ...

    first, second = stuck.enqueue().id, following.enqueue().id
    await works_on(app, conn, proxy, second)
    assert statuses(conn)[first] == "pending"
    assert app.client.attempts(first)[0].error_type == "TimeoutError"
