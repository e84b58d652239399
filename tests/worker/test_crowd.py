"""Claims that pass by what others seem to have in hand: what they skip, and that nothing stays behind."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgqueue import App
from pgqueue.job import NewJob
from pgqueue.operations import claims
from pgqueue.outcome import RELEASED
from pgqueue.worker import lanes
from pgqueue.worker.crowd import AFTER_A_SHORT_ONE, Crowd
from pgqueue.worker.database import Database
from tests.plans.test_plans import explain
from tests.support import eventually_async, statuses, working
from tests.worker.test_fences import claim, database, ended
from tests.worker.test_trade import START, taking

__all__ = ["database"]

LOCK = "select from pgqueue.jobs where id = any (%s) for update"


async def ahead(database: Database, *, skip: bool, limit: int = 10) -> list[int]:
    jobs = await database.run(claims.claim(START, skip_touched=skip, **taking(limit)))
    return [job.id for job in jobs]


def lock_and_roll_back(conn: psycopg.Connection, ids: list[int]) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute(LOCK, [ids])


def removed(plan: dict[str, Any]) -> int:
    """The rows that a filter removed: no lock on them was tried."""
    below = sum(removed(part) for part in plan.get("Plans", []))
    return int(plan.get("Rows Removed by Filter", 0)) + below


async def test_rows_in_hand_are_passed_by_without_a_try_for_their_lock(
    app: App, dsn: str, conn: psycopg.Connection
) -> None:
    ids = await app.aclient.insert([NewJob("t", "{}")] * 60)
    with conn.transaction():
        conn.execute(LOCK, [ids[:50]])
        plan = await explain(dsn, claims.claim(START, skip_touched=True, **taking()))
    assert plan["Actual Rows"] == 10
    assert removed(plan) == 50


async def test_what_was_locked_by_a_transaction_rolled_back_is_free(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    ids = await app.aclient.insert([NewJob("t", "{}")] * 3)
    lock_and_roll_back(conn, ids[:2])
    assert await ahead(database, skip=True) == ids[2:]
    assert await ahead(database, skip=False, limit=1) == ids[:1]
    for _ in range(1002):
        conn.execute("select pg_current_xact_id()")
    assert await ahead(database, skip=True) == ids[1:2]
    await database.close()


async def test_a_retried_job_is_not_passed_by(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    """The new version of its row has the lock of the transaction that wrote it."""
    (job_id,) = await app.aclient.insert([NewJob("t", "{}")])
    (job,) = await claim(database)
    (done,) = ended(job)
    await database.run(claims.fail([done._replace(outcome=RELEASED)]))
    row = conn.execute("select xmax = xmin from pgqueue.jobs").fetchone()
    assert row == (True,)
    assert await ahead(database, skip=True) == [job_id]
    await database.close()


def test_claims_pass_rows_by_while_they_get_all_they_ask_for() -> None:
    crowd = Crowd()
    assert not crowd.skips
    crowd.claimed(full=False)
    assert not crowd.skips
    crowd.claimed(full=True)
    assert crowd.skips
    crowd.claimed(full=True)
    assert crowd.skips


def test_after_a_claim_that_fell_short_the_next_ones_try_every_row() -> None:
    crowd = Crowd()
    crowd.claimed(full=True)
    crowd.claimed(full=False)
    for _ in range(AFTER_A_SHORT_ONE):
        assert not crowd.skips
        crowd.claimed(full=True)
    assert crowd.skips


async def test_a_worker_takes_what_its_claims_have_passed_by(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SHARE", 1e-9)  # sweeps at the start, then after five seconds
    skipped: list[bool] = []
    original = Database.run

    async def noted(self: Database, operation: Any, **more: Any) -> Any:
        skipped.append(operation.values.get("skip_touched", False))
        return await original(self, operation, **more)

    monkeypatch.setattr(Database, "run", noted)

    @app.task(name="t")
    async def task() -> None: ...

    ids = await app.aclient.insert([NewJob("t", "{}")] * 12)
    lock_and_roll_back(conn, [*ids[4:6], *ids[-2:]])
    async with working(app, concurrency=2, notify=False):
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
    assert any(skipped)
