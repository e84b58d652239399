"""What appears behind the cursors is found, also where the way is long and the queue deep."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from pgqueue import App
from pgqueue.job import NewJob
from pgqueue.worker import pace, trail
from tests.support import eventually_async, working

DEEP = """
    insert into pgqueue.jobs (task, args, run_at)
    select 'endless', '{}', clock_timestamp() - interval '1 hour' + number * interval '1 second'
      from generate_series(1, 400) number
"""
LATE = """
    insert into pgqueue.jobs (task, args, run_at)
    select 'late', '{}', run_at from pgqueue.jobs order by run_at offset 100 limit 1
"""
SUCCEEDED = b"select count(*) from pgqueue.jobs where status = 'succeeded'"


async def test_a_deep_queue_hides_no_stretch_of_the_way(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "EVERY", 10)
    for name in ("LONG", "GOAL", "SHORT"):  # as where dead rows make each look a slow one
        monkeypatch.setattr(pace, name, 0.0)
    found = asyncio.Event()

    @app.task(name="endless")
    async def endless() -> None:
        if not found.is_set():
            await app.aclient.insert([NewJob("endless", "{}")])

    @app.task(name="late")
    async def late() -> None:
        found.set()

    def succeeded() -> int:
        row = conn.execute(SUCCEEDED).fetchone()
        assert row is not None
        return int(row[0])

    conn.execute(DEEP.encode())
    async with working(app, concurrency=5):
        await eventually_async(lambda: succeeded() > 200)
        conn.execute(LATE.encode())
        async with asyncio.timeout(20):
            await found.wait()
