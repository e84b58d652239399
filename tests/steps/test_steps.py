"""Steps done once, and sleeps that hold no worker."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgqueue import App, ArgumentsError, ClaimLost, ConfigError, Context, Status
from pgqueue.testing import QueueTester
from tests.support import drain, eventually_async, make_due, statuses, working


async def test_a_step_is_done_once_however_often_the_job_runs(
    app: App, conn: psycopg.Connection
) -> None:
    done: list[str] = []
    seen: list[Any] = []
    runs: list[int] = []

    async def charge(cents: int) -> dict[str, int]:
        done.append("charge")
        return {"paid": cents}

    async def ship() -> tuple[int, int]:
        done.append("ship")
        return (1, 2)

    @app.task(name="order")
    async def order(ctx: Context) -> None:
        runs.append(ctx.attempt)
        seen.append(await ctx.step("charge", charge, 500))
        if len(runs) == 1:
            raise ValueError("after the first step")
        seen.append(await ctx.step("ship", ship))
        if len(runs) == 2:
            raise ValueError("after the second step")

    handle = order.enqueue()
    for _ in range(3):
        await drain(app)
        make_due(conn)
    assert done == ["charge", "ship"]
    assert seen == [{"paid": 500}, {"paid": 500}, (1, 2), {"paid": 500}, (1, 2)]
    row = app.client.job(handle.id)
    assert (row.status, row.attempt, runs) == (Status.SUCCEEDED, 2, [1, 2, 2])


async def test_of_sync_handlers_and_of_retries_by_hand(app: App, conn: psycopg.Connection) -> None:
    done: list[int] = []
    broken = True

    def work(number: int) -> int:
        done.append(number)
        return number * 2

    @app.task(name="sync", max_retries=0)
    def sync(ctx: Context) -> None:
        assert [ctx.step(f"work {n}", work, n) for n in range(3)] == [0, 2, 4]
        if broken:
            raise ValueError

    handle = sync.enqueue()
    await drain(app)
    broken = False
    assert app.client.retry(handle.id)
    await drain(app)
    assert done == [0, 1, 2]
    assert app.client.job(handle.id).status is Status.SUCCEEDED


async def test_a_step_in_a_transaction_commits_with_its_result(
    app: App, conn: psycopg.Connection
) -> None:
    conn.execute("create table charges (job bigint)")

    async def charge(connection: Any, job: int, fails: bool) -> int:
        await connection.execute("insert into charges values ($1)", job)
        if fails:
            raise ValueError("before the end of the step")
        return job

    def charge_sync(connection: Any, job: int) -> None:
        connection.execute("insert into charges values (%s)", [job])

    @app.task(name="both")
    async def both(ctx: Context) -> None:
        assert await ctx.transaction_step("charge", charge, ctx.id, ctx.attempt == 1) == ctx.id
        if ctx.attempt == 2:
            raise ValueError("after the step")

    @app.task(name="thread")
    def thread(ctx: Context) -> None:
        ctx.transaction_step("charge", charge_sync, ctx.id)
        if ctx.attempt < 3:
            raise ValueError

    ids = [both.enqueue().id, thread.enqueue().id]
    for _ in range(4):
        await drain(app)
        make_due(conn)
    assert sorted(row[0] for row in conn.execute("select job from charges").fetchall()) == ids
    assert set(statuses(conn).values()) == {"succeeded"}


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_sleep_holds_no_worker_and_uses_no_attempt(
    app: App, conn: psycopg.Connection, kind: str
) -> None:
    said: list[str] = []

    @app.task(name="async", max_retries=0)
    async def sleeper(ctx: Context) -> None:
        said.append("before")
        await ctx.sleep("2d")
        said.append("between")
        await ctx.sleep("1h", name="again")
        said.append("after")

    @app.task(name="sync", max_retries=0)
    def sync_sleeper(ctx: Context) -> None:
        said.append("before")
        ctx.sleep("2d")
        said.append("between")
        ctx.sleep("1h", name="again")
        said.append("after")

    handle = (sleeper if kind == "async" else sync_sleeper).enqueue()
    await drain(app)
    row = app.client.job(handle.id)
    assert (row.status, row.attempt, said) == (Status.PENDING, 0, ["before"])
    assert 86400 * 2 - 60 < (row.run_at - row.created_at).total_seconds() < 86400 * 2 + 60
    make_due(conn)  # too early: it sleeps on
    await drain(app)
    assert said == ["before", "before"]
    for passed in ("2 days", "1 hour"):
        conn.execute("update pgqueue.steps set wakes_at = wakes_at - %s::interval", [passed])
        make_due(conn)
        await drain(app)
    assert said == ["before"] * 2 + ["before", "between"] + ["before", "between", "after"]
    assert app.client.job(handle.id).status is Status.SUCCEEDED
    assert app.client.attempts(handle.id) == []


@pytest.mark.parametrize("lost", ["claim", "status"])
async def test_who_lost_the_job_stores_nothing(
    app: App, conn: psycopg.Connection, lost: str
) -> None:
    errors: list[type] = []
    change = {"claim": "claim_id = %s", "status": "status = 'pending', last_error = %s"}[lost]

    async def nothing() -> None: ...

    async def insert(connection: Any) -> None:
        await connection.execute("insert into effects values (1)")

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        conn.execute(f"update pgqueue.jobs set {change}".encode(), [str(UUID(int=1))])
        for verb in (
            lambda: ctx.step("s", nothing),
            lambda: ctx.transaction_step("ts", insert),
            lambda: ctx.sleep(5),
            lambda: ctx.wait_for_event("e"),
        ):
            try:
                await verb()
            except ClaimLost as error:
                errors.append(type(error))

    conn.execute("create table effects (n integer)")
    task.enqueue()
    if lost == "claim":
        await drain(app)
    else:
        async with working(app, concurrency=1):
            await eventually_async(lambda: len(errors) >= 4)
    assert errors[:4] == [ClaimLost] * 4
    assert conn.execute("select count(*) from pgqueue.steps").fetchone() == (0,)
    assert conn.execute("select count(*) from effects").fetchone() == (0,)


def test_a_rescue_waits_for_the_transaction_of_a_step(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        "insert into pgqueue.jobs (task, status, attempt, worker_id, claim_id, lease_expires_at)"
        " values ('t', 'running', 1, gen_random_uuid(), %s, now())", [UUID(int=5)])  # fmt: skip
    (job_id,) = statuses(conn)
    with psycopg.connect(dsn) as one:
        one.execute("select pgqueue.save_step(%s, %s, 's', '1')", [job_id, UUID(int=5)])
        locked = "select id from pgqueue.jobs where id = %s for update skip locked"
        assert conn.execute(locked, [job_id]).fetchone() is None


async def test_steps_go_with_their_job(app: App, conn: psycopg.Connection) -> None:
    async def one() -> int:
        return 1

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        await ctx.step("s", one)

    task.enqueue()
    app.emit("e")
    conn.execute("update pgqueue.events set created_at = created_at - interval '8 days'")
    async with working(app, keep_succeeded=0):
        await eventually_async(lambda: not statuses(conn), timeout=60)
        await eventually_async(
            lambda: conn.execute("select 1 from pgqueue.events").fetchone() is None, timeout=60
        )
    assert conn.execute("select count(*) from pgqueue.steps").fetchone() == (0,)


async def test_what_is_refused(app: App, conn: psycopg.Connection) -> None:
    said: list[str] = []

    async def one() -> int:
        return 1

    async def bad() -> object:
        return object()

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> None:
        await ctx.step("s", one)
        for verb in (
            lambda: ctx.step("s", one),
            lambda: ctx.step("", one),
            lambda: ctx.step("sync", lambda: 1),
            lambda: ctx.step("bad", bad),
            lambda: ctx.sleep("soon"),
            lambda: ctx.wait_for_event("x" * 201),
            lambda: ctx.sleep_until(datetime(2030, 1, 1), name="until"),
        ):
            try:
                await verb()
            except Exception as error:
                said.append(str(error))

    task.enqueue()
    await drain(app)
    assert "two steps of one run are named 's'" in said[0]
    assert "1 to 200 printable characters" in said[1]
    assert said[2].startswith(
        "ctx.step('sync') of an async handler takes an async function as a step, and is awaited"
    )
    assert "<lambda> is none" in said[2]
    assert "step 'bad'" in said[3]
    assert "cannot be stored as JSON" in said[3]
    assert "soon" in said[4]
    assert "1 to 200 printable" in said[5]
    assert "the moment of sleep_until must be a datetime with a time zone" in said[6]
    with pytest.raises(ArgumentsError):
        app.emit("e", object())
    with pytest.raises(ConfigError, match="the name of an event"):
        app.emit("")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="1 to 200"):
        conn.execute("select pgqueue.emit('')")
    assert set(statuses(conn).values()) == {"succeeded"}


def test_in_the_testing_kit(app: App, dsn: str) -> None:
    got: list[Any] = []

    @app.task(name="t")
    def task(ctx: Context) -> None:
        got.append(ctx.step("s", lambda: 4))
        ctx.sleep("1h")
        got.append(ctx.wait_for_event("e"))

    with psycopg.connect(dsn) as conn:
        tester = QueueTester(app, conn)
        task.on(conn).enqueue()
        tester.drain()
        tester.travel("1h")
        tester.drain()
        app.emit("e", "come", on=conn)
        tester.drain()
        conn.rollback()
    assert got == [4, 4, 4, "come"]
