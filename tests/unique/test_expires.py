"""A job that was not started in time is not started: no claim takes it, and it ends as cancelled."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import psycopg

from pgqueue import App
from pgqueue.operations import claims, maintenance
from pgqueue.operations.claims import Lane, Taking
from tests.model.machine import perform
from tests.support import drain, eventually_async, statuses, working


async def test_an_expired_job_is_not_started(app: App, conn: psycopg.Connection) -> None:
    ran: list[int] = []

    @app.task(name="t", expires="10m")
    async def t(n: int) -> None:
        ran.append(n)

    late, timely, other = [(await t.aenqueue(n)).id for n in range(3)]
    await t.with_expires("1h").with_delay("1d").aenqueue(3)
    conn.execute(
        "update pgqueue.jobs set expires_at = clock_timestamp() - interval '1 s' where id = %s",
        (late,),
    )
    await drain(app)
    assert sorted(ran) == [1, 2]
    assert {statuses(conn)[i] for i in (timely, other)} == {"succeeded"}
    async with working(app):
        await eventually_async(lambda: statuses(conn)[late] == "cancelled")
    error = app.client.job(late).last_error
    assert error is not None
    assert error.startswith("Expired: not started by 20")


async def test_a_claim_from_a_cursor_passes_it_by(app: App, conn: psycopg.Connection) -> None:
    """The same guard in the other claim: from the cursor on, after the first sweep."""
    ran: list[int] = []

    @app.task(name="t")
    async def t(n: int) -> None:
        ran.append(n)
        if n == 0:
            conn.execute(
                "update pgqueue.jobs set expires_at = clock_timestamp() - interval '1 s'"
                " where args ->> 'n' = '1'"
            )

    for n in range(3):
        await t.aenqueue(n)
    await drain(app, concurrency=1, prefetch=0)
    assert ran == [0, 2]


def test_it_counts_from_when_it_was_due(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="t", expires="10m")
    def t() -> None: ...

    t.with_delay("1h").enqueue()
    conn.execute("select pgqueue.enqueue('t', delay => '1 hour', expires => '10 minutes')")
    app.enqueue_many([t.with_delay("1h").call()] * 2)
    found = conn.execute("select distinct expires_at - run_at from pgqueue.jobs").fetchall()
    assert [str(row[0]) for row in found] == ["0:10:00"]


def test_retried_by_hand_it_may_run(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="t", expires="10m")
    def t() -> None: ...

    job = t.enqueue().id
    conn.execute(
        "update pgqueue.jobs set status = 'cancelled', finished_at = now(), expires_at = now()"
    )
    assert app.client.retry(job)
    assert conn.execute("select expires_at from pgqueue.jobs").fetchall() == [(None,)]


def test_each_claim_leaves_it(conn: psycopg.Connection) -> None:
    """Directly, for a worker may find any of the three first."""
    conn.execute("insert into pgqueue.jobs (task, expires_at) values ('t', now() - interval '1 s')")
    lanes = [Lane("default", 0, datetime(2000, 1, 1, tzinfo=UTC), 0)]
    taking: Taking = {"limit": 9, "claim_id": uuid4(), "worker_id": uuid4(), "lease": 60.0}
    assert perform(conn, claims.claim(lanes, **taking)) == []
    assert perform(conn, claims.trade([], lanes, delete=False, **taking))[1] == []
    assert perform(conn, claims.sweep(None, **taking)).jobs == []
    conn.execute("update pgqueue.jobs set expires_at = now() + interval '1 h'")
    assert len(perform(conn, claims.claim(lanes, **taking))) == 1


def test_only_what_waits_expires(conn: psycopg.Connection) -> None:
    for status in ("running", "succeeded", "dead", "cancelled", "pending"):
        conn.execute(
            "insert into pgqueue.jobs (task, status, expires_at) values ('t', %s, '2020-01-01')",
            [status],
        )
    (expired,) = perform(conn, maintenance.expire())
    assert expired == 5
    assert list(statuses(conn).values()) == [
        "running", "succeeded", "dead", "cancelled", "cancelled",
    ]  # fmt: skip
