"""Completion and next claim in one statement: what it saves, and that it guards as both do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App
from pgqueue.job import ClaimedJob, NewJob
from pgqueue.operations import Operation, claims
from pgqueue.operations.claims import Finished, Lane, Taking
from pgqueue.worker import lanes
from pgqueue.worker.database import Database
from pgqueue.worker.recorder import MOST_TRADED
from tests.support import eventually_async, statuses, working
from tests.worker.test_fences import WORKER, claim, database, ended, lapse, rescue

__all__ = ["database"]

START = [Lane("default", 0, datetime(2000, 1, 1, tzinfo=UTC), 0)]
JOBS = 50


def taking(limit: int = 10) -> Taking:
    return {"limit": limit, "claim_id": uuid4(), "worker_id": WORKER, "lease": 60}


@pytest.mark.parametrize("delete", [False, True])
async def test_it_completes_and_claims(
    app: App, database: Database, conn: psycopg.Connection, delete: bool
) -> None:
    first, *others = await app.aclient.insert([NewJob("t", "{}")] * 3)
    (job,) = await claim(database, limit=1)
    done, jobs = await database.run(claims.trade(ended(job), START, delete=delete, **taking()))
    assert (done, [j.id for j in jobs]) == ([first], others)
    left = {} if delete else {first: "succeeded"}
    assert statuses(conn) == left | dict.fromkeys(others, "running")
    done, jobs = await database.run(claims.trade(ended(jobs[0]), START, delete=delete, **taking()))
    assert (done, jobs) == ([others[0]], [])
    await database.close()


@pytest.mark.parametrize("delete", [False, True])
async def test_a_zombie_completes_nothing_and_may_claim(
    app: App, database: Database, conn: psycopg.Connection, delete: bool
) -> None:
    (job_id,) = await app.aclient.insert([NewJob("t", "{}")])
    (old,) = await claim(database)
    lapse(conn)
    await rescue(database)
    (new,) = await claim(database)
    (other,) = await app.aclient.insert([NewJob("t", "{}")])
    trade = claims.trade(ended(old), START, delete=delete, **taking())
    done, jobs = await database.run(trade)
    assert (done, [j.id for j in jobs]) == ([], [other])
    assert statuses(conn)[job_id] == "running"
    assert await database.run(claims.complete(ended(new), delete=delete)) == [job_id]
    await database.close()


async def test_one_statement_and_one_commit_a_job(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SHARE", 1e-9)  # at the start, then after five seconds
    counts: Counter[str] = Counter()
    original = Database.run

    async def counted(self: Database, operation: Operation[object], **more: Any) -> object:
        counts[operation.statement] += 1
        return await original(self, operation, **more)

    monkeypatch.setattr(Database, "run", counted)

    @app.task(name="t")
    async def task() -> None: ...

    await app.aclient.insert([NewJob("t", "{}")] * JOBS)
    async with working(app, concurrency=1, notify=False):
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
    assert counts["trade"] >= JOBS - counts["sweep"]
    assert counts["complete"] <= counts["sweep"]


async def test_many_results_are_recorded_before_the_claim(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SHARE", 1e-9)
    traded: list[int] = []
    original = claims.trade

    def noted(done: Sequence[Finished], *rest: Any, **taking: Any) -> Operation[Any]:
        traded.append(len(done))
        return original(done, *rest, **taking)

    monkeypatch.setattr(claims, "trade", noted)

    @app.task(name="t")
    async def task() -> None: ...

    jobs = 5 * MOST_TRADED
    await app.aclient.insert([NewJob("t", "{}")] * jobs)
    async with working(app, concurrency=2 * MOST_TRADED, notify=False):
        await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"] * jobs)
    assert max(traded, default=0) <= MOST_TRADED


async def test_a_refused_result_does_not_stop_the_claims(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn.execute(
        "alter table pgqueue.jobs add constraint picky check (status <> 'succeeded' or id <> 2)"
    )
    ran: list[int] = []
    monkeypatch.setattr(lanes, "SHARE", 1e-9)

    @app.task(name="t")
    async def task() -> None:
        ran.append(1)

    await app.aclient.insert([NewJob("t", "{}")] * 5)
    async with working(app, concurrency=1, notify=False):
        await eventually_async(lambda: list(statuses(conn).values()).count("succeeded") == 4)
    assert "its result was refused" in ((await app.aclient.job(2)).last_error or "")
    assert len(ran) == 5


def test_the_done_and_the_claimed_are_told_apart() -> None:
    row = (7, "t", "{}", "default", 0, 1, 3, 0, datetime(2026, 1, 1, tzinfo=UTC), None, None, 0.0)
    operation = claims.trade([], START, delete=False, **taking())
    others = [None] * (len(row) - 1)
    assert operation.decode([(True, 1, *others), (True, 2, *others)]) == ([1, 2], [])
    done, (job,) = operation.decode([(True, 1, *others), (False, *row)])
    assert done == [1]
    assert isinstance(job, ClaimedJob)
    assert job.id == 7
