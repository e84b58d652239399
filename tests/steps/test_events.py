"""Events wake who waits for them, and none is missed."""

from __future__ import annotations

from typing import Any

import psycopg

from pgqueue import App, Context, Status
from pgqueue.operations import steps
from tests.support import drain, eventually_async, make_due, statuses, working


def wait(conn: psycopg.Connection, job_id: int) -> None:
    """Let a job wait for the event e in its last run."""
    conn.execute(
        "insert into pgqueue.steps (job_id, name, kind, events, waiting_run)"
        " select id, 's', 'event', '{e}', claimed_at from pgqueue.jobs where id = %s",
        [job_id],
    )


async def test_an_event_wakes_the_job_that_waits_for_it(app: App, conn: psycopg.Connection) -> None:
    got: list[Any] = []

    @app.task(name="waits")
    async def waits(ctx: Context, order: int) -> None:
        got.append(await ctx.wait_for_event(f"paid {order}", "1d"))

    @app.task(name="sync waits")
    def sync_waits(ctx: Context, order: int) -> None:
        got.append(ctx.wait_for_event(f"paid {order}"))

    async with working(app, concurrency=1):
        first, second = waits.enqueue(1), sync_waits.enqueue(2)
        await eventually_async(
            lambda: (
                conn.execute(
                    "select count(*) from pgqueue.steps s join pgqueue.jobs j on j.id = s.job_id"
                    " where j.status = 'pending' and j.run_at > now()"
                ).fetchone()
                == (2,)
            )
        )
        app.emit("paid 2", {"cents": 5})
        await app.aemit("paid 1", [1])
        app.emit("paid 3")
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
    assert sorted(map(str, got)) == ["[1]", "{'cents': 5}"]
    assert first.id != second.id


async def test_an_event_before_the_wait_counts_but_not_one_before_the_job(
    app: App, conn: psycopg.Connection
) -> None:
    got: list[Any] = []

    @app.task(name="waits")
    async def waits(ctx: Context) -> None:
        got.append(await ctx.wait_for_event("go", name="first"))
        got.append(await ctx.wait_for_event("go", name="second"))

    app.emit("go", "too early")
    handle = waits.enqueue()
    app.emit("go", 1)
    await drain(app)
    assert got == [1]  # each event once
    app.emit("go", 2)
    await drain(app)
    assert got == [1, 1, 2]
    assert app.client.job(handle.id).status is Status.SUCCEEDED


async def test_a_wait_ends_with_its_timeout(app: App, conn: psycopg.Connection) -> None:
    ended: list[str] = []

    @app.task(name="waits", max_retries=0)
    async def waits(ctx: Context) -> None:
        try:
            await ctx.wait_for_event("never", "1h")
        except TimeoutError as error:
            ended.append(str(error))

    waits.enqueue()
    await drain(app)
    conn.execute("update pgqueue.steps set wakes_at = wakes_at - interval '1 hour'")
    make_due(conn)
    await drain(app)
    assert ended == ["event 'never' did not come in time"]


async def test_an_event_of_a_transaction_comes_with_its_commit(
    app: App, conn: psycopg.Connection, dsn: str
) -> None:
    """It is inserted before the wait begins and commits after: neither sees the other, and none is lost."""
    got: list[Any] = []

    @app.task(name="waits")
    async def waits(ctx: Context) -> None:
        got.append(await ctx.wait_for_event("late"))

    waits.enqueue()
    with psycopg.connect(dsn) as mine:
        app.emit("late", 7, on=mine)
        async with working(app):
            await eventually_async(
                lambda: conn.execute(
                    "select 1 from pgqueue.jobs where status = 'pending' and run_at > now()"
                ).fetchone()
            )
            mine.commit()
            await eventually_async(lambda: got == [7])
        app.emit("rolled back", on=mine)
        mine.rollback()
    assert conn.execute("select count(*) from pgqueue.events").fetchone() == (1,)


def test_an_event_is_not_delivered_while_its_job_is_about_to_sleep(
    app: App, conn: psycopg.Connection
) -> None:
    conn.execute(
        "insert into pgqueue.jobs (task, status, worker_id, claimed_at)"
        " values ('t', 'running', gen_random_uuid(), now())"
    )
    (job_id,) = statuses(conn)
    wait(conn, job_id)
    app.emit("e")
    assert app.client._run(steps.deliver(), None) == 0
    assert app.client._run(steps.mark_delivered(), None) == []
    conn.execute(
        "update pgqueue.jobs set status = 'pending', run_at = now() + interval '1 day', suspended_run = claimed_at"
    )
    assert app.client._run(steps.mark_delivered(), None) == [], "it came to sleep in between"
    assert app.client._run(steps.deliver(), None) == 1
    conn.execute("update pgqueue.steps set finished_at = now()")
    assert len(app.client._run(steps.mark_delivered(), None)) == 1
    assert conn.execute("select delivered_at is not null from pgqueue.events").fetchone() == (True,)


def test_an_event_leaves_a_cancelled_job_alone(app: App, conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into pgqueue.jobs (task, run_at, claimed_at, suspended_run)"
        " values ('t', now() + interval '1 day', now(), now())"
    )
    (job_id,) = statuses(conn)
    wait(conn, job_id)
    app.client.cancel(job_id)
    before = app.client.job(job_id).run_at
    app.emit("e")
    assert app.client.job(job_id).run_at == before
