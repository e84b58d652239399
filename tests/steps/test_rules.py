"""The tables of docs/rules/steps.md: each row is a case here."""

from __future__ import annotations

import asyncio
import math
import re
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import (
    App,
    ConfigError,
    Context,
    Event,
    Filter,
    JobNotFound,
    Status,
    StepChanged,
    StepError,
    StepNotFound,
    StepNotStored,
)
from pgqueue.operations import steps
from tests.support import drain, eventually_async, make_due, statuses, working

PAGE = (Path(__file__).parents[2] / "docs/rules/steps.md").read_text("utf-8")
Conn = psycopg.Connection[Any]
Case = Callable[[App, Conn], Awaitable[None]]
CASES: dict[str, dict[str, Case]] = {}


def table(*head: str) -> list[tuple[str, ...]]:
    """The rows of the table with this head."""
    _, _, rest = PAGE.partition(f"| {' | '.join(head)} |\n")
    lines = rest.partition("\n\n")[0].splitlines()[1:]
    return [tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]) for line in lines]


def case(table: str, *rows: str) -> Callable[[Case], Case]:
    def note(case: Case) -> Case:
        for row in rows:
            CASES.setdefault(table, {})[row] = case
        return case

    return note


STORED = [row[0] for row in table("a step", "what happens")]
BESIDE = [row[0] for row in table("beside each other", "what happens")]
EMITTED = [row[0] for row in table("emitted", "what happens")]
RETRIED = [row[0] for row in table("how", "what happens")]
COMPARED = table("stored", "in the code now", "what happens")


async def again(app: App, conn: Conn) -> None:
    """Run what waits for a retry, a sleep or an event, and is not over, as a worker would later."""
    make_due(conn)
    await drain(app)


def names(conn: Conn) -> list[str]:
    """The stored steps that are over."""
    return [
        name
        for (name,) in conn.execute(
            "select name from pgqueue.steps where finished_at is not null order by name"
        ).fetchall()
    ]


def status(conn: Conn) -> str:
    """That of the only job."""
    (only,) = statuses(conn).values()
    return only


def pass_time(conn: Conn) -> None:
    """Let all sleeps and timeouts be over."""
    conn.execute("update pgqueue.steps set wakes_at = clock_timestamp() where finished_at is null")


# What is stored.


def test_every_row_has_a_case() -> None:
    assert set(CASES["stored"]) == set(STORED)
    assert set(CASES["beside"]) == set(BESIDE)
    assert set(CASES["emitted"]) == set(EMITTED)
    assert set(CASES["retried"]) == set(RETRIED)
    assert {stored for stored, *_ in COMPARED} | {now for _, now, _ in COMPARED} <= {
        *VERBS,
        "any",
        "nothing of this name",
    }


TABLES = {"stored": STORED, "beside": BESIDE, "emitted": EMITTED, "retried": RETRIED}


@pytest.mark.parametrize(
    ("table", "row"), [(table, row) for table, rows in TABLES.items() for row in rows]
)
async def test_a_row_of_a_table(app: App, conn: Conn, table: str, row: str) -> None:
    await CASES[table][row](app, conn)


async def test_the_table_of_kinds(app: App, conn: Conn) -> None:
    async def seven() -> int:
        return 7

    async def write(connection: Any) -> int:
        return 7

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> None:
        now = datetime.now(UTC)
        verbs = {
            "`ctx.step(name, f)`": lambda: ctx.step("0", seven),
            "`ctx.transaction_step(name, f)`": lambda: ctx.transaction_step("1", write),
            '`ctx.sleep("2d")`': lambda: ctx.sleep("2d", name="2"),
            "`ctx.sleep_until(time)`": lambda: ctx.sleep_until(now + timedelta(1), name="3"),
            '`ctx.wait_for_event("a")`': lambda: ctx.wait_for_event("a", name="4"),
            '`ctx.receive("a")`': lambda: ctx.receive("a", name="5"),
            "`ctx.result_of(handle)`, `ctx.gather(...)`": lambda: ctx.gather(later, name="6"),
        }
        rows = table("verb", "kind in `pgqueue.steps`", "stored", "when")
        await asyncio.gather(*(verbs.pop(row[0])() for row in rows))
        assert not verbs

    later = task.with_delay("1d").enqueue()
    task.enqueue()
    await drain(app)
    found = conn.execute("select kind, result from pgqueue.steps order by name").fetchall()
    rows = table("verb", "kind in `pgqueue.steps`", "stored", "when")
    assert [kind for kind, _ in found] == [row[1].strip("`") for row in rows]
    assert [result for _, result in found] == [7, 7, None, None, None, None, None]


class Sample:
    """A job with one step, which counts its calls; ``kind``: async or in a thread."""

    def __init__(self, app: App, result: Any = 7, *, transaction: bool = False, kind: Any = Any):
        self.calls = 0
        self.fails = True
        self.got: list[Any] = []
        self.error: Exception | None = None

        async def function(*_: Any) -> Any:
            self.calls += 1
            if self.error is not None:
                raise self.error
            return result

        def function_sync(*_: Any) -> Any:
            self.calls += 1
            if self.error is not None:
                raise self.error
            return result

        for each in (function, function_sync):
            each.__annotations__["return"] = kind

        @app.task(name="async", max_retries=3, backoff=3600)
        async def by_loop(ctx: Context) -> None:
            verb = ctx.transaction_step if transaction else ctx.step
            self.got.append(await verb("charge", function))
            if self.fails:
                raise ValueError("after the step")

        @app.task(name="thread", max_retries=3, backoff=3600)
        def in_thread(ctx: Context) -> None:
            verb = ctx.transaction_step if transaction else ctx.step
            self.got.append(verb("charge", function_sync))
            if self.fails:
                raise ValueError("after the step")

        self.jobs = [by_loop.enqueue().id, in_thread.enqueue().id]


