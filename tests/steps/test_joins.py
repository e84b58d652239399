"""Jobs that wait for others, and give their slots back meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, Job, JobFailed, ResultMissing, Status, WaitInHandler
from pgqueue.operations import maintenance
from pgqueue.testing import inline
from tests.steps import process_tasks
from tests.support import drain, eventually_async, make_due, statuses, working

Conn = psycopg.Connection[Any]


@pytest.fixture
async def in_processes(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)  # for what its processes enqueue
    process_tasks.app.use(dsn=dsn)
    yield process_tasks.app
    await process_tasks.app.aclose()


def suspended(conn: Conn) -> int:
    """How many jobs have ended their runs at waits for others."""
    row = conn.execute(
        "select count(*) from pgqueue.steps s join pgqueue.jobs j on j.id = s.job_id where j.status = 'pending'"
        " and j.suspended_run = j.claimed_at and s.waiting_run = j.claimed_at and s.watched is not null"
    ).fetchone()
    return int(row[0]) if row else 0


# handle.result() in a handler.


async def test_a_handler_that_waits_with_result_fails_at_once(app: App) -> None:
    @app.task(name="child", result=True)
    async def child() -> int:
        return 1

    @app.task(name="async parent")
    async def async_parent() -> None:
        async def helper() -> int:
            return await (await child.aenqueue()).aresult("1h")

        await asyncio.create_task(helper())

    @app.task(name="sync parent")
    def sync_parent(ctx: Context) -> None:
        ctx.step("s", lambda: child.enqueue().result())

    @app.task(name="group")
    async def group(ctx: Context) -> None:
        handle = await child.aenqueue()
        async with asyncio.TaskGroup() as both:
            both.create_task(asyncio.to_thread(handle.result))
            both.create_task(handle.aresult(5))

    class Parent(Job):
        name = "class parent"

        def handle(self) -> int:
            return child.enqueue().result(5)

    handles = [async_parent.enqueue(), sync_parent.enqueue(), group.enqueue()]
    handles.append(app.dispatch(Parent()).enqueue())
    await drain(app)
    for handle in handles:
        row = app.client.job(handle.id)
        assert row.status is Status.DEAD
        assert "WaitInHandler" in (row.last_error or "")
        assert "ctx.result_of(handle) or ctx.gather" in (row.last_error or "")


async def test_in_a_process_as_well(in_processes: App) -> None:
    handle = process_tasks.waits.enqueue()
    await drain(in_processes)
    assert "WaitInHandler" in (in_processes.client.job(handle.id).last_error or "")


async def test_beside_a_worker_and_after_a_handler_result_waits_as_ever(app: App) -> None:
    left: list[asyncio.Task[Any]] = []
    looked: list[str] = []

    @app.task(name="child", result=True)
    async def child() -> int:
        return 3

    @app.task(name="starter")
    async def starter() -> None:
        handle = await child.aenqueue()
        over = ended.wait
        try:
            await handle.aresult(0)  # a look is no wait
        except TimeoutError:
            looked.append("not yet")
        assert await handle.apeek("open") == "open"
        assert await handle.astatus() == "pending"

        async def later() -> int:
            await over()
            return await handle.aresult("20s")

        left.append(asyncio.create_task(later()))

    ended = asyncio.Event()
    async with working(app, concurrency=1):
        handle = starter.enqueue()
        await eventually_async(lambda: app.client.job(handle.id).status is Status.SUCCEEDED)
        ended.set()
        assert await left[0] == 3
        assert await (await child.aenqueue()).aresult("20s") == 3  # a view beside the worker
        assert await asyncio.to_thread(child.enqueue().result, "20s") == 3
    assert looked == ["not yet"]


def test_with_inline_jobs_it_is_refused_too(app: App) -> None:
    @app.task(name="child", result=True)
    def child() -> int:
        return 3

    @app.task(name="wrong")
    def wrong() -> int:
        return child.enqueue().result()

    @app.task(name="right", result=True)
    def right(ctx: Context) -> list[int]:
        return [ctx.result_of(child.enqueue()), *ctx.gather(child.enqueue(), child.enqueue())]

    @app.task(name="async right", result=True)
    async def async_right(ctx: Context) -> list[int]:
        handle = await child.aenqueue()
        return [await ctx.result_of(handle), *(await ctx.gather(handle, handle))]

    with inline(app):
        assert child.enqueue().result() == 3
        assert right.enqueue().result() == [3, 3, 3]
        assert async_right.enqueue().result() == [3, 3, 3]
        with pytest.raises(WaitInHandler):
            wrong.enqueue()


# ctx.result_of and ctx.gather.


async def test_a_parent_gives_its_slot_back_and_gets_what_its_children_returned(
    app: App, conn: Conn
) -> None:
    threads: list[int] = []

    @app.task(name="double", result=True)
    async def double(number: int) -> int:
        return number * 2

    @app.task(name="sync double", result=True)
    def sync_double(number: int) -> int:
        threads.append(threading.get_ident())
        return number * 2

    async def enqueue(numbers: list[int]) -> list[int]:
        return [(await double.aenqueue(each)).id for each in numbers]

    @app.task(name="parent", result=True)
    async def parent(ctx: Context) -> list[int]:
        ids = await ctx.step("children", enqueue, [1, 2, 3])
        handles = [app.handle(each, double) for each in ids]
        first = await ctx.result_of(handles[0])
        return [first, await ctx.result_of(handles[1]), *(await ctx.gather(*handles))]

    @app.task(name="sync parent", result=True)
    def sync_parent(ctx: Context) -> list[int]:
        ids = ctx.step("children", lambda: [sync_double.enqueue(n).id for n in (5, 6)])
        handles = [app.handle(each, sync_double) for each in ids]
        return [ctx.result_of(handles[0]), *ctx.gather(*handles)]

    class Parent(Job):
        name = "class parent"
        result = True

        async def handle(self, ctx: Context) -> list[int]:
            ids = await ctx.step("children", enqueue, [4])
            return await ctx.gather(*[app.handle(each, double) for each in ids])

    async with working(app, concurrency=1):
        one, two = parent.enqueue(), sync_parent.enqueue()
        three = app.dispatch(Parent()).enqueue()
        assert await one.aresult("30s") == [2, 4, 2, 4, 6]
        assert await two.aresult("30s") == [10, 10, 12]
        assert await three.aresult("30s") == [8]
    assert app.client.job(one.id).attempt == 1


async def test_a_process_waits_too(in_processes: App) -> None:
    handle = process_tasks.parent.enqueue()
    async with working(in_processes, concurrency=1):
        assert await handle.aresult("60s") == [2, 4]


async def test_the_end_of_a_child_wakes_its_parent(app: App, conn: Conn) -> None:
    go = asyncio.Event()

    @app.task(name="child", result=True, queue="children")
    async def child() -> str:
        await go.wait()
        return "done"

    @app.task(name="parent", result=True)
    async def parent(ctx: Context, child_id: int) -> str:
        return str(await ctx.result_of(app.handle(child_id, child)))

    first, second = child.enqueue(), child.enqueue()
    async with working(app):
        handle = parent.enqueue(first.id)
        both = parent.enqueue(second.id)
        await eventually_async(lambda: suspended(conn) == 2)
        go.set()
        assert await handle.aresult("30s") == "done"
        assert await both.aresult("30s") == "done"
    assert conn.execute(
        "select count(*) from pgqueue.steps where watched is not null"
    ).fetchone() == (0,)


async def test_a_child_that_ended_before_the_wait(app: App) -> None:
    @app.task(name="child", result=True)
    async def child() -> int:
        return 7

    @app.task(name="parent", result=True)
    async def parent(ctx: Context, child_id: int) -> list[int]:
        return await ctx.gather(app.handle(child_id, child))

    made = child.enqueue()
    await drain(app)
    handle = parent.enqueue(made.id)
    await drain(app)
    assert await handle.aresult(0) == [7]


async def test_a_failed_child_raises_and_is_looked_at_anew(app: App, conn: Conn) -> None:
    broken = True
    caught: list[str] = []

    @app.task(name="child", result=True, max_retries=0)
    async def child() -> int:
        if broken:
            raise ValueError("no")
        return 7

    @app.task(name="parent", result=True, max_retries=5)
    async def parent(ctx: Context, child_id: int) -> int:
        try:
            return await ctx.result_of(app.handle(child_id, child))
        except JobFailed as error:
            caught.append(error.status)
            raise

    made = child.enqueue()
    handle = parent.enqueue(made.id)
    await drain(app)
    make_due(conn)
    await drain(app)
    before = len(caught)
    assert set(caught) == {"dead"}
    assert app.client.job(handle.id).status is Status.PENDING
    broken = False
    assert app.client.retry(made.id)
    make_due(conn)
    for _ in range(3):
        await drain(app)
        make_due(conn)
    assert await handle.aresult(0) == 7
    assert len(caught) == before


async def test_cancelled_gone_and_without_a_result(app: App, conn: Conn) -> None:
    caught: list[BaseException] = []

    @app.task(name="child", result=True)
    async def child() -> int:
        return 7

    @app.task(name="plain")
    async def plain() -> None: ...

    @app.task(name="parent", max_retries=0)
    async def parent(ctx: Context, child_id: int, task: str) -> None:
        try:
            await ctx.result_of(app.handle(child_id, task))
        except (JobFailed, ResultMissing) as error:
            caught.append(error)

    cancelled, gone, without = child.enqueue(), child.enqueue(), plain.enqueue()
    app.client.cancel(cancelled.id)
    conn.execute("delete from pgqueue.jobs where id = %s", [gone.id])
    await drain(app)
    parents = [
        parent.enqueue(cancelled.id, "child"),
        parent.enqueue(gone.id, "child"),
        parent.enqueue(without.id, "plain"),
    ]
    await drain(app)
    texts = sorted(map(str, caught))
    assert len(caught) == len(parents)
    assert "is cancelled" in texts[1] or "is cancelled" in texts[0]
    assert any("is gone" in text for text in texts)
    assert any("has no result" in text for text in texts)


async def test_a_wait_for_jobs_ends_with_its_timeout(app: App, conn: Conn) -> None:
    caught: list[str] = []

    @app.task(name="child", result=True)
    async def child() -> int:
        return 7

    @app.task(name="parent", max_retries=0)
    async def parent(ctx: Context, child_id: int) -> None:
        try:
            await ctx.result_of(app.handle(child_id, child), timeout="1h")
        except TimeoutError as error:
            caught.append(str(error))

    made = child.with_delay("1d").enqueue()
    parent.enqueue(made.id)
    await drain(app)
    conn.execute("update pgqueue.steps set wakes_at = clock_timestamp()")
    conn.execute("update pgqueue.jobs set run_at = clock_timestamp() where task = 'parent'")
    await drain(app)
    assert caught == [f"jobs {made.id} have not all ended in time"]


async def test_a_child_with_others_that_run_is_not_pruned(app: App, conn: Conn) -> None:
    @app.task(name="child", result=True)
    async def child(number: int) -> int:
        return number

    @app.task(name="parent", result=True)
    async def parent(ctx: Context, one: int, two: int) -> list[int]:
        return await ctx.gather(app.handle(one, child), app.handle(two, child))

    early, late = child.enqueue(1), child.with_delay("1d").enqueue(2)
    handle = parent.enqueue(early.id, late.id)

    def prune() -> list[int]:
        conn.execute(
            "update pgqueue.jobs set finished_at = now() - interval '1 year' where status = 'succeeded'"
        )
        return app.client._run(maintenance.prune(Status.SUCCEEDED, age=1.0), None)

    await drain(app)
    assert prune() == []
    assert early.id in statuses(conn)
    conn.execute("update pgqueue.jobs set run_at = now() where id = %s", [late.id])
    for _ in range(2):
        await drain(app)
    assert await handle.aresult(0) == [1, 2]


async def test_other_children_by_the_same_name_are_a_change(app: App, conn: Conn) -> None:
    @app.task(name="child", result=True)
    async def child() -> int:
        return 7

    @app.task(name="parent", max_retries=5)
    async def parent(ctx: Context) -> None:
        await ctx.result_of(await child.with_delay("1h").aenqueue())  # it cannot end first

    handle = parent.enqueue()
    for _ in range(2):
        await drain(app)
        make_due(conn)
    await drain(app)
    row = app.client.job(handle.id)
    assert row.status is Status.DEAD
    assert "StepChanged" in (row.last_error or "")
    assert "a wait for job" in (row.last_error or "")
    assert "enqueue the jobs that are waited for in a step that returns their ids" in (
        row.last_error or ""
    )
