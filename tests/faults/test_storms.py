"""Backends killed, rows locked, statements cut short: again and again, and nothing is lost."""

from __future__ import annotations

import asyncio
import logging
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App
from pgqueue.job import Status
from pgqueue.operations import claims
from pgqueue.worker import maintenance
from pgqueue.worker.database import Database, StatementRefused
from pgqueue.worker.maintenance import Pruner
from tests.support import eventually_async, statuses, working

KILL = """
    select pg_terminate_backend(pid) from pg_stat_activity
     where datname = current_database() and pid <> pg_backend_pid()
       and application_name = 'pgqueue'
"""


async def test_killed_backends(
    dsn: str, app: App, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []

    @app.task
    async def note(number: int) -> None:
        ran.append(number)
        await asyncio.sleep(0)

    with psycopg.connect(dsn) as own:
        app.enqueue_many([note.call(n) for n in range(400)], on=own)
    with caplog.at_level(logging.INFO, "pgqueue"):
        async with working(app, concurrency=5, poll=0.05) as runtime:
            for _ in range(10):
                before = len(ran)
                conn.execute(KILL)
                await eventually_async(lambda before=before: len(ran) > before or len(ran) == 400)
            await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
            assert runtime.exchanges[0].recorder.lost == 0
    assert sorted(ran) == list(range(400))
    assert sum("no database" in r.message for r in caplog.records) == 1


async def test_a_locked_job_does_not_keep_others_from_their_leases(
    app: App, dsn: str, conn: psycopg.Connection
) -> None:
    started: list[int] = []
    go = asyncio.Event()

    @app.task
    async def wait(number: int) -> None:
        started.append(number)
        await go.wait()

    for number in range(2):
        await wait.aenqueue(number)
    with psycopg.connect(dsn) as handler:
        async with working(app, lease=6):
            await eventually_async(lambda: len(started) == 2)
            handler.execute("select from pgqueue.jobs order by id limit 1 for update")
            first = conn.execute(
                "select min(lease_expires_at) + interval '1 s' from pgqueue.jobs"
            ).fetchone()
            assert first is not None
            # Both leases would be over by then, and the jobs given up.
            await eventually_async(
                lambda: conn.execute("select clock_timestamp() > %s", first).fetchone() == (True,)
            )
            handler.rollback()
            go.set()
            await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"] * 2)
    assert sorted(started) == [0, 1]
    assert conn.execute("select max(attempt) from pgqueue.jobs").fetchone() == (1,)


async def test_a_claim_cut_short_by_the_server_leaves_nothing_behind(
    app: App, dsn: str, conn: psycopg.Connection
) -> None:
    @app.task
    async def noop() -> None: ...

    await noop.aenqueue()
    database = Database(dsn, "pgqueue", patience=2.0)
    claim = claims.sweep(None, limit=1, claim_id=uuid4(), worker_id=uuid4(), lease=60)
    with psycopg.connect(dsn) as other:
        other.execute("lock table pgqueue.jobs in access exclusive mode")
        with pytest.raises(StatementRefused) as caught:
            await database.run(claim)
    assert caught.value.state == "55P03"
    assert list(statuses(conn).values()) == ["pending"]
    assert len((await database.run(claim)).jobs) == 1
    await database.close()


async def test_a_prune_that_takes_too_long_is_tried_in_smaller_batches(
    dsn: str, conn: psycopg.Connection
) -> None:
    database = Database(dsn, "pgqueue", patience=2.0)
    pruner = Pruner(database=database, keep={Status.SUCCEEDED: 60.0}, keep_events=None)
    pruner._batch = 40
    conn.execute(
        "create function public.slow() returns trigger language plpgsql as"
        " 'begin perform pg_catalog.pg_sleep(60); return null; end';"
        "create trigger slow before delete on pgqueue.jobs for each statement execute function public.slow()"
    )
    sizes = []
    while pruner._batch > maintenance.SMALLEST_BATCH:
        await pruner.run_once()
        sizes.append(pruner._batch)
    with pytest.raises(StatementRefused):
        await pruner.run_once()
    conn.execute("drop trigger slow on pgqueue.jobs")
    assert sizes == [20, 10]
    await pruner.run_once()
    assert pruner._batch == 20
    await database.close()
