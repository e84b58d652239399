"""Where a job stands, and what it returned, without waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, JobFailed, JobNotFound, ResultMissing, Status
from pgqueue.task import Handle
from pgqueue.testing import inline
from tests.support import drain, eventually_async, working


async def both(handle: Handle[Any], what: str, *args: Any) -> Any:
    """What the sync and the async way say, which is the same."""
    found = await asyncio.to_thread(getattr(handle, what), *args)
    assert await getattr(handle, f"a{what}")(*args) == found
    return found


async def test_through_its_life(app: App, conn: psycopg.Connection) -> None:
    go = asyncio.Event()

    @app.task(name="t", result=True)
    async def task() -> int | None:
        await go.wait()
        return 7

    handle = await task.aenqueue()
    assert await both(handle, "status") is Status.PENDING
    assert await both(handle, "peek") is None
    assert await both(handle, "peek", "not yet") == "not yet"
    async with working(app):
        await eventually_async(
            lambda: conn.execute("select 1 from pgqueue.jobs where status = 'running'").fetchone()
        )
        assert await both(handle, "status") == "running"
        assert await both(handle, "peek", "not yet") == "not yet"
        go.set()
        await handle.aresult("20s")
    assert await both(handle, "status") is Status.SUCCEEDED
    assert await both(handle, "peek", "not yet") == 7
    assert await both(app.handle(handle.id, "t"), "peek") == 7


async def test_a_result_of_none(app: App) -> None:
    @app.task(name="t", result=True)
    async def task() -> None: ...

    handle = await task.aenqueue()
    await drain(app)
    assert await both(handle, "peek", "not yet") is None


@pytest.mark.parametrize("status", ["dead", "cancelled"])
async def test_a_job_that_failed(app: App, conn: psycopg.Connection, status: str) -> None:
    handle = await app.named("t").aenqueue()
    conn.execute("update pgqueue.jobs set status = 'running'")
    conn.execute("update pgqueue.jobs set status = %s, finished_at = now()", [status])
    assert await both(handle, "status") == status
    for way in (handle.peek, handle.apeek):
        with pytest.raises(JobFailed, match=f"job {handle.id} is {status}"):
            await asyncio.to_thread(way) if way == handle.peek else await way()  # type: ignore[misc]


async def test_a_result_that_is_not_kept(app: App) -> None:
    @app.task(name="t")
    async def task() -> int:
        return 1

    handle = await task.aenqueue()
    await drain(app)
    assert await both(handle, "status") is Status.SUCCEEDED
    with pytest.raises(ResultMissing, match="needs result=True"):
        await handle.apeek()


async def test_a_job_that_is_gone(app: App, conn: psycopg.Connection) -> None:
    handle = await app.named("t").aenqueue()
    conn.execute("delete from pgqueue.jobs")
    with pytest.raises(JobNotFound, match=f"job {handle.id} is not there: it was pruned"):
        await asyncio.to_thread(handle.status)
    with pytest.raises(JobNotFound, match="has not committed"):
        await handle.astatus()
    with pytest.raises(ResultMissing, match="is not there"):
        await asyncio.to_thread(handle.peek)
    with pytest.raises(ResultMissing, match="is not there"):
        await handle.apeek()


async def test_before_the_commit(app: App, other: psycopg.Connection) -> None:
    handle = app.named("t").on(other).enqueue()
    with pytest.raises(JobNotFound, match="has not committed"):
        await handle.astatus()
    other.commit()
    assert await both(handle, "status") is Status.PENDING


async def test_a_handle_without_an_app() -> None:
    with pytest.raises(ResultMissing, match="no app"):
        Handle(1, "t").status()
    with pytest.raises(ResultMissing, match="no app"):
        await Handle(1, "t").apeek()


def test_inline(app: App) -> None:
    @app.task(name="t", result=True)
    def task(ctx: Context) -> int:
        return ctx.attempt

    with inline(app):
        handle = task.enqueue()
        assert (handle.status(), handle.peek()) == (Status.SUCCEEDED, 1)
