"""Steps with retries and a timeout of their own, and what a run costs: two tables of docs/rules/steps.md, row by row."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import App, ConfigError, Context, Dead, Status
from pgqueue.cli import main
from pgqueue.operations import maintenance
from pgqueue.testing import context
from tests.processes import Workers
from tests.steps.process_tasks import retried
from tests.steps.test_rules import CASES, Conn, again, case, names, pass_time, status, table
from tests.support import drain, eventually_async, make_due, statuses

OPTIONS = [row[0] for row in table("a step with options", "what happens")]
COSTS = [row[0] for row in table("a run", "what happens")]


def test_every_row_has_a_case() -> None:
    assert set(CASES["options"]) == set(OPTIONS)
    assert set(CASES["costs"]) == set(COSTS)


@pytest.mark.parametrize("row", OPTIONS)
async def test_options(app: App, conn: Conn, row: str) -> None:
    await CASES["options"][row](app, conn)


@pytest.mark.parametrize("row", COSTS)
async def test_what_a_run_costs(app: App, conn: Conn, row: str) -> None:
    await CASES["costs"][row](app, conn)


async def later(app: App, conn: Conn) -> None:
    """Run what waits, when all backoffs of steps, sleeps and timeouts are over."""
    pass_time(conn)
    await again(app, conn)


class Flaky:
    """Jobs, async and in a thread, with one step that fails a number of times."""

    def __init__(self, app: App, fails: int, *, error: Any = ConnectionError, **options: Any):
        self.calls: dict[str, int] = {"async": 0, "thread": 0}
        self.got: list[Any] = []
        self.raised: list[BaseException] = []
        options = {"max_retries": 2, "backoff": 3600} | options

        def fail_here(way: str) -> int:
            self.calls[way] += 1
            if self.calls[way] <= fails:
                raise error("no answer")
            return self.calls[way]

        async def fail(way: str) -> int:
            return fail_here(way)

        async def catching(ctx: Context) -> None:
            try:
                self.got.append(await ctx.with_options(**options).step("s", fail, "async"))
            except Exception as raised:
                self.raised.append(raised)
                raise

        def catching_here(ctx: Context) -> None:
            try:
                self.got.append(ctx.with_options(**options).step("s", fail_here, "thread"))
            except Exception as raised:
                self.raised.append(raised)
                raise

        self.jobs = [
            app.task(name=way, max_retries=1, backoff=3600)(each).enqueue().id
            for way, each in (("async", catching), ("thread", catching_here))
        ]


@case("options", "fails, and has retries left")
async def _(app: App, conn: Conn) -> None:
    sample = Flaky(app, 2)
    await drain(app)
    for job in map(app.client.job, sample.jobs):
        assert (job.status, job.attempt, job.last_error) == (Status.PENDING, 0, None)
        assert 1800 <= (job.run_at - job.created_at).total_seconds() < 3700
        (step,) = app.client.steps(job.id)
        assert (step.kind, step.failures, step.finished_at) == ("step", 1, None)
        assert step.error == "ConnectionError: no answer"
        assert step.wakes_at is not None
    await later(app, conn)
    assert sample.calls == {"async": 2, "thread": 2}
    assert [app.client.steps(job)[0].failures for job in sample.jobs] == [2, 2]
    await later(app, conn)
    assert sample.got == [3, 3]
    assert set(statuses(conn).values()) == {"succeeded"}
    assert names(conn) == ["s", "s"]
    assert all(app.client.steps(job)[0].error is None for job in sample.jobs)
    assert [app.client.attempts(job) for job in sample.jobs] == [[], []]


@case("options", "fails, and has no retries left")
async def _(app: App, conn: Conn) -> None:
    sample = Flaky(app, 5)
    for _ in range(3):
        await drain(app)
        pass_time(conn)
        make_due(conn)
    assert sample.calls == {"async": 3, "thread": 3}
    assert [type(each) for each in sample.raised] == [ConnectionError] * 2
    for job in map(app.client.job, sample.jobs):
        assert (job.status, job.attempt) == (Status.PENDING, 1)
        assert job.last_error == "ConnectionError: no answer"
        assert app.client.steps(job.id) == []
    for _ in range(3):  # the second attempt
        await later(app, conn)
    assert set(statuses(conn).values()) == {"succeeded"}
    assert sample.calls == {"async": 6, "thread": 6}


@case("options", "fails, with an error that is none of `retry_on`")
async def _(app: App, conn: Conn) -> None:
    sample = Flaky(app, 1, error=ValueError, retry_on=ConnectionError)
    await drain(app)
    assert [app.client.job(job).attempt for job in sample.jobs] == [1, 1]
    assert len(sample.raised) == 2


@case("options", "raises `Retry`, `Snooze`, `Dead` or `Cancel`")
async def _(app: App, conn: Conn) -> None:
    sample = Flaky(app, 1, error=Dead)
    await drain(app)
    assert set(statuses(conn).values()) == {"dead"}
    assert names(conn) == []
    assert sample.calls == {"async": 1, "thread": 1}


@case("options", "of a transaction fails, and has retries left")
async def _(app: App, conn: Conn) -> None:
    conn.execute("create table effects (way text)")
    calls: list[str] = []

    async def write(connection: Any) -> None:
        await connection.execute("insert into effects values ('async')")
        calls.append("async")
        if calls.count("async") == 1:
            raise ConnectionError

    def write_here(connection: Any) -> None:
        connection.execute("insert into effects values ('thread')")
        calls.append("thread")
        if calls.count("thread") == 1:
            raise ConnectionError

    @app.task(name="async")
    async def task(ctx: Context) -> None:
        await ctx.with_options(max_retries=1, backoff=3600).transaction_step("w", write)

    @app.task(name="thread")
    def thread(ctx: Context) -> None:
        ctx.with_options(max_retries=1, backoff=3600).transaction_step("w", write_here)

    task.enqueue()
    thread.enqueue()
    await drain(app)
    assert set(statuses(conn).values()) == {"pending"}
    assert conn.execute("select count(*) from effects").fetchone() == (0,)
    await later(app, conn)
    assert set(statuses(conn).values()) == {"succeeded"}
    assert sorted(conn.execute("select way from effects").fetchall()) == [("async",), ("thread",)]


@case("options", "fails beside steps in hand")
async def _(app: App, conn: Conn) -> None:
    done: list[str] = []
    failed, failed_here = asyncio.Event(), threading.Event()
    got: list[Any] = []

    async def slow() -> str:
        await failed.wait()
        await asyncio.sleep(0.05)
        done.append("slow")
        return "slow"

    async def bad() -> str:
        failed.set()
        if done.count("slow") == 0:
            raise ConnectionError
        return "good"

    def slow_here() -> str:
        failed_here.wait()
        time.sleep(0.05)
        done.append("slow here")
        return "slow"

    def bad_here() -> str:
        failed_here.set()
        if done.count("slow here") == 0:
            raise ConnectionError
        return "good"

    @app.task(name="async", max_retries=0)
    async def task(ctx: Context) -> None:
        tried = ctx.with_options(max_retries=1, backoff=3600)
        got.append(await asyncio.gather(ctx.step("slow", slow), tried.step("bad", bad)))

    @app.task(name="group", max_retries=0)
    async def group(ctx: Context) -> None:
        tried = ctx.with_options(max_retries=1, backoff=3600)
        async with asyncio.TaskGroup() as tasks:
            each = [
                tasks.create_task(ctx.step("slow", slow)),  # type: ignore[arg-type]
                tasks.create_task(tried.step("bad", bad)),  # type: ignore[arg-type]
            ]
        got.append([task.result() for task in each])

    @app.task(name="thread", max_retries=0)
    def thread(ctx: Context) -> None:
        value: list[str] = []
        beside = threading.Thread(target=lambda: value.append(ctx.step("slow", slow_here)))
        beside.start()
        tried = ctx.with_options(max_retries=1, backoff=3600)
        bad = tried.step("bad", bad_here)
        beside.join()
        got.append([*value, bad])

    for each in (task, group, thread):
        done.clear()
        failed.clear()
        got.clear()
        job = each.enqueue().id
        await drain(app)
        assert app.client.job(job).status is Status.PENDING, each.name
        assert [s.name for s in app.client.steps(job) if s.finished_at] == ["slow"], each.name
        await later(app, conn)
        assert app.client.job(job).status is Status.SUCCEEDED, each.name
        assert got == [["slow", "good"]]
        assert len(done) == 1


@case("options", "fails beside a wait, and the event comes before its backoff is over")
async def _(app: App, conn: Conn) -> None:
    calls, got = [0], []

    async def bad() -> str:
        calls[0] += 1
        if calls[0] == 1:
            raise ConnectionError
        return "good"

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> None:
        tried = ctx.with_options(max_retries=1, backoff=3600)
        got.append(await asyncio.gather(ctx.wait_for_event("go"), tried.step("bad", bad)))

    job = task.enqueue().id
    await drain(app)
    app.emit("go", 1)
    await drain(app)
    assert calls == [1], "the backoff goes on"
    assert app.client.job(job).status is Status.PENDING
    assert names(conn) == ["event go"]
    await later(app, conn)
    assert (calls, got) == ([2], [[1, "good"]])


@case("options", "async, runs longer than its timeout")
async def _(app: App, conn: Conn) -> None:
    cancelled: list[bool] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def slow_in(_: Any) -> None:
        await slow()

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context, transaction: bool, retries: int) -> None:
        limited = ctx.with_options(timeout=0.02, max_retries=retries, backoff=3600)
        if transaction:
            await limited.transaction_step("slow", slow_in)
        else:
            await limited.step("slow", slow)

    tried = [task.enqueue(each, 1).id for each in (False, True)]
    ended = [task.enqueue(each, 0).id for each in (False, True)]
    await drain(app)
    why = "TimeoutError: step 'slow' ran longer than 0.02 s"
    assert [app.client.steps(job)[0].error for job in tried] == [why] * 2
    assert [app.client.job(job).status for job in tried] == [Status.PENDING] * 2
    assert [app.client.job(job).last_error for job in ended] == [why] * 2
    assert [app.client.job(job).status for job in ended] == [Status.DEAD] * 2
    assert cancelled == [True] * 4


@case("options", "in a thread, runs longer than its timeout")
async def _(app: App, conn: Conn) -> None:
    def slow(ctx: Context) -> None:
        while True:
            ctx.check()
            time.sleep(0.005)

    @app.task(name="t", max_retries=0)
    def task(ctx: Context, retries: int) -> None:
        ctx.check()
        ctx.with_options(timeout=0.02, max_retries=retries, backoff=3600).step("slow", slow, ctx)

    tried, ended = task.enqueue(1).id, task.enqueue(0).id
    await drain(app)
    why = "TimeoutError: step 'slow' ran longer than 0.02 s"
    assert app.client.steps(tried)[0].error == why
    assert app.client.job(tried).status is Status.PENDING
    assert app.client.job(ended).last_error == why
    assert app.client.job(ended).status is Status.DEAD


@case("options", "in a thread, returns after its timeout")
async def _(app: App, conn: Conn) -> None:
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    def slow() -> int:
        time.sleep(0.03)
        return 7

    @app.task(name="t", max_retries=0)
    def task(ctx: Context) -> None:
        assert ctx.with_options(timeout=0.01, max_retries=1).step("slow", slow) == 7
        ctx.check()

    task.enqueue()
    kept = Kept()
    logging.getLogger("pgqueue.job").addHandler(kept)
    try:
        await drain(app)
    finally:
        logging.getLogger("pgqueue.job").removeHandler(kept)
    assert (status(conn), names(conn)) == ("succeeded", ["slow"])
    assert [line for line in lines if "its timeout is 0.01 s: it is stored" in line]


@case("options", "is cut off by a crash")
async def _(app: App, conn: Conn) -> None:
    calls = 0

    async def crash() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            conn.execute(
                "update pgqueue.jobs set status = 'pending', worker_id = null, claim_id = null"
            )
            raise ConnectionError

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        await ctx.with_options(max_retries=1, backoff=3600).step("s", crash)

    job = task.enqueue().id
    await drain(app)
    assert (status(conn), calls) == ("succeeded", 2)
    assert app.client.steps(job)[0].failures == 0


@case("options", "is called in the function of another step, with `max_retries`")
async def _(app: App, conn: Conn) -> None:
    async def inner() -> None:
        pass

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        async def outer() -> None:
            await ctx.with_options(max_retries=1).step("inner", inner)

        await ctx.step("outer", outer)

    @app.task(name="thread")
    def thread(ctx: Context) -> None:
        ctx.step("outer", lambda: ctx.with_options(max_retries=1).step("inner", int))

    jobs = [task.enqueue().id, thread.enqueue().id]
    await drain(app)
    assert set(statuses(conn).values()) == {"dead"}
    assert all("StepError" in str(app.client.job(job).last_error) for job in jobs)


@case("options", "has another name in each run")
async def _(app: App, conn: Conn) -> None:
    runs = [0]

    async def bad() -> None:
        raise ConnectionError

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> None:
        runs[0] += 1
        await ctx.with_options(max_retries=5, backoff=3600).step(f"s {runs[0]}", bad)

    job = task.enqueue().id
    await drain(app)
    await later(app, conn)
    assert len(app.client.steps(job)) == 2
    conn.execute("update pgqueue.steps set failures = 499")
    await later(app, conn)
    conn.execute("update pgqueue.steps set failures = failures + 1 where name = 's 3'")
    await later(app, conn)
    assert (app.client.job(job).status, runs) == (Status.DEAD, [4])


# What a run costs.


class Long:
    """Jobs, async and in a thread, that do one step more in each run, and then what they are told to."""

    def __init__(self, app: App, then: Callable[[int], str], **options: Any) -> None:
        self.attempts: dict[str, list[int]] = {"async": [], "thread": []}
        options = {"max_retries": 1, "backoff": 3600} | options

        async def number(n: int) -> int:
            return n

        def number_here(n: int) -> int:
            return n

        def does(way: str, ctx: Context) -> str:
            self.attempts[way].append(ctx.attempt)
            return then(len(self.attempts[way]))

        async def go(ctx: Context) -> None:
            what = does("async", ctx)
            if "step" in what:
                await ctx.step(f"step {len(self.attempts['async'])}", number, 1)
            if "sleep" in what:
                await ctx.sleep("1h", name=f"sleep {len(self.attempts['async'])}")
            if "fail" in what:
                raise ValueError

        def go_here(ctx: Context) -> None:
            what = does("thread", ctx)
            if "step" in what:
                ctx.step(f"step {len(self.attempts['thread'])}", number_here, 1)
            if "sleep" in what:
                ctx.sleep("1h", name=f"sleep {len(self.attempts['thread'])}")
            if "fail" in what:
                raise ValueError

        self.jobs = [
            app.task(name=way, **options)(each).enqueue().id
            for way, each in (("async", go), ("thread", go_here))
        ]

    async def run(self, app: App, conn: Conn, times: int) -> set[str]:
        await drain(app)
        for _ in range(times - 1):
            await later(app, conn)
        return set(statuses(conn).values())


@case("costs", "fails, and has stored no step")
async def _(app: App, conn: Conn) -> None:
    sample = Long(app, lambda run: "step, fail" if run == 1 else "fail")
    assert await sample.run(app, conn, 2) == {"dead"}
    assert sample.attempts["async"] == [1, 2]


@case("costs", "fails, and has stored a step")
async def _(app: App, conn: Conn) -> None:
    sample = Long(app, lambda run: "step, fail" if run < 8 else "")
    assert await sample.run(app, conn, 8) == {"succeeded"}
    assert sample.attempts == {way: [1] + [2] * 7 for way in ("async", "thread")}
    assert [len(app.client.attempts(job)) for job in sample.jobs] == [7, 7]


@case("costs", "sleeps, waits or has a step to be retried, and has stored a step")
async def _(app: App, conn: Conn) -> None:
    # A failure, then a step and a sleep, then two failures: the second of these is one too many.
    script = ["fail", "step, sleep", "fail", "fail"]
    sample = Long(app, lambda run: script[run - 1])
    assert await sample.run(app, conn, 3) == {"pending"}
    assert sample.attempts == {way: [1, 2, 1] for way in ("async", "thread")}
    await later(app, conn)
    assert set(statuses(conn).values()) == {"dead"}


@case("costs", "sleeps, waits or has a step to be retried, and has stored none")
async def _(app: App, conn: Conn) -> None:
    script = ["fail", "sleep", "fail"]
    sample = Long(app, lambda run: script[run - 1])
    assert await sample.run(app, conn, 3) == {"dead"}
    assert sample.attempts == {way: [1, 2, 2] for way in ("async", "thread")}


@case("costs", "crashes, and has stored a step")
async def _(app: App, conn: Conn) -> None:
    entered = asyncio.Event()

    async def number() -> int:
        return 1

    @app.task(name="t", max_retries=1, backoff=3600)
    async def task(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ValueError
        await ctx.step("s", number)
        entered.set()
        await asyncio.sleep(60)

    job = task.enqueue().id
    await drain(app)
    make_due(conn)
    worker = asyncio.create_task(drain(app, concurrency=1))
    await entered.wait()
    await asyncio.to_thread(
        conn.execute,
        "update pgqueue.jobs set lease_expires_at = clock_timestamp() - interval '1 s', worker_id = gen_random_uuid()",
    )
    for _ in range(2):
        await asyncio.to_thread(app.client._run, maintenance.rescue(max_crashes=3), None)
    row = await eventually_async(
        lambda: (found := app.client.job(job)).crashes == 1 and found  # type: ignore[func-returns-value]
    )
    assert (row.status, row.attempt) == (Status.PENDING, 1)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


@case("costs", "fails with `max_retries=0`")
async def _(app: App, conn: Conn) -> None:
    sample = Long(app, lambda run: "step, fail", max_retries=0)
    assert await sample.run(app, conn, 1) == {"dead"}


@case("costs", "stores a step of another name each time, and fails")
async def _(app: App, conn: Conn) -> None:
    sample = Long(app, lambda run: "step, fail")
    assert await sample.run(app, conn, 1) == {"pending"}
    for job in sample.jobs:
        conn.execute(
            "insert into pgqueue.attempts (job_id, attempt, outcome)"
            " select %s, 1, 'retry' from generate_series(1, 998)",
            [job],
        )
    await later(app, conn)
    assert sample.attempts["async"] == [1, 2]
    assert set(statuses(conn).values()) == {"pending"}, "the 999th"
    await later(app, conn)
    await later(app, conn)
    assert set(statuses(conn).values()) == {"dead"}


# Besides the tables.


async def test_a_backoff_doubles(app: App, conn: Conn) -> None:
    sample = Flaky(app, 9, max_retries=5, backoff=10)
    waits = []
    await drain(app)
    for _ in range(3):
        steps = app.client.steps(sample.jobs[0])
        found = conn.execute(
            "select extract(epoch from wakes_at - clock_timestamp()) from pgqueue.steps"
        )
        waits.append(max(float(row[0]) for row in found.fetchall()))
        assert steps[0].failures == len(waits)
        await later(app, conn)
    assert waits[0] <= 10
    assert 9 <= waits[1] <= 20
    assert 18 <= waits[2] <= 40


async def test_secrets_stay_out_of_what_is_stored_of_a_failure(app: App, conn: Conn) -> None:
    async def charge(password: str) -> None:
        raise ConnectionError(f"refused {password}")

    def charge_here(password: str) -> None:
        raise ConnectionError(f"refused {password}")

    @app.task(name="async")
    async def task(ctx: Context, password: str) -> None:
        await ctx.with_options(max_retries=1, backoff=3600).step("s", charge, password)

    @app.task(name="thread")
    def thread(ctx: Context, password: str) -> None:
        ctx.with_options(max_retries=1, backoff=3600).step("s", charge_here, password)

    jobs = [task.enqueue("hunter2-xyz").id, thread.enqueue("hunter2-xyz").id]
    await drain(app)
    for job in jobs:
        error = app.client.steps(job)[0].error
        assert error is not None
        assert error.startswith("ConnectionError: refused ")
        assert "hunter2" not in error


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": -1}, {"max_retries": 1001}, {"max_retries": "3"}, {"timeout": 0}, {"backoff": -1},
        {"retry_on": "ValueError"},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        context().with_options(**options)


def test_arguments_of_the_function_are_its_own() -> None:
    def call(timeout: int, max_retries: int) -> int:
        return timeout + max_retries

    options = context().with_options(timeout=5)
    assert options.step("s", call, timeout=1, max_retries=2) == 3


async def test_the_command_shows_a_step_that_failed(
    app: App, conn: Conn, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = Flaky(app, 9)
    await drain(app)
    with pytest.raises(SystemExit):
        main(["job", str(sample.jobs[0]), "--dsn", app.dsn])
    said = capsys.readouterr().out
    assert "s: failed once, is called again in" in said
    assert "ConnectionError: no answer" in said


async def test_in_a_process(app: App, conn: Conn) -> None:
    retried_id = retried.on(conn).enqueue(5).id
    workers = Workers(app.dsn, "tests.steps.process_tasks:app")
    try:
        workers.start("--concurrency", "2")
        done = await eventually_async(
            lambda: (
                app.client.job(retried_id).status is Status.SUCCEEDED
                or app.client.job(retried_id).status is Status.DEAD
            )
        )
        assert done
    finally:
        await asyncio.to_thread(workers.end)
    job = app.client.job(retried_id)
    assert (job.status, job.attempt) == (Status.SUCCEEDED, 1), job.last_error
    (calls,) = conn.execute("select count(*) from tries").fetchone() or (0,)
    assert calls == 3
