"""A job that is interrupted while the results of its parents are fetched has not begun."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from pgqueue import App
from tests.support import eventually_async, statuses, working


@pytest.mark.parametrize("kind", ["async", "thread"])
@pytest.mark.parametrize("reason", ["stopping", "lost", "cancelled"])
async def test_an_interrupt_before_the_handler_is_no_failure(
    app: App, conn: psycopg.Connection, kind: str, reason: Any
) -> None:
    ran: list[int] = []
    fetching, go = asyncio.Event(), asyncio.Event()

    @app.task(name="first")
    async def first() -> int:
        return 1

    @app.task(name="async", max_retries=0)
    async def later(number: int) -> None:
        ran.append(number)

    @app.task(name="thread", max_retries=0)
    def in_thread(number: int) -> None:
        ran.append(number)

    flow = app.workflow()
    node = flow.add(first.call())
    second: Any = later if kind == "async" else in_thread
    node.then(second.call(node.result))
    async with working(app, lease=600) as runtime:
        fetch = runtime.handlers._results

        async def held_up(*wanted: Any) -> Any:
            fetching.set()
            await go.wait()
            return await fetch(*wanted)

        runtime.handlers._results = held_up
        await flow.aenqueue()
        await fetching.wait()
        (run,) = runtime.executors[0].held.values()
        run.interrupt(reason)
        go.set()
        ended = "cancelled" if reason == "cancelled" else "succeeded"
        await eventually_async(lambda: statuses(conn)[run.job.id] == ended)
    assert ran == ([] if reason == "cancelled" else [1])
    (row,) = conn.execute("select attempt from pgqueue.jobs where id = %s", [run.job.id]).fetchall()
    assert row == (1,)
