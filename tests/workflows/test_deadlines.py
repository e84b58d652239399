"""The deadline of a workflow: the table of docs/rules/workflows.md, row by row, and every way in."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, ConfigError, Context, Status, WorkflowClosed
from pgqueue.cli import main
from pgqueue.operations import workflows
from tests.support import drain, eventually_async, make_due, working
from tests.workflows.rules import Cases

Connection = psycopg.Connection[Any]
RULES = Cases("When a workflow passes its deadline")
PAST = datetime(2026, 1, 1, tzinfo=UTC)


def test_every_row_has_a_case() -> None:
    assert RULES.tried == set(RULES.rows)


@pytest.mark.parametrize("row", RULES.rows)
async def test_rules(app: App, conn: Connection, row: str) -> None:
    await RULES.run(row, app, conn)


def passes(conn: Connection) -> None:
    """The deadlines are over now."""
    conn.execute("update pgqueue.workflows set deadline_at = clock_timestamp() - interval '1 s'")


def stops(app: App) -> None:
    """What a worker does, once."""
    app.client._run(workflows.expire(), None)


def became(app: App, workflow: int) -> dict[str, str]:
    return {job.name or job.task: job.status.value for job in app.client.workflow_jobs(workflow)}


def tasks(app: App) -> tuple[Any, Any]:
    @app.task(name="work", max_retries=0)
    async def work(fails: bool = False) -> None:
        if fails:
            raise ValueError

    @app.task(name="waits", max_retries=3, backoff=3600)
    async def waits(ctx: Context, how: str) -> None:
        if how == "sleep":
            await ctx.sleep("1h")
        if how == "event":
            await ctx.wait_for_event("never")
        raise ValueError

    return work, waits


@RULES.case("is blocked, or due, or waits for its time, a retry, a sleep or an event")
async def _(app: App, conn: Connection) -> None:
    work, waits = tasks(app)
    flow = app.workflow(deadline="1h")
    first = flow.add(work.with_delay("1d").call(), name="delayed")
    flow.add(work.call(), name="blocked", after=first)
    for how in ("retry", "sleep", "event"):
        flow.add(waits.call(how), name=how)
    run = flow.enqueue().id
    await drain(app)
    due = app.workflow(deadline="1h")
    due.add(work.call(), name="due")
    other = due.enqueue().id
    passes(conn)
    await drain(app)
    assert set(became(app, run).values()) | set(became(app, other).values()) <= {
        "cancelled",
        "succeeded",
    }
    assert set(became(app, run).values()) == {"cancelled"}
    for job in app.client.workflow_jobs(run):
        assert (job.last_error or "").startswith(f"DeadlinePassed: workflow {run} was to end by ")
    assert app.client.workflow(run).status == "expired"
    assert app.client.workflow(run).expired_at is not None


@RULES.case("runs")
async def _(app: App, conn: Connection) -> None:
    started: list[str] = []

    @app.task(name="long")
    async def long() -> None:
        started.append("async")
        await asyncio.sleep(60)

    @app.task(name="long here")
    def long_here(ctx: Context) -> None:
        started.append("thread")
        while True:
            ctx.check()

    flow = app.workflow(deadline="1h")
    both = [flow.add(long.call()), flow.add(long_here.call())]
    flow.add(long.call(), name="next", after=both)
    run = flow.enqueue().id
    async with working(app, lease="3s"):
        await eventually_async(lambda: len(started) == 2)
        await asyncio.to_thread(passes, conn)
        await eventually_async(lambda: app.client.workflow(run).status == "expired")
    assert became(app, run) == {"long": "cancelled", "long here": "cancelled", "next": "cancelled"}
    errors = [job.last_error for job in app.client.workflow_jobs(run)]
    assert errors[:2] == ["Cancelled: cancelled while it ran"] * 2


@RULES.case("runs, and is not stopped by that")
async def _(app: App, conn: Connection) -> None:
    @app.task(name="last")
    async def last() -> None:
        await asyncio.to_thread(passes, conn)
        await asyncio.to_thread(stops, app)

    run = app.chain(last.call(), last.call(), deadline="1h").enqueue().id
    await drain(app)
    assert [job.status.value for job in app.client.workflow_jobs(run)] == ["succeeded", "cancelled"]
    assert app.client.workflow(run).status == "expired"


@RULES.case("has ended")
async def _(app: App, conn: Connection) -> None:
    work, _ = tasks(app)
    flow = app.workflow(deadline="1h")
    flow.add(work.call(), name="good")
    flow.add(work.call(True), name="bad")
    flow.add(work.with_delay("1d").call(), name="late")
    run = flow.enqueue().id
    await drain(app)
    passes(conn)
    await drain(app)
    assert became(app, run) == {"good": "succeeded", "bad": "dead", "late": "cancelled"}
    assert app.client.workflow(run).status == "expired"


@RULES.case("is a callback of a batch, or runs for a failure")
async def _(app: App, conn: Connection) -> None:
    work, _ = tasks(app)
    late = work.with_delay("1d").call()
    call = work.call()
    run = (
        app.batch([late], on_success=call, on_failure=call, on_done=call, deadline="1h")
        .enqueue()
        .id
    )
    passes(conn)
    await drain(app)
    assert {job.status.value for job in app.client.workflow_jobs(run)} == {"cancelled"}


@RULES.case("of a workflow that has ended before")
async def _(app: App, conn: Connection) -> None:
    work, _ = tasks(app)
    run = app.chain(work.call(), deadline="1h").enqueue().id
    await drain(app)
    passes(conn)
    await drain(app)
    row = app.client.workflow(run)
    assert (row.status, row.expired_at) == ("succeeded", None)


@RULES.case("no worker ran at the moment")
async def _(app: App, conn: Connection) -> None:
    work, _ = tasks(app)
    run = app.chain(work.with_delay("1d").call(), deadline=PAST).enqueue().id
    assert app.client.workflow(run).status == "running"
    await drain(app)
    assert app.client.workflow(run).status == "expired"


@RULES.case("is retried by hand after it")
async def _(app: App, conn: Connection) -> None:
    work, _ = tasks(app)
    run = app.chain(work.with_delay("1d").call(), work.call(), deadline=PAST).enqueue()
    await drain(app)
    assert app.client.workflow(run.id).status == "expired"
    assert app.client.retry_workflow(run.id) == 2
    row = app.client.workflow(run.id)
    assert (row.status, row.deadline_at, row.expired_at) == ("running", None, None)
    await drain(app)
    assert app.client.workflow(run.id).status == "succeeded"
    other = app.chain(work.with_delay("1d").call(), deadline=PAST).enqueue()
    await drain(app)
    assert app.client.retry(other.jobs[0].id)
    await drain(app)
    assert app.client.workflow(other.id).status == "succeeded"


@RULES.case("is retried by hand before it")
async def _(app: App, conn: Connection) -> None:
    work, _ = tasks(app)
    run = app.chain(work.call(True), work.with_delay("1d").call(), deadline="1h").enqueue()
    await drain(app)
    assert app.client.retry(run.jobs[0].id, args={"fails": False})
    assert app.client.workflow(run.id).deadline_at is not None
    await drain(app)
    passes(conn)
    await drain(app)
    assert app.client.workflow(run.id).status == "expired"


@RULES.case("is added by a job that runs")
async def _(app: App, conn: Connection) -> None:
    work, _ = tasks(app)
    raised: list[str] = []

    @app.task(name="adds", max_retries=0)
    async def adds(ctx: Context) -> None:
        flow = app.workflow_of(ctx)
        flow.add(work.with_delay("1d").call(), name="before")
        await flow.aenqueue()
        await asyncio.to_thread(passes, conn)
        await asyncio.to_thread(stops, app)
        flow.add(work.call(), name="after")
        try:
            await flow.aenqueue(name="more")
        except WorkflowClosed as error:
            raised.append(str(error))

    run = app.chain(adds.call(), deadline="1h").enqueue().id
    await drain(app)
    assert became(app, run)["before"] == "cancelled"
    assert "after" not in became(app, run)
    assert len(raised) == 1


# Besides the table.


async def test_in_bounded_batches_from_the_last_job_on(app: App, conn: Connection) -> None:
    work, _ = tasks(app)
    flow = app.workflow(deadline=PAST)
    for n in range(10):
        flow.add(work.with_delay("1d").call(), name=str(n))
    run = flow.enqueue().id
    first = app.client._run(workflows.expire(limit=4), None)
    assert (len(first.cancelled), first.more) == (4, True)
    assert sorted(name for name, how in became(app, run).items() if how == "cancelled") == [
        "6",
        "7",
        "8",
        "9",
    ]
    second = app.client._run(workflows.expire(limit=4), None)
    third = app.client._run(workflows.expire(limit=4), None)
    assert (len(second.cancelled), len(third.cancelled), third.more) == (4, 2, False)
    assert conn.execute("select stopped_at from pgqueue.workflows").fetchone() == (None,)
    assert app.client._run(workflows.expire(limit=4), None).cancelled == []
    (stopped,) = conn.execute("select stopped_at from pgqueue.workflows").fetchone() or (None,)
    assert stopped is not None
    assert len({*first.cancelled, *second.cancelled, *third.cancelled}) == 10


async def test_a_locked_row_is_for_the_next_time(app: App, conn: Connection) -> None:
    work, _ = tasks(app)
    flow = app.workflow(deadline=PAST)
    for _ in range(3):
        flow.add(work.with_delay("1d").call())
    jobs = flow.enqueue().jobs
    with psycopg.connect(app.dsn) as other:
        other.execute("select from pgqueue.jobs where id = %s for update", [jobs[1].id])
        assert len(app.client._run(workflows.expire(), None).cancelled) == 2
        assert app.client._run(workflows.expire(), None).cancelled == []
        assert conn.execute("select stopped_at from pgqueue.workflows").fetchone() == (None,)
    assert app.client._run(workflows.expire(), None).cancelled == [jobs[1].id]


async def test_two_at_once_stop_each_job_once(app: App, conn: Connection) -> None:
    work, _ = tasks(app)
    for _ in range(5):
        flow = app.workflow(deadline=PAST)
        for _ in range(20):
            flow.add(work.with_delay("1d").call())
        flow.enqueue()
    found = await asyncio.gather(
        *(app.aclient._run(workflows.expire(limit=50), None) for _ in range(4))
    )
    more = [await app.aclient._run(workflows.expire(limit=50), None) for _ in range(3)]
    ids = [job for part in [*found, *more] for job in part.cancelled]
    assert len(ids) == len(set(ids)) == 100


async def test_other_workflows_go_on(app: App, conn: Connection) -> None:
    work, _ = tasks(app)
    ids = [
        app.chain(work.with_delay("1d").call(), deadline=deadline).enqueue().id
        for deadline in (None, timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1))
    ]
    await drain(app)
    assert [app.client.workflow(id).status for id in ids] == ["running"] * 3
    due = [app.client.workflow(id).deadline_at for id in ids]
    assert due[0] is None
    for each in due[1:]:
        assert each is not None
        assert timedelta(minutes=50) < each - datetime.now(UTC) < timedelta(minutes=61)


async def test_of_plain_sql_and_pruned(app: App, conn: Connection) -> None:
    tasks(app)
    jobs = json.dumps([{"task": "work", "delay": 3600}])
    conn.execute(
        "select pgqueue.enqueue_workflow(%s, 'late', deadline => now() - interval '1 h')", [jobs]
    )
    await drain(app)
    found = conn.execute(
        "select status, deadline_at < expired_at from pgqueue.workflow_list"
    ).fetchone()
    assert found == ("expired", True)
    assert [each.name for each in app.client.workflows(status="expired")] == ["late"]
    assert app.client._run(workflows.prune(Status.CANCELLED, age=0), None) == []
    await drain(app, keep_cancelled="0s")
    await eventually_async(
        lambda: (
            app.client.workflows() == [] or app.client._run(workflows.prune("expired", age=0), None)
        )
    )
    with pytest.raises(psycopg.Error, match="deadline must be from 1900-01-01"):
        conn.execute("select pgqueue.enqueue_workflow(%s, deadline => 'infinity')", [jobs])


@pytest.mark.parametrize("bad", [-1, "soon", datetime(2030, 1, 1), "400d", True])
def test_a_deadline_that_is_none_is_refused(app: App, bad: Any) -> None:
    for make in (app.workflow, lambda deadline: app.chain(deadline=deadline)):
        with pytest.raises(ConfigError, match="deadline"):
            make(deadline=bad)


async def test_the_command_shows_it(
    app: App, conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    work, _ = tasks(app)
    app.chain(work.with_delay("1d").call(), deadline="2h").enqueue()
    app.chain(work.with_delay("1d").call(), deadline=PAST).enqueue()
    await drain(app)
    for workflow, says in (
        (1, "running, 1 jobs; deadline in 1h"),
        (2, "expired, 1 jobs; its deadline passed "),
    ):
        with pytest.raises(SystemExit):
            main(["workflow", str(workflow), "--dsn", app.dsn])
        assert says in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["workflows", "--status", "expired", "--json", "--dsn", app.dsn])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["status"], row["id"]) == ("expired", 2)
    assert row["deadline_at"].startswith("2026-01-01T00:00:00")
    make_due(conn)


@pytest.mark.parametrize(("late", "status"), [(True, "expired"), (False, "succeeded")])
async def test_a_workflow_that_ends_before_a_worker_looks_at_its_deadline(
    app: App, conn: Connection, late: bool, status: str
) -> None:
    work, _ = tasks(app)
    run = app.chain(work.call(), work.call(), deadline="1h").enqueue().id
    first, second = (job.id for job in app.client.workflow_jobs(run))
    conn.execute("update pgqueue.workflows set deadline_at = now() - interval '1 minute'")
    for job, ago in ((first, "1 hour"), (second, "0 s" if late else "1 hour")):
        conn.execute("update pgqueue.jobs set status = 'running' where id = %s", [job])
        conn.execute(
            "update pgqueue.jobs set status = 'succeeded', finished_at = now() - %s::interval where id = %s",
            [ago, job],
        )
        conn.execute("select pgqueue.settle(array[%s::bigint])", [job])
    row = app.client.workflow(run)
    assert (row.status, row.expired_at is not None) == (status, late)
