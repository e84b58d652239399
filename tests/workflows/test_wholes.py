"""A workflow as a whole: cancelled, retried, kept and pruned."""

from __future__ import annotations

import asyncio

import psycopg

from pgqueue import App, Dead
from pgqueue.job import NewJob, Status
from pgqueue.operations import workflows
from tests.support import drain, eventually_async, make_due, statuses, working
from tests.workflows.support import fail, note


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


async def test_a_job_that_was_put_back_keeps_its_workflow(
    app: App, ran: list[str], conn: psycopg.Connection
) -> None:
    enqueued = app.chain(note(app, "good"), fail(app, "bad")).enqueue()
    await drain(app)
    conn.execute(
        "update pgqueue.jobs set status = 'pending' where id = %s", [enqueued.jobs[1].id]
    )  # by hand, and so not opened again
    old = workflows.prune(Status.DEAD, age=-1.0)
    assert app.client._run(old, None) == []
    conn.execute("update pgqueue.jobs set status = 'cancelled' where status = 'pending'")
    assert len(app.client._run(old, None)) == 2


def test_a_batch_takes_many_workflows_and_goes_on_in_the_last(
    app: App, ran: list[str], conn: psycopg.Connection
) -> None:
    for _ in range(4):
        app.batch([note(app, "a"), note(app, "b"), note(app, "c")]).enqueue()
    conn.execute(
        "update pgqueue.jobs set status = 'running';"
        "update pgqueue.jobs set status = 'succeeded', finished_at = now();"
        "update pgqueue.workflows set status = 'succeeded', finished_at = now() - interval '1 hour' + id * interval '1 second';"
        "update pgqueue.workflows set status = 'dead' where id = (select min(id) from pgqueue.workflows)"
    )
    first, *others = [
        row[0] for row in conn.execute("select id from pgqueue.workflows order by id")
    ]
    prune = workflows.prune(Status.SUCCEEDED, age=1.0, limit=4)
    assert app.client._run(prune, None) == [others[0]] * 3 + [others[1]]
    assert [w.id for w in app.client.workflows()] == [others[2], others[1], first]
    with psycopg.connect(conn.info.dsn, password=conn.info.password) as other:
        other.execute("select from pgqueue.workflows where id = %s for update", [others[1]])
        assert app.client._run(prune, None) == [others[2]] * 3, "a locked one holds up no other"
    conn.execute("delete from pgqueue.workflow_jobs where workflow_id = %s", [others[1]])
    assert app.client._run(prune, None) == [others[1]], "one without jobs goes as well"
    assert [w.id for w in app.client.workflows()] == [first], "by its own retention"
