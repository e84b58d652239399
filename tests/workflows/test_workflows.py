"""Jobs that wait for jobs: order, results handed on, failures, and nothing half enqueued."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import psycopg
import pytest

from pgqueue import App, ArgumentsError, ConfigError, Context, Dead, Job, JobFailed, Secret
from pgqueue.job import NewJob, Status
from tests.support import drain, eventually_async, make_due, statuses, working


@pytest.fixture
def ran(app: App) -> list[str]:
    """The names of jobs in the order they ran; ``note`` and ``fail`` are the tasks."""
    names: list[str] = []

    @app.task(name="note")
    async def note(name: str, value: int = 0) -> int:
        names.append(name)
        return value + 1

    @app.task(name="fail", max_retries=0)
    async def fail(name: str) -> None:
        names.append(name)
        raise Dead(name)

    return names


def note(app: App, name: str, value: Any = 0) -> NewJob:
    return app.tasks["note"].options.new_job(
        "note", app.tasks["note"].signature.encode("note", (name, value), {})
    )


def fail(app: App, name: str) -> NewJob:
    return app.tasks["fail"].options.new_job("fail", f'{{"name": "{name}"}}')


async def test_a_chain_runs_in_order_and_hands_results_on(app: App, ran: list[str]) -> None:
    flow = app.workflow("counting")
    first = flow.add(note(app, "a", 10))
    second = first.then(note(app, "b", first.result))
    last = second.then(note(app, "c", second.result))
    enqueued = await flow.aenqueue()
    await drain(app)
    assert ran == ["a", "b", "c"]
    assert await enqueued[last].aresult("5s") == 13
    row = app.client.workflow(enqueued.id)
    assert (row.name, row.status, row.jobs, row.succeeded) == ("counting", "succeeded", 3, 3)
    assert row.finished_at is not None


async def test_fan_out_and_fan_in(app: App, ran: list[str]) -> None:
    @app.task(name="sum")
    def total(parts: list[int], more: dict[str, int]) -> int:
        ran.append("sum")
        return sum(parts) + more["x"]

    flow = app.workflow()
    start = flow.add(note(app, "start"))
    parts = [start.then(note(app, f"part {n}", n)) for n in range(5)]
    end = flow.add(total.call([p.result for p in parts], {"x": start.result}))
    enqueued = flow.enqueue()
    await drain(app)
    assert (ran[0], ran[-1], len(ran)) == ("start", "sum", 7)
    assert await enqueued[end].aresult("5s") == 1 + 2 + 3 + 4 + 5 + 1


async def test_in_the_callers_transaction(
    app: App, ran: list[str], conn: psycopg.Connection, dsn: str
) -> None:
    with psycopg.connect(dsn) as mine:
        app.chain(note(app, "a"), note(app, "b")).enqueue(on=mine)
        assert statuses(conn) == {}
        mine.rollback()
        app.chain(note(app, "a"), note(app, "b")).enqueue(on=mine)
        mine.commit()
    assert sorted(statuses(conn).values()) == ["blocked", "pending"]
    await drain(app)
    assert ran == ["a", "b"]


@pytest.mark.parametrize(
    ("policy", "after", "runs"),
    [("cancel", "cancelled", False), ("continue", "succeeded", True), ("hold", "blocked", False)],
)
async def test_what_becomes_of_those_after_a_failure(
    app: App, ran: list[str], conn: psycopg.Connection, policy: Any, after: str, runs: bool
) -> None:
    flow = app.workflow()
    bad, good = flow.add(fail(app, "bad")), flow.add(note(app, "good"))
    flow.add(note(app, "next"), after=[good, bad], if_failed=policy)
    flow.enqueue()
    await drain(app)
    assert list(statuses(conn).values()) == ["dead", "succeeded", after]
    assert ("next" in ran) == runs


async def test_a_held_job_runs_when_the_failed_one_is_retried(app: App) -> None:
    broken = True

    @app.task(name="repaired", max_retries=0)
    async def repaired() -> None:
        if broken:
            raise Dead("not yet")

    @app.task(name="then")
    async def then() -> None:
        pass

    flow = app.workflow()
    first = flow.add(repaired.call())
    second = flow.add(then.call(), after=first, if_failed="hold")
    enqueued = flow.enqueue()
    await drain(app)
    assert app.client.workflow(enqueued.id).status == "running"
    broken = False
    assert app.client.retry(enqueued[first].id)
    await drain(app)
    assert app.client.job(enqueued[second].id).status is Status.SUCCEEDED
    assert app.client.workflow(enqueued.id).status == "succeeded"


async def test_a_cancelled_chain_says_why_down_to_its_end(
    app: App, ran: list[str], conn: psycopg.Connection
) -> None:
    enqueued = app.chain(fail(app, "bad"), *(note(app, str(n)) for n in range(5))).enqueue()
    await drain(app)
    assert list(statuses(conn).values()) == ["dead"] + ["cancelled"] * 5
    first, second, third, *_ = enqueued.jobs
    assert app.client.job(second.id).last_error == f"ParentFailed: job {first.id} is dead"
    assert app.client.job(third.id).last_error == f"ParentFailed: job {second.id} is cancelled"
    assert app.client.workflow(enqueued.id).status == "dead"
    with pytest.raises(JobFailed):
        await second.aresult("5s")


@pytest.mark.parametrize("failing", [0, 1, 3])
async def test_the_callbacks_of_a_batch(app: App, ran: list[str], failing: int) -> None:
    jobs = [*(note(app, "ok") for _ in range(3)), *(fail(app, "bad") for _ in range(failing))]
    enqueued = app.batch(
        jobs,
        on_success=note(app, "all well"),
        on_failure=note(app, "alarm"),
        on_done=note(app, "sweep up"),
    ).enqueue()
    await drain(app)
    expected = {
        "ok": 3,
        "sweep up": 1,
        **({"alarm": 1, "bad": failing} if failing else {"all well": 1}),
    }
    assert Counter(ran) == expected
    assert app.client.workflow(enqueued.id).status == ("dead" if failing else "succeeded")


async def test_the_alarm_does_not_wait_for_the_rest(app: App, ran: list[str]) -> None:
    go_on = asyncio.Event()

    @app.task(name="slow")
    async def slow() -> None:
        await go_on.wait()

    app.batch([slow.call(), fail(app, "bad")], on_failure=note(app, "alarm")).enqueue()
    async with working(app, concurrency=5):
        await eventually_async(lambda: ran == ["bad", "alarm"])
        go_on.set()


async def test_the_result_of_a_failed_job_is_none(app: App, ran: list[str]) -> None:
    seen: list[int | None] = []

    @app.task(name="maybe")
    async def maybe(value: int | None) -> None:
        seen.append(value)

    flow = app.workflow()
    bad = flow.add(fail(app, "bad"))
    flow.add(maybe.call(bad.result), if_failed="continue")
    flow.enqueue()
    await drain(app)
    assert seen == [None]


async def test_a_result_that_does_not_fit_is_a_dead_job(app: App, ran: list[str]) -> None:
    @app.task(name="strict")
    async def strict(value: str) -> None:
        ran.append(value)

    flow = app.workflow()
    first = flow.add(note(app, "a"))
    last = first.then(strict.call(first.result))
    enqueued = flow.enqueue()
    await drain(app)
    row = app.client.job(enqueued[last].id)
    assert row.status is Status.DEAD
    assert (
        row.last_error
        == "ArgumentsError: the stored arguments do not fit: Expected `str`, got `int` - at `$.value`".replace(
            "`", "'"
        )
        or "Expected" in str(row.last_error)
    )
    assert ran == ["a"]


async def test_delay_counts_from_the_last_it_waits_for(
    app: App, ran: list[str], conn: psycopg.Connection
) -> None:
    flow = app.workflow()
    first = flow.add(note(app, "a"))
    delayed = NewJob("note", '{"name": "b"}', delay=3600.0, expires=60.0)
    first.then(delayed)
    enqueued = flow.enqueue()
    conn.execute(
        "update pgqueue.jobs set created_at = created_at - interval '1 day', run_at = run_at - interval '1 day', expires_at = expires_at - interval '1 day'"
    )
    await drain(app)
    row = app.client.job(enqueued.jobs[1].id)
    assert row.status is Status.PENDING
    assert (row.run_at - app.client.job(enqueued.jobs[0].id).finished_at).total_seconds() >= 3600  # type: ignore[operator]
    assert row.expires_at is not None
    assert (row.expires_at - row.run_at).total_seconds() == 60


async def test_a_whole_is_cancelled(app: App, ran: list[str], conn: psycopg.Connection) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    @app.task(name="long")
    async def long() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    enqueued = app.batch([long.call(), note(app, "x")], on_done=note(app, "done")).enqueue()
    async with working(app, concurrency=1, lease=1):
        await started.wait()
        assert app.client.cancel_workflow(enqueued.id) == 3
        await eventually_async(lambda: set(statuses(conn).values()) == {"cancelled"})
        await eventually_async(lambda: app.client.workflow(enqueued.id).status == "cancelled")
    assert ended.is_set()
    assert ran == []
    assert app.client.cancel_workflow(enqueued.id) == 0


async def test_a_whole_is_retried(app: App, ran: list[str], conn: psycopg.Connection) -> None:
    broken = True

    @app.task(name="mended", max_retries=0)
    async def mended() -> None:
        if broken:
            raise Dead("broken")

    flow = app.workflow()
    first = flow.add(note(app, "first"))
    bad = first.then(mended.call())
    bad.then(note(app, "second")).then(note(app, "third"))
    flow.add(note(app, "alarm"), after=bad, if_failed="only")
    enqueued = flow.enqueue()
    await drain(app)
    assert ran == ["first", "alarm"]
    broken = False
    assert app.client.retry_workflow(enqueued.id) == 3
    assert list(statuses(conn).values()) == [
        "succeeded",
        "pending",
        "blocked",
        "blocked",
        "succeeded",
    ]
    assert app.client.workflow(enqueued.id).finished_at is None
    await drain(app)
    assert ran == ["first", "alarm", "second", "third"]
    assert app.client.workflow(enqueued.id).status == "succeeded"
    assert app.client.retry_workflow(enqueued.id) == 0


async def test_of_a_job_class_a_thread_and_a_transaction(app: App, ran: list[str]) -> None:
    class Half(Job):
        number: int
        name = "half"

        async def handle(self, ctx: Context) -> float:
            async with ctx.transaction() as connection:
                await connection.execute("select 1")
            assert ctx.workflow_id is not None
            return self.number / 2

    flow = app.workflow()
    first = flow.add(app.dispatch(Half(3)).call())

    @app.task(name="thread")
    def thread(value: float) -> None:
        ran.append(str(value))

    first.then(thread.call(first.result))
    await flow.aenqueue()
    await drain(app)
    assert ran == ["1.5"]


async def test_rows_stay_until_the_whole_has_ended(
    app: App, ran: list[str], conn: psycopg.Connection
) -> None:
    flow = app.workflow()
    first = flow.add(note(app, "a", 4))
    assert first.result.name == "note"
    first.then(NewJob("note", '{"name": "b", "value": {"$result": "note"}}', delay=60.0))
    enqueued = flow.enqueue()
    await drain(app, keep_succeeded=0)
    assert list(statuses(conn).values()) == ["succeeded", "pending"]
    make_due(conn)
    async with working(app, keep_succeeded=0):
        await eventually_async(lambda: not statuses(conn), timeout=60)
    assert ran == ["a", "b"]
    assert app.client.workflows() == []
    for table in ("workflow_jobs", "dependencies", "workflows"):
        assert conn.execute(f"select count(*) from pgqueue.{table}".encode()).fetchone() == (0,)
    assert enqueued.name == ""


async def test_a_circle_is_refused_with_its_names(app: App, ran: list[str]) -> None:
    flow = app.workflow()
    a, b = flow.add(note(app, "a"), name="first"), flow.add(note(app, "b"), name="second")
    a.wait_for(b)
    enqueued = flow.enqueue()  # the other way round is fine
    await drain(app)
    assert ran == ["b", "a"]
    assert enqueued[a].id > enqueued[b].id
    b.wait_for(a)
    with pytest.raises(ConfigError, match=r"in a circle: (first|second) -> (first|second) -> "):
        flow.enqueue()


def test_what_is_refused(app: App, ran: list[str], conn: psycopg.Connection) -> None:
    @app.task(name="hidden")
    async def hidden(token: Secret[str], data: Any = None) -> None: ...

    flow, other = app.workflow(), app.workflow()
    node = flow.add(note(app, "a"), name="a")
    with pytest.raises(ConfigError, match="without jobs"):
        other.enqueue()
    with pytest.raises(ConfigError, match="is no job of this workflow"):
        other.add(note(app, "b"), after=node)
    with pytest.raises(ConfigError, match="the result of 'a', which is not in here"):
        other.add(note(app, "b", node.result))
    with pytest.raises(ConfigError, match="'a' is taken"):
        flow.add(note(app, "b"), name="a")
    with pytest.raises(ConfigError, match="cannot be unique"):
        flow.add(NewJob("t", "{}", key=("k", "finished", None, "ignore")))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="if_failed must be"):
        flow.add(note(app, "b"), if_failed="explode")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"takes what task\.call"):
        flow.add("note")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="takes the result of another job: add it to"):
        app.enqueue_many([note(app, "b", node.result)])
    with pytest.raises(ArgumentsError, match="is encrypted, so no result"):
        hidden.call(node.result)
    with pytest.raises(ArgumentsError, match=r"'\$result' is how results"):
        hidden.call("x", {"$result": "a"})
    with pytest.raises(ArgumentsError, match=r"'\$result' is how results"):
        app.tasks["note"].signature.encode(
            "note", ("n",), {"value": [node.result, {"$result": "b"}]}
        )
    with pytest.raises(ArgumentsError, match="Expected 'str', got 'int'"):
        app.tasks["note"].signature.encode("note", (5, node.result), {})
    with pytest.raises(ConfigError, match="at most 200"):
        app.workflow("x" * 201)
    assert statuses(conn) == {}


@pytest.mark.parametrize(
    ("jobs", "says"),
    [
        ("[]", "needs a JSON array of one job or more"),
        ("{}", "needs a JSON array of one job or more"),
        ('[{"task": ""}]', "job 1: task must have 1 to 200 characters"),
        ('[{"task": "t"}, {"task": "t", "after": [2]}]', "job 2: after must name jobs before it"),
        (
            '[{"task": "t", "after": [2]}, {"task": "t", "after": [1]}]',
            "job 1: after must name jobs",
        ),
        (
            '[{"task": "t"}, {"task": "t", "after": [null]}]',
            "job 2: after must name jobs before it",
        ),
        (
            '[{"task": "t", "if_failed": "x"}]',
            "job 1: if_failed must be cancel, continue, hold or only",
        ),
        ('[{"task": "t", "unique_key": "x"}]', "job 1: a job of a workflow cannot be unique"),
        (
            '[{"task": "t", "name": "x"}, {"task": "t", "name": "x"}]',
            "job 1: two jobs are named 'x'",
        ),
        ('[{"task": "t", "name": ""}]', "job 1: name must have 1 to 200 characters"),
    ],
)
def test_sql_refuses(conn: psycopg.Connection, jobs: str, says: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=says):
        conn.execute("select pgqueue.enqueue_workflow(%s)", [jobs])
    assert statuses(conn) == {}


async def test_in_plain_sql(app: App, ran: list[str], conn: psycopg.Connection) -> None:
    rows = conn.execute(
        """select * from pgqueue.enqueue_workflow('[
             {"task": "note", "args": {"name": "a", "value": 7}, "name": "first"},
             {"task": "note", "args": {"name": "b", "value": {"$result": "first"}}, "after": [1]}]', 'by hand')"""
    ).fetchall()
    assert [row[1] for row in rows] == [1, 2]
    await drain(app)
    assert ran == ["a", "b"]
    assert conn.execute(
        "select status from pgqueue.workflow_list where name = 'by hand'"
    ).fetchone() == ("succeeded",)
    assert conn.execute(
        "select result from pgqueue.jobs where id = %s", [rows[1][2]]
    ).fetchone() == (9,)
