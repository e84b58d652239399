"""A worker that stood still (a suspended machine, SIGSTOP) gives up nothing that it may still have."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App, Context
from pgqueue.operations import claims
from pgqueue.worker import clock
from pgqueue.worker.database import Database
from pgqueue.worker.heartbeat import Abandoner, Reason, Renewer, patience
from pgqueue.worker.run import Run
from tests.support import eventually_async, statuses, working

LEASE = 60.0


class Beating:
    """The two services that keep leases, as they meet a job that was last renewed 55 s ago."""

    def __init__(self, app: App, job: Any) -> None:
        self.run = Run(job, clock.seconds() - 55)
        self.database = Database(app.dsn, "pgqueue")
        self.renewer = Renewer(database=self.database, worker_id=uuid4(), lease=LEASE, held=self.held, interrupt=self.interrupt)  # fmt: skip
        self.abandoner = Abandoner(
            lease=LEASE,
            held=self.held,
            interrupt=self.interrupt,
            give_up=lambda run: None,
            renewer=self.renewer,
        )

    def held(self) -> list[Run]:
        return [self.run]

    def interrupt(self, run: Run, reason: Reason) -> None:
        run.interrupt(reason)

    def stand_still(self, seconds: float) -> None:
        self.abandoner._looked_at -= seconds


@pytest.fixture
async def beating(app: App) -> AsyncIterator[Beating]:
    @app.task(name="t")
    async def t() -> None: ...

    await t.aenqueue()
    database = Database(app.dsn, "pgqueue")
    sweep = claims.sweep(None, limit=1, claim_id=uuid4(), worker_id=uuid4(), lease=LEASE)
    (job,) = (await database.run(sweep)).jobs
    await database.close()
    made = Beating(app, job)
    yield made
    await made.database.close()


async def test_one_renewal_is_answered_before_anything_is_given_up(beating: Beating) -> None:
    beating.stand_still(40)
    await beating.abandoner.run_once()
    assert beating.run.reason is None
    await beating.renewer.run_once()
    await beating.abandoner.run_once()
    assert beating.run.reason is None
    assert clock.seconds() - beating.run.renewed_at < 55


async def test_what_others_have_by_then_is_given_up(
    beating: Beating, conn: psycopg.Connection
) -> None:
    conn.execute("update pgqueue.jobs set claim_id = gen_random_uuid()")
    beating.stand_still(40)
    await beating.abandoner.run_once()
    await beating.renewer.run_once()
    assert beating.run.reason == "lost"


async def test_a_renewal_that_is_not_answered_has_its_time(beating: Beating) -> None:
    beating.stand_still(40)
    await beating.abandoner.run_once()
    assert beating.run.reason is None
    beating.abandoner._resumed_at -= patience(LEASE)
    await beating.abandoner.run_once()
    assert beating.run.reason == "lost"


async def test_without_a_pause_a_lease_that_was_not_renewed_is_given_up(beating: Beating) -> None:
    await beating.abandoner.run_once()
    assert beating.run.reason == "lost"


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_what_was_given_up_is_given_back(
    app: App, conn: psycopg.Connection, kind: str
) -> None:
    ran: list[int] = []

    @app.task(name="async")
    async def waits(ctx: Context) -> None:
        ran.append(ctx.attempt)
        while len(ran) == 1:
            await asyncio.sleep(0.01)

    @app.task(name="thread")
    def checks(ctx: Context) -> None:
        ran.append(ctx.attempt)
        while len(ran) == 1:
            ctx.check()
            time.sleep(0.01)

    job = (waits if kind == "async" else checks).enqueue().id
    async with working(app, lease=600) as runtime:
        await eventually_async(lambda: ran)
        runtime.executors[0].held[job].interrupt("lost")
        await eventually_async(lambda: statuses(conn)[job] == "succeeded")
    assert ran == [1, 1]  # at once, and no attempt used
    assert [a.error_type for a in app.client.attempts(job)] == ["LeaseLost"]


async def test_a_result_is_sent_though_the_job_was_given_up(
    app: App, conn: psycopg.Connection
) -> None:
    ran: list[int] = []
    go = threading.Event()

    @app.task(name="t")
    def t() -> None:  # a thread cannot be stopped
        ran.append(1)
        go.wait()

    job = t.enqueue().id
    async with working(app, lease=600) as runtime:
        await eventually_async(lambda: ran)
        runtime.executors[0].held[job].interrupt("lost")
        go.set()
        await eventually_async(lambda: statuses(conn)[job] == "succeeded")
    assert ran == [1]


async def test_a_job_that_waited_too_long_to_start_is_given_back(
    app: App, conn: psycopg.Connection
) -> None:
    ran: list[int] = []
    go = asyncio.Event()

    @app.task(name="t")
    async def t() -> None:
        ran.append(1)
        if len(ran) == 1:
            await go.wait()

    first, second = t.enqueue().id, t.enqueue().id
    async with working(app, concurrency=1, prefetch=1, lease=600) as runtime:
        await eventually_async(lambda: runtime.executors[0].waiting)
        runtime.executors[0].waiting[0].renewed_at -= 601
        go.set()
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
    assert sorted(statuses(conn)) == [first, second]
    assert ran == [1, 1]
    assert conn.execute("select max(attempt) from pgqueue.jobs").fetchone() == (1,)