@case("stored", "returned, and is stored")
async def _(app: App, conn: Conn) -> None:
    sample = Sample(app, (1, 2), kind=tuple[int, int])
    await drain(app)
    sample.fails = False
    await again(app, conn)
    assert sample.got == [(1, 2)] * 4
    assert sample.calls == 2
    assert set(statuses(conn).values()) == {"succeeded"}


@case("stored", "raised")
async def _(app: App, conn: Conn) -> None:
    sample = Sample(app)
    sample.error, sample.fails = RuntimeError("in the step"), False
    await drain(app)
    assert names(conn) == []
    assert "in the step" in (app.client.job(sample.jobs[0]).last_error or "")
    sample.error = None
    await again(app, conn)
    assert sample.calls == 4
    assert set(statuses(conn).values()) == {"succeeded"}


async def _crashes(app: App, conn: Conn, verb: str) -> int:
    """How often a step is called whose run loses its job twice before it is stored; the crashes are in test_killed.py."""
    calls = 0
    conn.execute("create table effects (n integer)")

    async def effect(connection: Any = None) -> None:
        nonlocal calls
        calls += 1
        if connection is not None:
            await connection.execute("insert into effects values (1)")
        if calls <= 2:
            conn.execute(
                "update pgqueue.jobs set status = 'pending', worker_id = null, claim_id = null"
            )

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        await getattr(ctx, verb)("s", effect)

    task.enqueue()
    await drain(app)
    assert (status(conn), names(conn)) == ("succeeded", ["s"])
    return calls


@case("stored", "returned, and the worker crashed before it was stored")
async def _(app: App, conn: Conn) -> None:
    assert await _crashes(app, conn, "step") == 3


@case("stored", "of a transaction, and the worker crashed")
async def _(app: App, conn: Conn) -> None:
    assert await _crashes(app, conn, "transaction_step") == 3
    assert conn.execute("select count(*) from effects").fetchone() == (1,)


@case(
    "stored",
    "returned what cannot be stored: no JSON, over 1 MB, NaN, not what its function says to return",
)
async def _(app: App, conn: Conn) -> None:
    for bad, kind in (
        (object(), Any),
        ("x" * 1_100_000, Any),
        (math.nan, Any),
        ("\0", Any),
        ("5", int),
    ):
        other = App(app.dsn)
        await _not_stored(other, conn, Sample(other, bad, kind=kind))


async def _not_stored(app: App, conn: Conn, sample: Sample) -> None:
    await drain(app)
    for job_id in sample.jobs:
        job = app.client.job(job_id)
        assert job.status is Status.DEAD
        assert job.attempt == 1
        assert f"{StepNotStored.__module__}.StepNotStored: step 'charge' of job {job_id}" in str(
            job.last_error
        )
        assert "edited arguments" not in str(job.last_error)
        assert app.client.retry(job_id)
    await drain(app)
    assert sample.calls == 2, "not again"
    assert {app.client.job(i).status for i in sample.jobs} == {Status.DEAD}
    for job_id in sample.jobs:
        assert app.client.retry(job_id, from_step="charge")
    await drain(app)
    assert sample.calls == 4, "from the step on, it is"
    await app.aclose()


@case("stored", "of a transaction returned what cannot be stored")
async def _(app: App, conn: Conn) -> None:
    sample = Sample(app, math.nan, transaction=True)
    await drain(app)
    assert sample.calls == 2
    assert names(conn) == []
    for job_id in sample.jobs:
        job = app.client.job(job_id)
        assert (job.status, job.attempt) == (Status.DEAD, 1)
        assert "StepNotStored: what step 'charge'" in str(job.last_error)


@case("stored", "sleeps or waits in its function")
async def _(app: App, conn: Conn) -> None:
    @app.task(name="t")
    async def task(ctx: Context, verb: str) -> None:
        async def bad() -> None:
            await (ctx.sleep("1h") if verb == "sleep" else ctx.wait_for_event("e"))

        await ctx.step("s", bad)

    @app.task(name="thread")
    def thread(ctx: Context, verb: str) -> None:
        ctx.step("s", lambda: ctx.sleep("1h") if verb == "sleep" else ctx.receive("e"))

    for verb in ("sleep", "wait"):
        task.enqueue(verb)
        thread.enqueue(verb)
    await drain(app)
    for job_id, became in statuses(conn).items():
        assert became == "dead"
        assert f"{StepError.__name__}:" in str(app.client.job(job_id).last_error)


async def test_two_steps_of_one_name_are_retried_as_any_error(app: App, conn: Conn) -> None:
    @app.task(name="t")
    async def task(ctx: Context) -> None:
        await ctx.sleep(0)
        await ctx.sleep(0)

    task.enqueue()
    await drain(app)
    assert status(conn) == "pending"
    assert "ConfigError: two steps" in str(app.client.job(1).last_error)


async def test_a_key_for_each_step(app: App, conn: Conn) -> None:
    keys: list[tuple[str, ...]] = []

    @app.task(name="t", max_retries=1, backoff=0)
    async def task(ctx: Context) -> None:
        keys.append((ctx.idempotency_key, *(ctx.idempotency_key_of(name) for name in ("a", "b"))))
        raise ValueError

    ids = [task.enqueue().id, task.enqueue().id]
    await drain(app)
    assert app.client.retry(ids[0])
    await drain(app)
    assert len(keys) == 6
    assert len(set(keys)) == 2, "one set for each job, whatever happens to it"
    assert len({key for of_job in set(keys) for key in of_job}) == 6
    assert all(len(key) <= 255 and key.isascii() for of_job in keys for key in of_job)


# What is compared.

CALLS: list[str] = []


