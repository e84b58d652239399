"""What is given back or taken back keeps its place; what may be somebody else's is not started."""

from __future__ import annotations

import time
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App
from pgqueue.job import ClaimedJob, NewJob
from pgqueue.operations import claims
from pgqueue.outcome import RELEASED, Outcome
from pgqueue.worker.database import Database
from tests.support import eventually_async, statuses, working
from tests.worker.test_fences import claim, database, ended, lapse, rescue

__all__ = ["database"]


@pytest.mark.parametrize("how", ["rescued", "released", "unstarted", "stopped"])
async def test_its_place_is_before_a_younger_backlog(
    app: App, database: Database, conn: psycopg.Connection, how: str
) -> None:
    (old,) = await app.aclient.insert([NewJob("t", "{}")])
    (job,) = await claim(database)
    await app.aclient.insert([NewJob("t", "{}")] * 3)
    if how == "rescued":
        lapse(conn)
        await rescue(database)
    elif how == "released":
        await database.run(claims.release(job.claim_id))
    else:
        stopped = Outcome("snooze", 0.0, "WorkerStopped", "the worker stopped before it ended")
        await database.run(claims.fail(ended(job, RELEASED if how == "unstarted" else stopped)))
    (first,) = await claim(database, limit=1)
    assert first.id == old
    await database.close()


async def test_a_job_whose_lease_ran_out_while_the_process_was_frozen_is_not_started(
    app: App, conn: psycopg.Connection
) -> None:
    ran: list[str] = []

    @app.task(name="t")
    async def task(text: str) -> None:
        ran.append(text)

    async with working(app, lease=60, notify=False) as runtime:
        await eventually_async(lambda: runtime.exchanges[0].empty)
        stale = ClaimedJob(
            0,
            "t",
            '{"text": "stale"}',
            "default",
            0,
            1,
            10,
            0,
            _now(conn),
            None,
            None,
            0.0,
            uuid4(),
        )
        executor = runtime.executors[0]
        executor.submit([stale], time.monotonic() - 61)
        executor.submit([stale._replace(id=1, args='{"text": "fresh"}')], time.monotonic())
        await eventually_async(lambda: ran)
        await eventually_async(lambda: executor.at_rest)
    assert ran == ["fresh"]
    assert statuses(conn) == {}


def _now(conn: psycopg.Connection) -> object:
    row = conn.execute("select now()").fetchone()
    assert row is not None
    return row[0]
