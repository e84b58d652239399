"""A worker that drains ends when nothing is due, and not before."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from pgqueue import App, Worker
from tests.support import eventually_async, statuses

Connection = psycopg.Connection[Any]


@pytest.mark.parametrize("queues", [None, {"default": 2, "another": 2}])
async def test_it_goes_on_while_a_result_that_makes_a_job_due_is_recorded(
    app: App, conn: Connection, other: Connection, queues: dict[str, int] | None
) -> None:
    runs, may_fail = 0, asyncio.Event()

    @app.task(name="fails once", max_retries=1, backoff=0)
    async def fails_once() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            await may_fail.wait()
            raise ValueError

    job = await fails_once.aenqueue()
    worker = Worker(app, queues, drain=True)
    running = asyncio.create_task(worker.arun())
    runtime = await eventually_async(lambda: worker._runtime)
    exchanges = runtime.exchanges
    await eventually_async(lambda: runs and all(exchange.empty for exchange in exchanges))
    other.execute("lock table pgqueue.attempts in share mode")  # the failure waits to be recorded
    may_fail.set()
    await eventually_async(lambda: all(executor.at_rest for executor in runtime.executors))
    assert not any(exchange.empty for exchange in exchanges)
    other.rollback()
    await running
    assert (runs, statuses(conn)) == (2, {job.id: "succeeded"})
