"""What becomes of a job: succeeded, retried, snoozed, dead, cancelled, and back again."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import psycopg
import pytest

from pgqueue import (
    App,
    Backoff,
    Cancel,
    ClaimLost,
    Context,
    Dead,
    Filter,
    Job,
    JobNotFound,
    Retry,
    Snooze,
)
from tests.support import drain, eventually_async, make_due, statuses, working


@pytest.mark.parametrize("keep", ["1h", 0], ids=["kept", "deleted"])
async def test_a_job_that_is_snoozed_for_long_leaves_one_row_an_attempt(
    app: App, conn: psycopg.Connection, keep: Any
) -> None:
    runs: list[int] = []

    @app.task(name="poller", max_retries=3, backoff=Backoff.constant("0s"))
    async def poller(ctx: Context) -> None:
        runs.append(ctx.attempt)
        if len(runs) == 4:
            raise ValueError("not there")
        if len(runs) < 8:
            raise Snooze("1h", reason=f"look {len(runs)}")

    await poller.aenqueue()
    for _ in range(9):
        await drain(app, keep_succeeded=keep)
        make_due(conn)
    assert runs == [1, 1, 1, 1, 2, 2, 2, 2]
    rows = conn.execute(
        "select attempt, outcome, error from pgqueue.attempts order by id"
    ).fetchall()
    expected = [(1, "snooze", "look 3"), (1, "retry", "not there"), (2, "snooze", "look 7")]
    assert rows == (expected if keep else [])


@pytest.mark.parametrize("unique", [None, True], ids=["", "unique"])
@pytest.mark.parametrize("ended", ["dead", "crashed", "cancelled"])
async def test_the_attempts_of_an_earlier_life_go_with_the_row(
    app: App, conn: psycopg.Connection, unique: Any, ended: str
) -> None:
    """With ``keep_succeeded=0`` a job that was retried by hand leaves nothing behind, whatever it was before."""
    fails = [True]

    @app.task(name="t", max_retries=0, unique=unique)
    async def task() -> None:
        if fails.pop():
            if ended == "cancelled":
                raise Snooze("1h", reason="later")
            raise ValueError("no luck")

    job = (await task.aenqueue()).id
    if ended == "crashed":
        conn.execute(
            "update pgqueue.jobs set status = 'running', attempt = 1, worker_id = gen_random_uuid(),"
            " claim_id = gen_random_uuid(), claimed_at = now(), lease_expires_at = now() - interval '1 s'"
        )
        async with working(app, keep_succeeded=0):
            await eventually_async(lambda: statuses(conn) == {job: "dead"})
    else:
        await drain(app, keep_succeeded=0)
        if ended == "cancelled":
            await app.aclient.cancel(job)
    assert conn.execute("select count(*) from pgqueue.attempts").fetchone() == (1,)
    fails[:] = [False]
    assert await app.aclient.retry(job)
    await drain(app, keep_succeeded=0)
    assert statuses(conn) == {}
    assert conn.execute("select count(*) from pgqueue.attempts").fetchone() == (0,)


async def test_retries_until_dead_then_back_by_hand(app: App, conn: psycopg.Connection) -> None:
    runs: list[int] = []

    @app.task(name="t", max_retries=2)
    def task(ctx: Context) -> None:
        runs.append(ctx.attempt)
        raise ValueError("no luck")

    job_id = (await task.aenqueue()).id
    for _ in range(4):
        await drain(app)
        make_due(conn)
    assert runs == [1, 2, 3]
    job = await app.aclient.job(job_id)
    assert (job.status, job.last_error) == ("dead", "ValueError: no luck")
    attempts = await app.aclient.attempts(job_id)
    assert [(a.attempt, a.outcome, a.error_type) for a in attempts] == [
        (1, "retry", "ValueError"), (2, "retry", "ValueError"), (3, "dead", "ValueError"),
    ]  # fmt: skip
    assert 'raise ValueError("no luck")' in (attempts[0].traceback or "")
    assert await app.aclient.retry(job_id)
    await drain(app)
    assert runs == [1, 2, 3, 1]


async def test_a_retry_waits_by_the_backoff_in_sql(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="t", backoff=Backoff(base=100, factor=3, cap=500, jitter=0))
    def task() -> None:
        raise ValueError

    await task.aenqueue()
    waits = []
    for _ in range(3):
        await drain(app)
        row = conn.execute(
            "select extract(epoch from run_at - clock_timestamp())::float8 from pgqueue.jobs"
        ).fetchone()
        assert row is not None
        waits.append(row[0])
        make_due(conn)
    assert waits == [pytest.approx(x, abs=20) for x in (100, 300, 500)]


@pytest.mark.parametrize(
    ("error", "status", "attempt"),
    [
        (Retry(after="1h"), "pending", 1),
        (Snooze("1h"), "pending", 0),
        (Dead("bad address"), "dead", 1),
        (Cancel("not wanted"), "cancelled", 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_what_a_handler_raises(
    app: App, conn: psycopg.Connection, error: BaseException, status: str, attempt: int, kind: str
) -> None:
    if kind == "async":

        @app.task(name="t")
        async def task() -> None:
            raise error

        await task.aenqueue()
    else:

        @app.task(name="t")
        def sync_task() -> None:
            raise error

        await sync_task.aenqueue()
    await drain(app)
    row = conn.execute("select status, attempt from pgqueue.jobs").fetchone()
    assert row == (status, attempt)


async def test_retry_on_names_what_is_worth_it(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="t", retry_on=(ConnectionError,))
    def task(lost: bool) -> None:
        raise ConnectionResetError if lost else ValueError

    again, dead = await task.aenqueue(True), await task.aenqueue(False)
    await drain(app)
    assert statuses(conn) == {again.id: "pending", dead.id: "dead"}


async def test_a_class_with_its_own_backoff(app: App, conn: psycopg.Connection) -> None:
    class Own(Job):
        wait: int
        name = "own-backoff"

        def backoff(self, attempt: int) -> float:
            return 1000.0 * self.wait * attempt

        def handle(self) -> None:
            raise ValueError

    await app.dispatch(Own(2)).with_max_retries(5)
    await drain(app)
    row = conn.execute(
        "select extract(epoch from run_at - clock_timestamp())::float8, max_retries from pgqueue.jobs"
    ).fetchone()
    assert row == (pytest.approx(2000, abs=30), 5)


async def test_timeouts(
    app: App, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="async", timeout=0.05, max_retries=0)
    async def hang() -> None:
        import asyncio

        await asyncio.Event().wait()

    stopped = threading.Event()

    @app.task(name="thread", timeout=0.05, max_retries=0)
    def spin(ctx: Context) -> None:
        try:
            while True:
                ctx.check()
                stopped.wait(0.01)
        finally:
            stopped.set()

    await hang.aenqueue()
    await spin.aenqueue()
    await drain(app)
    errors = conn.execute("select last_error from pgqueue.jobs").fetchall()
    assert errors == [("TimeoutError: ran longer than 0.05 s",)] * 2
    told = [r.message for r in caplog.records if "a thread cannot be stopped" in r.message]
    assert len(told) == 1
    assert "(thread) attempt 1: has run for its timeout of 0.05 s" in told[0]
    assert stopped.is_set()


@pytest.mark.parametrize("kind", ["thread", "async"])
async def test_a_handler_that_goes_on_after_its_timeout_has_timed_out(
    app: App, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    let_go = threading.Event()
    seen: list[Exception] = []

    @app.task(name="thread", timeout=0.05)
    def thread(ctx: Context) -> None:
        let_go.wait()
        try:
            with ctx.transaction():
                pass
        except Exception as error:
            seen.append(error)
            raise

    @app.task(name="async", timeout=0.05)
    async def swallow(ctx: Context) -> None:
        while not let_go.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        try:
            async with ctx.transaction():
                pass
        except Exception as error:
            seen.append(error)
            raise

    @app.task(name="other")
    def other() -> None: ...

    task: Any = {"thread": thread, "async": swallow}[kind]
    job = await task.with_max_retries(1).with_backoff("1h").aenqueue()
    goes_on = {
        "thread": "its thread cannot be stopped and was still running",
        "async": "it was cancelled, and was still running",
    }[kind]
    async with working(app, lease=1, concurrency=1) as runtime:
        await eventually_async(lambda: app.aclient.attempts(job.id))
        row = await app.aclient.job(job.id)
        assert (row.status, row.attempt, row.crashes) == ("pending", 1, 0)
        assert row.last_error == f"TimeoutError: ran longer than 0.05 s; {goes_on}"
        (attempt,) = await app.aclient.attempts(job.id)
        assert (attempt.outcome, attempt.error_type) == ("retry", "TimeoutError")
        # It holds its slot until it ends, and what it does by then no longer counts.
        after = await other.aenqueue()
        assert runtime.executors[0].room() == 0
        let_go.set()
        await eventually_async(lambda: statuses(conn)[after.id] == "succeeded")
        assert statuses(conn)[job.id] == "pending"
    assert [type(error) for error in seen] == [ClaimLost]
    assert "too late to count" in caplog.text
    assert "their claims were lost" not in caplog.text


async def test_a_thread_that_goes_on_after_it_was_cancelled(
    app: App, conn: psycopg.Connection
) -> None:
    let_go, began = threading.Event(), threading.Event()

    @app.task(name="t")
    def task() -> None:
        began.set()
        let_go.wait()

    job = await task.aenqueue()
    async with working(app, lease=1):
        await eventually_async(began.is_set)
        await app.aclient.cancel(job.id)
        await eventually_async(lambda: statuses(conn)[job.id] == "cancelled")
        row = await app.aclient.job(job.id)
        assert row.crashes == 0
        assert "its thread cannot be stopped" in str(row.last_error)
        let_go.set()


async def test_one_that_completed_its_job_and_goes_on_after_its_timeout(
    app: App, conn: psycopg.Connection
) -> None:
    let_go = threading.Event()

    @app.task(name="t", timeout=0.05)
    def task(ctx: Context) -> None:
        with ctx.transaction():
            pass
        let_go.wait()

    job = await task.aenqueue()
    async with working(app, lease=1) as runtime:
        await eventually_async(lambda: runtime.executors[0].lingering)
        await eventually_async(lambda: not runtime.executors[0].ended)
        row = await app.aclient.job(job.id)
        assert (row.status, row.crashes) == ("succeeded", 0)
        let_go.set()


async def test_each_of_many_runs_has_its_own_time(app: App, conn: psycopg.Connection) -> None:
    over = asyncio.Event()

    @app.task(name="long", timeout=3600)
    async def long() -> None:
        await over.wait()

    @app.task(name="short", timeout=0.05, max_retries=0)
    async def short() -> None:
        await asyncio.Event().wait()

    @app.task(name="middle", timeout=0.3, max_retries=0)
    async def middle(last: bool) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            if last:
                over.set()

    await long.aenqueue()
    await middle.aenqueue(False)
    await short.aenqueue()
    await short.aenqueue()
    await middle.aenqueue(True)
    await drain(app)
    rows = conn.execute("select task, status, last_error from pgqueue.jobs order by id").fetchall()
    late = {
        "short": "TimeoutError: ran longer than 0.05 s",
        "middle": "TimeoutError: ran longer than 0.3 s",
    }
    assert rows == [
        ("long", "succeeded", None),
        *((task, "dead", late[task]) for task in ("middle", "short", "short", "middle")),
    ]  # fmt: skip


async def test_cancel_pending_and_clear(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="t")
    def task() -> None: ...

    first, second, third = [(await task.with_queue(q).aenqueue()).id for q in ("a", "a", "b")]
    assert await app.aclient.cancel(first) == {first: "cancelled"}
    assert await app.aclient.count() == 2
    assert await app.aclient.clear(Filter(queue="b")) == [third]
    assert statuses(conn) == {first: "cancelled", second: "pending"}
    with pytest.raises(JobNotFound):
        await app.aclient.job(third)


async def test_cancel_running(app: App, conn: psycopg.Connection) -> None:
    import asyncio

    from pgqueue import Worker

    started = asyncio.Event()

    @app.task(name="t")
    async def task() -> None:
        started.set()
        await asyncio.Event().wait()

    job_id = (await task.aenqueue()).id
    worker = Worker(app, lease=1)
    running = asyncio.create_task(worker.arun())
    await started.wait()
    assert await app.aclient.cancel(job_id) == {job_id: "running"}
    await eventually_async(lambda: statuses(conn)[job_id] == "cancelled")
    worker.stop()
    await running


async def test_retry_by_filter_and_with_edited_arguments(
    app: App, conn: psycopg.Connection
) -> None:
    ran: list[int] = []

    @app.task(name="t")
    async def task(number: int) -> None:
        ran.append(number)
        if number < 10:
            raise Dead("too small")

    first = (await task.aenqueue(1)).id
    await task.with_queue("other").aenqueue(2)
    await drain(app)
    assert await app.aclient.retry(first, args={"number": 11})
    with psycopg.connect(app.dsn) as rolled_back:
        assert app.client.retry_many(None, Filter(queue="other"), on=rolled_back)
        rolled_back.rollback()
    await drain(app)
    assert ran == [1, 2, 11]
    assert len(await app.aclient.retry_many(None, Filter(error="TOO SMALL", since="1h"))) == 1


async def test_arguments_arrive_as_their_types(app: App) -> None:
    import dataclasses
    import datetime as dt
    import decimal
    import enum
    import uuid

    class Colour(enum.Enum):
        RED = "red"

    @dataclasses.dataclass
    class Point:
        x: int
        y: float

    got: list[Any] = []
    values = (
        Point(1, 2.5), dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC), uuid.UUID(int=5),
        decimal.Decimal("1.10"), Colour.RED, b"\x00\xff", (1, "a"), dt.timedelta(seconds=90),
    )  # fmt: skip

    async def task(
        point: Point, at: dt.datetime, key: uuid.UUID, price: decimal.Decimal, colour: Colour,
        raw: bytes, pair: tuple[int, str], wait: dt.timedelta, extra: list[Point] | None = None,
    ) -> None:  # fmt: skip
        got.extend([point, at, key, price, colour, raw, pair, wait, extra])

    task.__annotations__ = {
        "point": Point, "at": dt.datetime, "key": uuid.UUID, "price": decimal.Decimal,
        "colour": Colour, "raw": bytes, "pair": tuple[int, str], "wait": dt.timedelta,
        "extra": list[Point] | None,
    }  # fmt: skip
    await app.task(name="t")(task).aenqueue(*values)
    await drain(app)
    assert got == [*values, None]


async def test_a_process_task_is_another_process(app: App, conn: psycopg.Connection) -> None:
    from tests.worker import process_tasks

    process_tasks.app.use(dsn=app.dsn)
    handle = await process_tasks.note_pid.aenqueue()
    await process_tasks.die.with_max_retries(0).aenqueue()
    await process_tasks.hang.with_max_retries(0).aenqueue()
    await process_tasks.refuse.aenqueue("why not")
    await drain(process_tasks.app)
    rows = dict(conn.execute("select task, last_error from pgqueue.jobs").fetchall())  # type: ignore[arg-type]
    assert rows == {
        "note_pid": None,
        "die": "ProcessDied: exit code 7",
        "hang": "TimeoutError: ran longer than 1 s",
        "refuse": "Dead: why not",
    }
    noted = conn.execute("select pid from noted").fetchall()
    assert len(noted) == 1
    assert noted != [(os.getpid(),)]
    assert statuses(conn)[handle.id] == "succeeded"


async def test_a_thread_that_outlives_its_worker_keeps_its_claim(
    app: App, conn: psycopg.Connection
) -> None:
    import asyncio

    from pgqueue import Worker

    started, end = threading.Event(), threading.Event()

    @app.task(name="t")
    def stubborn() -> None:
        started.set()
        end.wait()

    await stubborn.aenqueue()
    worker = Worker(app, grace=0)
    running = asyncio.create_task(worker.arun())
    await eventually_async(started.is_set)
    worker.stop()
    await running
    # Given back now, it would run twice at once: it waits for its lease instead.
    assert list(statuses(conn).values()) == ["running"]
    end.set()