async def text() -> str:
    CALLS.append("text")
    return "7"


async def whole() -> int:
    CALLS.append("whole")
    return 7


async def written(_: Any) -> str:
    CALLS.append("written")
    return "7"


def thread_text() -> str:
    CALLS.append("text")
    return "7"


def thread_whole() -> int:
    CALLS.append("whole")
    return 7


def thread_written(_: Any) -> str:
    CALLS.append("written")
    return "7"


def later() -> datetime:
    return datetime.now(UTC) + timedelta(hours=5)


Verb = Callable[[Context, bool], Any]
_STEP: Verb = lambda ctx, thread: ctx.step("x", thread_text if thread else text)  # noqa: E731
_SLEEP: Verb = lambda ctx, thread: ctx.sleep("1h", name="x")  # noqa: E731
_WAIT: Verb = lambda ctx, thread: ctx.wait_for_event("a", "1h", name="x")  # noqa: E731
VERBS: dict[str, Verb] = {
    "step": _STEP,
    "step that returned a text": _STEP,
    "step whose function returns int": lambda ctx, thread: ctx.step(
        "x", thread_whole if thread else whole
    ),
    "transaction step": lambda ctx, thread: ctx.transaction_step(
        "x", thread_written if thread else written
    ),
    "sleep": _SLEEP,
    "sleep of 1 h": _SLEEP,
    "sleep of 2 h": lambda ctx, thread: ctx.sleep("2h", name="x"),
    "sleep until a time": lambda ctx, thread: ctx.sleep_until(later(), name="x"),
    "wait for a": _WAIT,
    "wait with a timeout of 1 h": _WAIT,
    "wait with a timeout of 2 h": lambda ctx, thread: ctx.wait_for_event("a", "2h", name="x"),
    "wait for b": lambda ctx, thread: ctx.wait_for_event("b", "1h", name="x"),
    "wait for a or b": lambda ctx, thread: ctx.wait_for_event(["a", "b"], "1h", name="x"),
    "wait for b or a": lambda ctx, thread: ctx.wait_for_event(["b", "a"], "1h", name="x"),
    "message a": lambda ctx, thread: ctx.receive("a", "1h", name="x"),
    "message b": lambda ctx, thread: ctx.receive("b", "1h", name="x"),
}


@pytest.mark.parametrize("thread", [False, True], ids=["async", "thread"])
async def test_what_is_compared(app: App, conn: Conn, thread: bool) -> None:
    """All rows at once, each a job: one run of the code as it was, one of the code as it is now."""
    rows = [row for row in COMPARED if row[0] != "any"]
    deployed = False

    def verb(ctx: Context, row: int) -> Any:
        return VERBS[rows[row][int(deployed)]](ctx, thread)

    if thread:

        @app.task(name="t", max_retries=5, backoff=3600)
        def task(ctx: Context, row: int) -> None:
            verb(ctx, row)
            if not deployed:
                raise ValueError("not deployed yet")
    else:

        @app.task(name="t", max_retries=5, backoff=3600)
        async def task(ctx: Context, row: int) -> None:
            await verb(ctx, row)
            if not deployed:
                raise ValueError("not deployed yet")

    jobs = [task.enqueue(n).id for n in range(len(rows))]
    await drain(app)
    began = dict(conn.execute("select job_id, wakes_at from pgqueue.steps").fetchall())
    assert began.keys() == set(jobs)
    CALLS.clear()
    deployed = True
    await again(app, conn)
    assert CALLS == [], "nothing is called"
    now = dict(conn.execute("select job_id, wakes_at from pgqueue.steps").fetchall())
    assert now == began
    for job_id, (stored, code, happens) in zip(jobs, rows, strict=True):
        job = app.client.job(job_id)
        about = (stored, code, job.last_error)
        if happens == "`StepChanged`":
            assert job.status is Status.DEAD, about
            assert job.attempt <= 2, about
            assert f"{StepChanged.__module__}.StepChanged: " in str(job.last_error), about
            assert "'x'" in str(job.last_error), about
            assert f"pgqueue retry {job_id} --from-step 'x'" in str(job.last_error), about
        elif happens == "what is stored":
            assert job.status is Status.SUCCEEDED, about
        else:
            assert happens in ("goes on as it began", "the same wait"), about
            assert job.status is Status.PENDING, about


async def test_what_the_code_has_no_more_counts_for_nothing(app: App, conn: Conn) -> None:
    assert ("any", "nothing of this name", "it stays stored, and counts for nothing") in COMPARED
    old = True

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        if old:
            await ctx.sleep(0, name="nap")
            await ctx.step("x", text)
            await ctx.wait_for_event("a")

    task.enqueue()
    await drain(app)
    old = False
    await again(app, conn)
    assert status(conn) == "succeeded"
    assert names(conn) == ["nap", "x"]


def test_sql_compares_as_well(conn: Conn) -> None:
    """Whoever calls the functions, and whatever comes between the look and the act."""
    conn.execute(
        "insert into pgqueue.jobs (task, status, claim_id, claimed_at)"
        " values ('t', 'running', '00000000-0000-0000-0000-000000000001', now())"
    )
    calls = {
        "step": "save_step(1, '00000000-0000-0000-0000-000000000001', 'x', '1')",
        "sleep": "start_sleep(1, '00000000-0000-0000-0000-000000000001', 'x', 60)",
        "wait": "await_event(1, '00000000-0000-0000-0000-000000000001', 'x', '{a}', 60)",
        "other": "await_event(1, '00000000-0000-0000-0000-000000000001', 'x', '{a,b}', 60)",
        "message": "await_event(1, '00000000-0000-0000-0000-000000000001', 'x', '{a}', 60, true)",
    }
    for first in calls:
        for second in calls:
            conn.execute("delete from pgqueue.steps")
            conn.execute(f"select * from pgqueue.{calls[first]}".encode())
            if first == second:
                conn.execute(f"select * from pgqueue.{calls[second]}".encode())
                continue
            with pytest.raises(psycopg.Error, match="step 'x' of job 1 is stored as") as refused:
                conn.execute(f"select * from pgqueue.{calls[second]}".encode())
            assert refused.value.sqlstate == "PQ002"


