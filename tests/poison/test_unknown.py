"""A rolling deploy: jobs of tasks that only the newer workers know."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from pgqueue import App, Worker
from tests.support import drain, eventually_async, make_due, statuses


async def test_the_old_version_leaves_them_for_the_new(
    app: App, dsn: str, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []
    app.task(name="old")(lambda: ran.append("old"))
    for _ in range(3):
        conn.execute("select pgqueue.enqueue('new'), pgqueue.enqueue('old')")
    conn.execute("update pgqueue.jobs set max_retries = 0")
    for _ in range(3):
        await drain(app)
        make_due(conn)
    assert ran == ["old"] * 3
    assert conn.execute(
        "select distinct status, attempt, last_error from pgqueue.jobs where task = 'new'"
    ).fetchall() == [("pending", 0, None)]
    assert conn.execute(
        "select distinct left_because from pgqueue.jobs where left_at is not null"
    ).fetchall() == [("no task 'new' in this worker; its jobs are left for a worker that has it",)]
    assert conn.execute("select count(*) from pgqueue.attempts").fetchone() == (0,)
    assert caplog.text.count("no task 'new' in this worker") == 3  # once per worker, not per job

    newer = App(dsn)
    newer.task(name="new")(lambda: ran.append("new"))
    newer.task(name="old")(lambda: ran.append("old"))
    old, new = Worker(app), Worker(newer)
    both = [asyncio.create_task(worker.arun()) for worker in (old, new)]

    def done() -> bool:
        make_due(conn)
        return set(statuses(conn).values()) == {"succeeded"}

    await eventually_async(done)
    for worker in (old, new):
        worker.stop()
    await asyncio.gather(*both)
    assert ran.count("new") == 3
    await newer.aclose()


async def test_a_queue_full_of_them_is_looked_at_once(app: App, conn: psycopg.Connection) -> None:
    ran: list[int] = []

    @app.task(name="good")
    async def good(number: int) -> None:
        ran.append(number)

    conn.execute("select pgqueue.enqueue('new') from generate_series(1, 500)")
    await good.aenqueue(1)
    await drain(app)  # ends, though they are due
    assert ran == [1]
    assert conn.execute(
        "select count(*) from pgqueue.jobs where task = 'new' and run_at < clock_timestamp()"
    ).fetchone() == (500,), "they keep their place"
