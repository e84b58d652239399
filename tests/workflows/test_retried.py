"""A job of a workflow that is retried, whoever asks: the workflow is open again, and what was lost with the job comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from pgqueue import App, Dead
from pgqueue.cli import group
from pgqueue.job import Status
from tests.support import drain, eventually_async, statuses, working

Connection = psycopg.Connection[Any]


class Mendable:
    """Tasks: ``note`` succeeds, ``shaky`` is dead until ``broken`` is False."""

    def __init__(self, app: App) -> None:
        self.broken, self.ran = True, list[str]()

        @app.task(name="note")
        async def note(name: str) -> None:
            self.ran.append(name)

        @app.task(name="shaky", max_retries=0)
        async def shaky(name: str) -> None:
            if self.broken:
                raise Dead("broken")
            self.ran.append(name)

        self.note, self.shaky = note, shaky


@pytest.fixture
def tasks(app: App) -> Mendable:
    return Mendable(app)


def by_client(app: App, job_id: int) -> Any:
    return app.client.retry(job_id)


def by_many(app: App, job_id: int) -> Any:
    return app.client.retry_many([job_id]) == [job_id]


def by_filter(app: App, job_id: int) -> Any:
    return job_id in app.client.retry_many()


def by_command(*arguments: str) -> Callable[[App, int], Any]:
    def act(app: App, job_id: int) -> Any:
        line = ["retry", *(a.format(id=job_id) for a in arguments), "--dsn", app.dsn]
        return CliRunner().invoke(group, line, catch_exceptions=False).exit_code == 0

    return act


async def by_async_client(app: App, job_id: int) -> Any:
    return await app.aclient.retry(job_id)


async def by_async_many(app: App, job_id: int) -> Any:
    return await app.aclient.retry_many([job_id]) == [job_id]


async def with_arguments(app: App, job_id: int) -> Any:
    return await app.aclient.retry(job_id, args={"name": "bad"})


def on_a_connection(app: App, job_id: int) -> Any:
    with psycopg.connect(app.dsn) as mine:
        return app.client.retry(job_id, on=mine)


WAYS = {
    "client": by_client, "many": by_many, "filter": by_filter, "connection": on_a_connection,
    "async client": by_async_client, "async many": by_async_many, "arguments": with_arguments,
    "command by id": by_command("{id}"), "command by filter": by_command("--task", "shaky", "--yes"),
    "command for all": by_command("--all", "--yes"),
}  # fmt: skip


async def retried(way: str, app: App, job_id: int) -> None:
    done = WAYS[way](app, job_id)
    assert await done if asyncio.iscoroutine(done) else done


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_opens_the_workflow(app: App, tasks: Mendable, way: str) -> None:
    flow = app.workflow()
    first = flow.add(tasks.note.call("first"))
    bad = first.then(tasks.shaky.call("bad"))
    bad.then(tasks.note.call("second")).then(tasks.note.call("third"))
    flow.add(tasks.note.call("alarm"), after=bad, if_failed="only")
    flow.add(tasks.note.call("anyway"), after=bad, if_failed="continue")
    enqueued = flow.enqueue()
    await drain(app)
    assert app.client.workflow(enqueued.id).status == "dead"
    assert sorted(tasks.ran) == ["alarm", "anyway", "first"]
    tasks.broken = False
    await retried(way, app, enqueued[bad].id)
    row = app.client.workflow(enqueued.id)
    assert (row.status, row.finished_at, row.pending, row.blocked) == ("running", None, 1, 2)
    await drain(app)
    assert sorted(tasks.ran) == ["alarm", "anyway", "bad", "first", "second", "third"]
    row = app.client.workflow(enqueued.id)
    assert (row.status, row.succeeded) == ("succeeded", 6)
    assert row.finished_at is not None


async def test_the_callbacks_of_a_batch_come_after_the_retry(app: App, tasks: Mendable) -> None:
    enqueued = app.batch(
        [tasks.shaky.call("a"), tasks.shaky.call("b"), tasks.note.call("c")],
        on_success=tasks.note.call("all well"),
        on_failure=tasks.note.call("alarm"),
        on_done=tasks.note.call("over"),
    ).enqueue()
    await drain(app)
    assert sorted(tasks.ran) == ["alarm", "c", "over"]
    tasks.broken = False
    a, b = (job.id for job in enqueued.jobs[:2])
    assert app.client.retry(a)
    await drain(app)
    assert sorted(tasks.ran) == ["a", "alarm", "c", "over"], "one has failed still"
    assert app.client.workflow(enqueued.id).status == "dead"
    assert app.client.retry(b)
    await drain(app)
    assert sorted(tasks.ran) == ["a", "alarm", "all well", "b", "c", "over"]
    assert app.client.workflow(enqueued.id).status == "succeeded"


async def test_it_fails_again(app: App, tasks: Mendable, conn: Connection) -> None:
    enqueued = app.chain(tasks.shaky.call("bad"), tasks.note.call("a"), tasks.note.call("b")).enqueue()  # fmt: skip
    await drain(app)
    for _ in range(2):
        assert app.client.retry(enqueued.jobs[0].id)
        assert list(statuses(conn).values()) == ["pending", "blocked", "blocked"]
        await drain(app)
        assert list(statuses(conn).values()) == ["dead", "cancelled", "cancelled"]
        assert app.client.workflow(enqueued.id).status == "dead"


async def test_what_was_cancelled_by_hand_stays_cancelled(
    app: App, tasks: Mendable, conn: Connection
) -> None:
    flow = app.workflow()
    bad = flow.add(tasks.shaky.call("bad"))
    by_hand = bad.then(tasks.note.call("by hand"))
    by_hand.then(tasks.note.call("after it"))
    bad.then(tasks.note.call("other"))
    enqueued = flow.enqueue()
    app.client.cancel(enqueued[by_hand].id)
    await drain(app)
    tasks.broken = False
    assert app.client.retry(enqueued[bad].id)
    await drain(app)
    assert sorted(tasks.ran) == ["bad", "other"]
    assert app.client.workflow(enqueued.id).status == "cancelled"
    assert app.client.retry(enqueued[by_hand].id)
    await drain(app)
    assert sorted(tasks.ran) == ["after it", "bad", "by hand", "other"]
    assert app.client.workflow(enqueued.id).status == "succeeded"


async def test_one_that_waits_for_a_failed_one_is_not_retried_before_it(
    app: App, tasks: Mendable, conn: Connection
) -> None:
    enqueued = app.chain(tasks.shaky.call("bad"), tasks.note.call("a"), tasks.note.call("b")).enqueue()  # fmt: skip
    await drain(app)
    before = statuses(conn)
    bad, a, b = (job.id for job in enqueued.jobs)
    assert app.client.retry(a) is False
    assert await app.aclient.retry_many([b, a]) == []
    assert statuses(conn) == before
    result = CliRunner().invoke(group, ["retry", str(a), "--dsn", app.dsn])
    assert result.exit_code == 1
    assert f"job {a} is cancelled" in result.output
    assert f"pgqueue workflow {enqueued.id} --retry" in result.output
    assert app.client.workflow(enqueued.id).status == "dead"
    tasks.broken = False
    assert app.client.retry_many([b, a, bad]) == [bad, a, b], "each with what it waits for"
    await drain(app)
    assert tasks.ran == ["bad", "a", "b"]


async def test_one_that_waits_for_a_running_one_waits_again(
    app: App, tasks: Mendable, conn: Connection
) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    @app.task(name="long")
    async def long() -> int:
        started.set()
        await go.wait()
        return 7

    @app.task(name="take")
    async def take(value: int) -> None:
        tasks.ran.append(str(value))

    flow = app.workflow()
    first = flow.add(long.call())
    last = first.then(take.call(first.result))
    enqueued = flow.enqueue()
    app.client.cancel(enqueued[last].id)
    async with working(app, notify=False):
        await started.wait()
        assert app.client.retry(enqueued[last].id)
        assert statuses(conn)[enqueued[last].id] == "blocked"
        go.set()
        await eventually_async(lambda: tasks.ran == ["7"])
        await eventually_async(lambda: app.client.workflow(enqueued.id).status == "succeeded")


@pytest.mark.parametrize(
    ("policy", "retried", "becomes"),
    [("continue", True, "pending"), ("hold", True, "blocked"), ("only", True, "pending")],
)
async def test_a_retry_after_a_failed_parent_by_policy(
    app: App, tasks: Mendable, conn: Connection, policy: Any, retried: bool, becomes: str
) -> None:
    flow = app.workflow()
    bad = flow.add(tasks.shaky.call("bad"))
    after = flow.add(tasks.shaky.call("after"), after=bad, if_failed=policy)
    enqueued = flow.enqueue()
    await drain(app)
    if policy == "hold":
        app.client.cancel(enqueued[after].id)
    assert app.client.retry(enqueued[after].id) is retried
    assert statuses(conn)[enqueued[after].id] == becomes
    tasks.broken = False
    await drain(app)
    if policy == "hold":
        assert app.client.retry(enqueued[bad].id)
        await drain(app)
    assert "after" in tasks.ran


async def test_an_alarm_does_not_wait_for_the_rest_when_it_is_retried(
    app: App, tasks: Mendable, conn: Connection
) -> None:
    flow = app.workflow()
    bad = flow.add(tasks.shaky.call("bad"))
    later = flow.add(tasks.note.with_delay("1h").call("later"))
    alarm = flow.add(tasks.shaky.call("alarm"), after=[bad, later], if_failed="only")
    enqueued = flow.enqueue()
    await drain(app)
    assert app.client.retry(enqueued[alarm].id)
    assert statuses(conn)[enqueued[alarm].id] == "pending"


async def test_an_alarm_that_nobody_needs_is_not_retried(app: App, tasks: Mendable) -> None:
    flow = app.workflow()
    good = flow.add(tasks.note.call("good"))
    alarm = flow.add(tasks.note.call("alarm"), after=good, if_failed="only")
    enqueued = flow.enqueue()
    await drain(app)
    assert app.client.job(enqueued[alarm].id).status is Status.CANCELLED
    assert app.client.retry(enqueued[alarm].id) is False
    assert app.client.workflow(enqueued.id).status == "succeeded"


async def test_a_job_above_the_one_that_is_watched(app: App, tasks: Mendable) -> None:
    """The workflow, which runs still, does not end before the one that was retried."""
    started, go = asyncio.Event(), asyncio.Event()

    @app.task(name="long")
    async def long() -> None:
        started.set()
        await go.wait()

    flow = app.workflow()
    flow.add(long.call())
    bad = flow.add(tasks.shaky.call("bad"))
    enqueued = flow.enqueue()
    async with working(app, notify=False, concurrency=2) as runtime:
        await started.wait()
        await eventually_async(lambda: app.client.job(enqueued[bad].id).status is Status.DEAD)
        await eventually_async(lambda: runtime.settler.at_rest)
        app.client.pause_task("shaky")
        assert app.client.retry(enqueued[bad].id)
        go.set()
        await eventually_async(lambda: app.client.workflow(enqueued.id).succeeded == 1)
        await eventually_async(lambda: runtime.settler.at_rest)
        assert app.client.workflow(enqueued.id).status == "running"
        tasks.broken = False
        app.client.resume_task("shaky")
        await eventually_async(lambda: app.client.workflow(enqueued.id).status == "succeeded")


async def test_what_is_being_retried_fails_nobody(
    app: App, tasks: Mendable, conn: Connection, dsn: str
) -> None:
    """While a retry is not committed, the look at the failure leaves what waits for the job alone."""
    enqueued = app.chain(tasks.shaky.call("bad"), tasks.note.call("a")).enqueue()
    bad, a = (job.id for job in enqueued.jobs)
    conn.execute("update pgqueue.jobs set status = 'running' where id = %s", (bad,))
    conn.execute("update pgqueue.jobs set status = 'dead', finished_at = now() where id = %s", (bad,))  # fmt: skip
    conn.execute("set lock_timeout = '10ms'")
    with psycopg.connect(dsn) as mine:
        assert app.client.retry(bad, on=mine)
        assert conn.execute("select * from pgqueue.settle(%s)", ([bad],)).fetchone() == (0, [], [bad])  # fmt: skip
    assert conn.execute("select * from pgqueue.settle(%s)", ([bad],)).fetchone() == (0, [], [])
    assert statuses(conn) == {bad: "pending", a: "blocked"}
    tasks.broken = False
    await drain(app)
    assert tasks.ran == ["bad", "a"]


def test_two_retries_at_once_do_not_wait_for_each_other_in_turn(
    app: App, tasks: Mendable, conn: Connection, dsn: str
) -> None:
    """One of the first job, with what it brings back, one of the last: whichever comes first, both are done."""
    enqueued = app.chain(tasks.shaky.call("bad"), tasks.note.call("a"), tasks.note.call("b")).enqueue()  # fmt: skip
    bad, a, b = (job.id for job in enqueued.jobs)
    conn.execute("update pgqueue.jobs set status = 'cancelled', last_error = 'ParentFailed: job'")
    with psycopg.connect(dsn) as mine, psycopg.connect(dsn, autocommit=True) as other:
        assert app.client.retry(bad, on=mine)
        with other.pipeline():
            # It waits for the workflow, and holds no job meanwhile.
            cursor = other.execute("select * from pgqueue.retry_members(%s)", ([a, b],))
            mine.execute("select from pgqueue.jobs where id = any(%s) for update nowait", ([a, b],))
            mine.commit()
        assert cursor.fetchall() == []
    assert statuses(conn) == {bad: "pending", a: "blocked", b: "blocked"}