# Steps at once.


class Effects:
    """Functions of steps that note that they were called, and some that stand still until they are let go."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.go = asyncio.Event()
        self.go_threads = threading.Event()

    async def quick(self, name: str) -> str:
        self.done.append(name)
        return name

    async def slow(self, name: str) -> str:
        self.done.append(name)
        await self.go.wait()
        return name

    async def fails(self, name: str) -> None:
        self.done.append(name)
        asyncio.get_running_loop().call_later(0.05, self.go.set)  # after what comes of the error
        raise ValueError(name)

    def quick_here(self, name: str) -> str:
        self.done.append(name)
        return name

    def slow_here(self, name: str) -> str:
        self.done.append(name)
        assert self.go_threads.wait(20)
        return name

    def fails_here(self, name: str) -> None:
        self.done.append(name)
        threading.Timer(0.05, self.go_threads.set).start()
        raise ValueError(name)


@case("beside", "two steps")
async def _(app: App, conn: Conn) -> None:
    effects, got = Effects(), []

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        got.append(
            await asyncio.gather(*(ctx.step(f"s{n}", effects.quick, f"s{n}") for n in range(20)))
        )
        if ctx.attempt == 1:
            raise ValueError

    @app.task(name="thread")
    def thread(ctx: Context) -> None:
        with ThreadPoolExecutor(8) as pool:
            got.append(
                list(pool.map(lambda n: ctx.step(f"s{n}", effects.quick_here, f"s{n}"), range(20)))
            )
        if ctx.attempt == 1:
            raise ValueError

    task.enqueue()
    thread.enqueue()
    await drain(app)
    await again(app, conn)
    assert got == [[f"s{n}" for n in range(20)]] * 4
    assert len(effects.done) == 40
    assert set(statuses(conn).values()) == {"succeeded"}


@case("beside", "a step and a wait", "a step and a sleep")
async def _(app: App, conn: Conn) -> None:
    effects, got = Effects(), []

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context, verb: str) -> None:
        asyncio.get_running_loop().call_later(0.05, effects.go.set)
        suspends = ctx.sleep("1h") if verb == "sleep" else ctx.wait_for_event("go")
        got.append(await asyncio.gather(ctx.step("slow", effects.slow, f"slow {verb}"), suspends))

    @app.task(name="thread", max_retries=0)
    def thread(ctx: Context, verb: str) -> None:
        threading.Timer(0.05, effects.go_threads.set).start()
        with ThreadPoolExecutor() as pool:
            step = pool.submit(ctx.step, "slow", effects.slow_here, f"slow {verb}")
            waits = (
                pool.submit(ctx.sleep, "1h")
                if verb == "sleep"
                else pool.submit(ctx.wait_for_event, "go")
            )
            got.append([step.result(), waits.result()])

    for verb in ("sleep", "wait"):
        task.enqueue(verb)
        thread.enqueue(verb)
    await drain(app)
    assert set(statuses(conn).values()) == {"pending"}
    assert names(conn) == ["slow"] * 4
    app.emit("go", 1)
    pass_time(conn)
    await again(app, conn)
    assert set(statuses(conn).values()) == {"succeeded"}
    assert sorted(effects.done) == ["slow sleep"] * 2 + ["slow wait"] * 2
    assert sorted(map(str, got)) == sorted(["['slow sleep', None]"] * 2 + ["['slow wait', 1]"] * 2)


@case("beside", "steps one after the other, and a wait")
async def _(app: App, conn: Conn) -> None:
    effects, got = Effects(), []

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> None:
        async def branch() -> list[str]:
            done = []
            for n in range(3):
                done.append(await ctx.step(f"s{n}", effects.quick, f"s{n}"))
                await asyncio.sleep(0.02)
            return done

        got.append(await asyncio.gather(ctx.wait_for_event("go"), branch()))

    task.enqueue()
    await drain(app)
    assert names(conn) == ["s0", "s1", "s2"]
    assert status(conn) == "pending"
    app.emit("go", 1)
    await again(app, conn)
    assert got == [[1, ["s0", "s1", "s2"]]]
    assert effects.done == ["s0", "s1", "s2"]


@case(
    "beside",
    "a step that fails, and one that goes on",
    "a step that fails, and one that goes on, in a TaskGroup",
)
async def _(app: App, conn: Conn) -> None:
    effects, got = Effects(), []
    broken = True

    def bad(ctx: Context) -> Any:
        return ctx.step("bad", effects.fails if broken else effects.quick, "bad")

    @app.task(name="gather", max_retries=3, backoff=3600)
    async def gathered(ctx: Context) -> None:
        got.append(await asyncio.gather(bad(ctx), ctx.step("slow", effects.slow, "slow")))

    @app.task(name="group", max_retries=3, backoff=3600)
    async def grouped(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(each)
                for each in (bad(ctx), ctx.step("slow", effects.slow, "slow"))
            ]
        got.append([task.result() for task in tasks])

    @app.task(name="thread", max_retries=3, backoff=3600)
    def thread(ctx: Context) -> None:
        pool = ThreadPoolExecutor()
        slow = pool.submit(ctx.step, "slow", effects.slow_here, "slow")
        while "slow" not in effects.done:
            effects.go_threads.wait(0.01)
        got.append(
            [
                ctx.step("bad", effects.fails_here if broken else effects.quick_here, "bad"),
                slow.result(),
            ]
        )

    for each in (gathered, grouped, thread):
        effects.done.clear()
        effects.go.clear()
        effects.go_threads.clear()
        broken = True
        got.clear()
        job = each.enqueue().id
        await drain(app)
        assert names(conn) == ["slow"], each.name
        assert app.client.job(job).status is Status.PENDING
        broken = False
        await again(app, conn)
        assert app.client.job(job).status is Status.SUCCEEDED
        assert sorted(effects.done) == ["bad", "bad", "slow"]
        assert got == [["bad", "slow"]]
        conn.execute("delete from pgqueue.jobs")
        conn.execute("delete from pgqueue.steps")


@case("beside", "a step in `asyncio.timeout`")
async def _(app: App, conn: Conn) -> None:
    effects, got = Effects(), []

    @app.task(name="t", max_retries=3, backoff=3600)
    async def task(ctx: Context) -> None:
        async with asyncio.timeout(None) as limit:

            async def slow() -> str:
                limit.reschedule(0)  # over, now that the step has begun
                return await effects.slow("slow")

            asyncio.get_running_loop().call_later(0.05, effects.go.set)
            got.append(await ctx.step("slow", slow))

    task.enqueue()
    await drain(app)
    assert "TimeoutError" in str(app.client.job(1).last_error)
    assert names(conn) == ["slow"]

    async def patient(ctx: Context) -> None:
        got.append(await ctx.step("slow", effects.slow, "slow"))

    other = App(app.dsn)
    other.task(name="t")(patient)
    await again(other, conn)
    await other.aclose()
    assert (got, effects.done) == (["slow"], ["slow"])


@case("beside", "two waits", "two waits with `return_exceptions=True`")
async def _(app: App, conn: Conn) -> None:
    got: list[Any] = []

    @app.task(name="gather", max_retries=0)
    async def gathered(ctx: Context) -> None:
        got.append(await asyncio.gather(ctx.wait_for_event("a"), ctx.wait_for_event("b")))

    @app.task(name="exceptions", max_retries=0)
    async def exceptions(ctx: Context) -> None:
        got.append(
            await asyncio.gather(
                ctx.wait_for_event("a"), ctx.wait_for_event("b"), return_exceptions=True
            )
        )

    @app.task(name="group", max_retries=0)
    async def grouped(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.wait_for_event(each)) for each in ("a", "b")]
        got.append([task.result() for task in tasks])

    @app.task(name="threads", max_retries=0)
    def threads(ctx: Context) -> None:
        with ThreadPoolExecutor() as pool:
            got.append(list(pool.map(ctx.wait_for_event, ["a", "b"])))

    for each in (gathered, exceptions, grouped, threads):
        each.enqueue()
    await drain(app)
    assert set(statuses(conn).values()) == {"pending"}
    app.emit("b", 2)
    await drain(app)
    assert set(statuses(conn).values()) == {"pending"}
    assert got == []
    assert set(names(conn)) == {"event b"}  # a run may suspend before it has stored it
    app.emit("a", 1)
    await drain(app)
    assert got == [[1, 2]] * 4
    assert set(statuses(conn).values()) == {"succeeded"}


@case("beside", "two waits with `asyncio.wait(..., FIRST_COMPLETED)`")
async def _(app: App, conn: Conn) -> None:
    got: list[Any] = []

    async def first_of(ctx: Context) -> tuple[Any, set[Any]]:
        tasks = [asyncio.create_task(ctx.wait_for_event(each)) for each in ("a", "b")]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        (one,) = done if len(done) == 1 else (next(iter(done)),)
        return one, pending

    @app.task(name="by result", max_retries=0, result=True)
    async def by_result(ctx: Context) -> str:
        one, pending = await first_of(ctx)
        payload = one.result()
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

        async def book() -> str:
            return f"booked {payload}"

        got.append(await ctx.step("book", book))
        return str(payload)

    @app.task(name="by exception", max_retries=0, result=True)
    async def by_exception(ctx: Context) -> str:
        one, _ = await first_of(ctx)
        return str(one.exception() or one.result())

    jobs = [by_result.enqueue(), by_exception.enqueue()]
    await drain(app)
    assert set(statuses(conn).values()) == {"pending"}, "neither took a suspension for a value"
    app.emit("b", 2)
    await drain(app)
    assert set(statuses(conn).values()) == {"succeeded"}
    assert got == ["booked 2"]
    assert [job.result() for job in jobs] == ["2", "2"]


@case("beside", '`wait_for_event(["a", "b"])`')
async def _(app: App, conn: Conn) -> None:
    got: list[Any] = []

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> None:
        first = await ctx.wait_for_event(["a", "b"], "1h")
        assert isinstance(first, Event)
        got.append((first.name, first.payload))
        got.append(await ctx.wait_for_event("a"))

    @app.task(name="thread", max_retries=0)
    def thread(ctx: Context) -> None:
        got.append(tuple(ctx.wait_for_event(["a", "b"], "1h", name="first")))
        got.append(ctx.wait_for_event("a"))

    task.enqueue()
    thread.enqueue()
    await drain(app)
    assert set(statuses(conn).values()) == {"pending"}
    app.emit("b", {"n": 2})
    app.emit("a", 1)
    await drain(app)
    assert sorted(map(str, got)) == ["('b', {'n': 2})"] * 2 + ["1"] * 2
    assert set(statuses(conn).values()) == {"succeeded"}
    for bad in ([], ["a", ""], ["x" * 201], [f"{n:050}" for n in range(6)]):
        with pytest.raises(ConfigError):
            Context(claimed(), schema="pgqueue", connect=none, aconnect=none).wait_for_event(bad)


def none(**_: object) -> Any: ...


def claimed() -> Any:
    from pgqueue.testing import context

    return context()._job


@case("beside", "a wait and a sleep with `FIRST_COMPLETED`")
async def _(app: App, conn: Conn) -> None:
    got: list[str] = []

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context, event: str) -> None:
        tasks = {
            asyncio.create_task(ctx.wait_for_event(event)): "event",
            asyncio.create_task(ctx.sleep("1h")): "sleep",
        }
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
            got.append(f"{event} {tasks[each]}")

    task.enqueue("came")
    task.enqueue("late")
    await drain(app)
    assert set(statuses(conn).values()) == {"pending"}
    app.emit("came")
    await drain(app)
    assert got == ["came event"]
    conn.execute("update pgqueue.steps set wakes_at = clock_timestamp() where kind = 'sleep'")
    await again(app, conn)
    assert got == ["came event", "late sleep"]


@case("beside", "a task that was left running")
async def _(app: App, conn: Conn) -> None:
    effects, after = Effects(), []
    kept: list[Any] = []

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> None:
        async def left() -> None:
            await ctx.step("slow", effects.slow, "slow")
            after.append("step")
            await ctx.step("next", effects.quick, "next")
            await asyncio.sleep(60)
            after.append("end")

        kept.append(asyncio.create_task(left()))
        while "slow" not in effects.done:
            await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(0.05, effects.go.set)

    @app.task(name="thread", max_retries=0)
    def thread(ctx: Context) -> None:
        def left() -> None:
            ctx.step("slow", effects.slow_here, "slow here")
            ctx.step("next", effects.quick_here, "next")

        kept.append(ThreadPoolExecutor(1).submit(left))
        while "slow here" not in effects.done:
            effects.go_threads.wait(0.01)
        threading.Timer(0.05, effects.go_threads.set).start()

    task.enqueue()
    thread.enqueue()
    await drain(app)
    assert set(statuses(conn).values()) == {"succeeded"}
    assert names(conn) == ["slow", "slow"]
    assert kept[0].cancelled() if isinstance(kept[0], asyncio.Task) else kept[1].cancelled()
    refused = next(each for each in kept if not isinstance(each, asyncio.Task))
    assert "its job has ended" in str(refused.exception())
    assert "end" not in after


@case("beside", "the job is cancelled or its time is over")
async def _(app: App, conn: Conn) -> None:
    effects = Effects()
    ended: list[str] = []

    async def stands() -> None:
        effects.done.append("began")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    @app.task(name="late", max_retries=0, timeout="0.2s")
    async def late(ctx: Context) -> None:
        await asyncio.gather(ctx.step("a", stands), ctx.step("b", stands))

    @app.task(name="cancelled", max_retries=0)
    async def cancelled(ctx: Context) -> None:
        await asyncio.gather(ctx.step("a", stands), ctx.step("b", stands))

    late.enqueue()
    await drain(app)
    began = len(effects.done)
    assert ended == ["cancelled"] * began
    assert "TimeoutError" in str(app.client.job(1).last_error)
    other = cancelled.enqueue().id
    async with working(app, concurrency=2, lease=3):
        await eventually_async(lambda: len(effects.done) == began + 2)
        await app.aclient.cancel(other)
        await eventually_async(lambda: app.client.job(other).status is Status.CANCELLED)
    assert ended == ["cancelled"] * (began + 2)


# When an event counts.


class Waits:
    """A task that waits for the event ``go``, 1 h at most, after what is given."""

    def __init__(self, app: App, before: Callable[[Context], Awaitable[Any]] | None = None) -> None:
        self.got: list[Any] = []
        self.runs = 0
        self.app = app

        @app.task(name="t", max_retries=3, backoff=3600)
        async def task(ctx: Context) -> None:
            self.runs += 1
            if before is not None:
                await before(ctx)
            self.got.append(await ctx.wait_for_event("go", "1h"))

        self.task = task


@case("emitted", "before the job was enqueued")
async def _(app: App, conn: Conn) -> None:
    waits = Waits(app)
    app.emit("go", 1)
    waits.task.enqueue()
    await drain(app)
    await drain(app)
    assert (waits.got, waits.runs, status(conn)) == ([], 1, "pending")


@case(
    "emitted",
    "after the job was enqueued, before its first run",
    "in the transaction that enqueues the job, after it",
)
async def _(app: App, conn: Conn) -> None:
    waits = Waits(app)
    waits.task.enqueue()
    app.emit("go", 1)
    await drain(app)
    assert (waits.got, waits.runs) == ([1], 1)
    with conn.transaction():
        app.emit("go", 2, on=conn)
        waits.task.on(conn).enqueue()
        app.emit("go", 3, on=conn)
    await drain(app)
    assert (waits.got, waits.runs) == ([1, 3], 2)


@case("emitted", "while the job runs, before it comes to the wait")
async def _(app: App, conn: Conn) -> None:
    async def emits(ctx: Context) -> None:
        await app.aemit("go", 1)

    waits = Waits(app, emits)
    waits.task.enqueue()
    await drain(app)
    assert (waits.got, waits.runs) == ([1], 1)


@case(
    "emitted",
    "while the job waits",
    "while the job waits, by a transaction that is rolled back",
    "while the job waits, and is cancelled",
)
async def _(app: App, conn: Conn) -> None:
    waits = Waits(app)
    jobs = [waits.task.enqueue().id for _ in range(2)]
    await drain(app)
    with pytest.raises(ValueError, match="back"), conn.transaction():
        app.emit("go", 1, on=conn)
        raise ValueError("back")
    await drain(app)
    assert waits.runs == 2
    await app.aclient.cancel(jobs[0])
    app.emit("go", 2)
    await drain(app)
    assert (waits.got, waits.runs) == ([2], 3)
    assert statuses(conn) == {jobs[0]: "cancelled", jobs[1]: "succeeded"}


@case("emitted", "while the job waits for it in parallel with others")
async def _(app: App, conn: Conn) -> None:
    got: list[Any] = []

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> None:
        got.append(
            await asyncio.gather(
                ctx.wait_for_event("a"), ctx.sleep("1h"), ctx.wait_for_event(["b", "c"])
            )
        )

    task.enqueue()
    await drain(app)
    for event in ("c", "a"):
        app.emit(event, event)
        assert conn.execute("select run_at <= now() from pgqueue.jobs").fetchone() == (True,), event
        await drain(app)
    assert names(conn) == ["event a", "event b or c"]
    pass_time(conn)
    await again(app, conn)
    assert got == [["a", None, ("c", "c")]]


@case("emitted", "during the backoff of a retry")
async def _(app: App, conn: Conn) -> None:
    """The wait stands beside what failed; or an earlier run came to it, and the last one failed before."""
    broken = False

    async def fails() -> None:
        if broken:
            raise ValueError

    async def before(ctx: Context) -> None:
        if broken:
            raise ValueError

    waits = Waits(app, before)

    @app.task(name="beside", max_retries=3, backoff=3600)
    async def beside(ctx: Context) -> None:
        waits.runs += 1
        got = await asyncio.gather(ctx.wait_for_event("go", "1h"), ctx.step("fails", fails))
        waits.got.append(got[0])

    waits.task.enqueue()
    await drain(app)
    broken = True
    beside.enqueue()
    await again(app, conn)
    waits.runs = 0
    app.emit("go", 1)
    await _delivered(app, conn)
    await drain(app)
    assert waits.runs == 0, "the backoff goes on"
    broken = False
    await again(app, conn)
    assert (waits.got, waits.runs) == ([1, 1], 2)


@case("emitted", "during a sleep that comes before the wait")
async def _(app: App, conn: Conn) -> None:
    waits = Waits(app, lambda ctx: ctx.sleep("1h"))
    waits.task.enqueue()
    await drain(app)
    app.emit("go", 1)
    await _delivered(app, conn)
    await drain(app)
    assert waits.runs == 1
    pass_time(conn)
    await again(app, conn)
    assert (waits.got, waits.runs) == ([1], 2)


@case("emitted", "for a wait of older code that the last run did not come to")
async def _(app: App, conn: Conn) -> None:
    old, runs = True, 0

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> None:
        nonlocal runs
        runs += 1
        await ctx.wait_for_event("old" if old else "new")

    task.enqueue()
    await drain(app)
    old = False
    await again(app, conn)
    for n in range(3):
        app.emit("old", n)
        await _delivered(app, conn)
        await drain(app)
    assert runs == 2
    app.emit("new")
    await drain(app)
    assert (runs, status(conn)) == (3, "succeeded")


async def _delivered(app: App, conn: Conn) -> None:
    """Nothing is left to deliver, and nobody was woken by what there was."""
    assert app.client._run(steps.to_wake(), None) == []
    assert app.client._run(steps.deliver(), None) == 0
    app.client._run(steps.mark_delivered(), None)
    assert conn.execute(
        "select count(*) from pgqueue.events where delivered_at is null"
    ).fetchone() == (0,)


@case("emitted", "after the timeout was noticed by a run")
async def _(app: App, conn: Conn) -> None:
    got: list[Any] = []

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> None:
        try:
            await ctx.wait_for_event("go", "1h")
        except TimeoutError as error:
            got.append(str(error))
        got.append(await ctx.wait_for_event("go", name="again"))

    task.enqueue()
    await drain(app)
    pass_time(conn)
    await again(app, conn)
    app.emit("go", 1)
    await drain(app)
    assert got == ["event 'go' did not come in time"] * 2 + [1]


@case("emitted", "when it was had by another wait of this job")
async def _(app: App, conn: Conn) -> None:
    got: list[Any] = []

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> None:
        got.append(await ctx.wait_for_event(["go", "other"]))
        got.append(await ctx.wait_for_event("go", name="again"))

    task.enqueue()
    app.emit("go", 1)
    await drain(app)
    app.client._run(steps.deliver(), None)
    await drain(app)
    assert got == [("go", 1)]
    app.emit("go", 2)
    await drain(app)
    assert got == [("go", 1), ("go", 1), 2]


@case("emitted", "as a message to another job", "as an event, where a message is received")
async def _(app: App, conn: Conn) -> None:
    got: list[Any] = []
    runs = 0

    @app.task(name="receives", max_retries=0)
    async def task(ctx: Context) -> None:
        nonlocal runs
        runs += 1
        got.append((ctx.id, await ctx.receive("go", "1h")))

    @app.task(name="thread", max_retries=0)
    def thread(ctx: Context) -> None:
        nonlocal runs
        runs += 1
        got.append((ctx.id, ctx.receive("go", "1h")))

    waits = Waits(app)
    one, other, third = task.enqueue().id, thread.enqueue().id, waits.task.enqueue().id
    await drain(app)
    app.send(one, "other", 0)
    app.emit("go", 1)
    await drain(app)
    assert (runs, waits.got) == (2, [1])
    await app.asend(one, "go", 2)
    await drain(app)
    assert (runs, got) == (3, [(one, 2)])
    with pytest.raises(ValueError, match="back"), conn.transaction():
        app.send(other, "go", 3, on=conn)
        raise ValueError("back")
    app.send(other, "go", {"n": 4})
    await drain(app)
    assert (runs, got) == (4, [(one, 2), (other, {"n": 4})])
    with pytest.raises(JobNotFound, match="no job 99"):
        app.send(99, "go")
    with pytest.raises(ConfigError, match="the name of a message"):
        app.send(third, "")


# What a retry does.


class Steps:
    """A dead job with the steps a, b, c, of which b is slept in between and c fails."""

    def __init__(self, app: App, conn: Conn) -> None:
        self.app, self.conn = app, conn
        self.done: list[str] = []
        self.broken = True

        async def note(name: str, value: int) -> int:
            self.done.append(f"{name}{value}")
            return value

        @app.task(name="t", max_retries=0)
        async def task(ctx: Context, value: int) -> None:
            await ctx.step("a", note, "a", value)
            await ctx.step("b", note, "b", value)
            await ctx.sleep(0, name="nap")
            await ctx.step("c", note, "c", value)
            if self.broken:
                raise ValueError

        self.task = task

    async def dead(self) -> int:
        job = self.task.enqueue(1).id
        await drain(self.app)
        assert self.app.client.job(job).status is Status.DEAD
        return job


@case("retried", "a run fails, and is retried", "a dead job is retried by hand")
async def _(app: App, conn: Conn) -> None:
    it = Steps(app, conn)
    job = await it.dead()
    for _ in range(2):
        assert await app.aclient.retry(job)
        await drain(app)
    assert it.done == ["a1", "b1", "c1"]
    assert conn.execute("select pgqueue.retry_job(%s)", [job]).fetchone() == (True,)
    assert conn.execute("select pgqueue.retry_job(%s)", [job]).fetchone() == (False,)
    it.broken = False
    await drain(app)
    assert (it.done, status(conn)) == (["a1", "b1", "c1"], "succeeded")


@case("retried", '`retry(id, from_step="name")`')
async def _(app: App, conn: Conn) -> None:
    it = Steps(app, conn)
    job = await it.dead()

    def by_sql() -> bool:
        row = conn.execute("select pgqueue.retry_job(%s, from_step => 'b')", [job]).fetchone()
        return row == (True,)

    ways: list[Callable[[], Any]] = [
        lambda: app.client.retry(job, from_step="b"),
        lambda: app.aclient.retry(job, from_step="b"),
        lambda: app.client.retry_many([job], from_step="b"),
        lambda: app.aclient.retry_many(None, Filter(), from_step="b"),
        by_sql,
    ]
    for way in ways:
        it.done.clear()
        done = way()
        assert await done if asyncio.iscoroutine(done) else done
        await drain(app)
        assert it.done == ["b1", "c1"]
        assert names(conn) == ["a", "b", "c", "nap"]


async def test_a_timeout_is_waited_for_again(app: App, conn: Conn) -> None:
    got: list[Any] = []

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> None:
        got.append(await ctx.wait_for_event("first"))
        got.append(await ctx.wait_for_event("go", "1h"))
        if len(got) < 6:
            raise ValueError

    job = task.enqueue().id
    app.emit("first", 0)
    await drain(app)
    pass_time(conn)
    await again(app, conn)
    assert app.client.job(job).status is Status.DEAD
    app.emit("go", 1)
    assert app.client.retry(job)
    await drain(app)
    assert app.client.job(job).status is Status.DEAD, "a timeout stays one"
    assert app.client.retry(job, from_step="event go")
    await drain(app)
    assert got[-2:] == [0, 1]
    assert app.client.retry(job, from_step="event first")
    await drain(app)
    assert got[-2:] == [0, 1], "what was had counts again"
    assert app.client.job(job).status is Status.SUCCEEDED


@case("retried", '`retry(id, from_step="name")`, and there is no such step')
async def _(app: App, conn: Conn) -> None:
    it = Steps(app, conn)
    job = await it.dead()
    with pytest.raises(StepNotFound, match=r"job 1 has no step 'd'; it has: 'a', 'b', 'nap', 'c'"):
        app.client.retry(job, from_step="d")
    with pytest.raises(StepNotFound, match="job 1 has no step 'd'"):
        await app.aclient.retry(job, from_step="d", args={"value": 2})
    with pytest.raises(psycopg.Error, match="job 1 has no step 'd'; it has: 'a', 'b'") as refused:
        conn.execute("select pgqueue.retry_job(1, from_step => 'd')")
    assert refused.value.sqlstate == "PQ004"
    assert app.client.job(job).status is Status.DEAD
    assert names(conn) == ["a", "b", "c", "nap"]


@case("retried", '`retry_many(ids, from_step="name")`')
async def _(app: App, conn: Conn) -> None:
    it = Steps(app, conn)

    @app.task(name="plain", max_retries=0)
    async def plain() -> None:
        raise ValueError

    job, other = await it.dead(), plain.enqueue().id
    await drain(app)
    assert app.client.retry_many([job, other], from_step="b") == [job]
    assert app.client.job(other).status is Status.DEAD


@case("retried", "`retry(id, args=...)`", '`retry(id, args=..., from_step="name")`')
async def _(app: App, conn: Conn) -> None:
    it = Steps(app, conn)
    job = await it.dead()
    with pytest.warns(UserWarning, match="job 1 runs with other arguments, and keeps .* 'a', 'b'"):
        assert app.client.retry(job, args={"value": 2})
    await drain(app)
    with pytest.warns(UserWarning, match="job 1 runs with other arguments"):
        assert await app.aclient.retry(job, args={"value": 3})
    await drain(app)
    assert it.done == ["a1", "b1", "c1"]
    assert app.client.retry(job, args={"value": 3}), "the same: no warning"
    await drain(app)
    assert app.client.retry(job, args={"value": 4}, from_step="b")
    await drain(app)
    assert it.done == ["a1", "b1", "c1", "b4", "c4"]


@case("retried", "a job is pruned or cleared")
async def _(app: App, conn: Conn) -> None:
    it = Steps(app, conn)
    await it.dead()
    assert app.client.clear(Filter(), status=Status.DEAD)
    assert names(conn) == []
