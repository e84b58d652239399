"""A run that its worker ended is judged by why it was ended, whatever its handler makes of it."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import psycopg
import pytest

from pgqueue import App, Cancel, Context, Dead, Retry, Snooze
from tests.support import drain, eventually_async, statuses, working


class ServiceError(Exception):
    """What a client library makes of a cancelled call."""


def wrapped(error: BaseException) -> None:
    raise ServiceError from error


def unrelated(error: BaseException) -> None:
    raise ServiceError from None


def grouped(error: BaseException) -> None:
    raise BaseExceptionGroup("many", [ServiceError(), error])


def dead(error: BaseException) -> None:
    raise Dead("interrupted") from error


def again(error: BaseException) -> None:
    raise Retry(after="1h") from error


def later(error: BaseException) -> None:
    raise Snooze("1h") from error


def exits(error: BaseException) -> None:
    raise SystemExit(1)


def as_it_is(error: BaseException) -> None:
    raise error


WAYS: dict[str, Any] = {
    each.__name__: each
    for each in (wrapped, unrelated, grouped, dead, again, later, exits, as_it_is)
}


def tasks(app: App, started: threading.Event, **options: Any) -> dict[str, Any]:
    async def waits(how: str) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            WAYS[how](error)

    @app.task(name="async", max_retries=0, retry_on=(OSError,), **options)
    async def in_async(how: str) -> None:
        await waits(how)

    @app.task(name="group", max_retries=0, retry_on=(OSError,), **options)
    async def in_group(how: str) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits(how))

    @app.task(name="thread", max_retries=0, retry_on=(OSError,), **options)
    def in_thread(ctx: Context, how: str) -> None:
        started.set()
        while True:
            try:
                ctx.check()
            except Cancel as error:
                WAYS[how](error)
            threading.Event().wait(0.005)

    return {"async": in_async, "group": in_group, "thread": in_thread}


KINDS = ["async", "group", "thread"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", WAYS)
async def test_a_worker_that_stops_uses_no_retry(
    app: App, conn: psycopg.Connection, kind: str, how: str
) -> None:
    started = threading.Event()
    task = tasks(app, started)[kind]
    job = task.enqueue(how).id
    async with working(app, grace=0):
        await eventually_async(started.is_set)
    row = conn.execute(
        "select status, attempt, run_at <= clock_timestamp() from pgqueue.jobs where id = %s", [job]
    ).fetchone()
    assert row == ("pending", 0, True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["wrapped", "unrelated", "dead", "later"])
async def test_a_cancelled_job_is_cancelled(
    app: App, conn: psycopg.Connection, kind: str, how: str
) -> None:
    started = threading.Event()
    task = tasks(app, started)[kind]
    job = task.enqueue(how).id
    async with working(app, lease=3):
        await eventually_async(started.is_set)
        await app.aclient.cancel(job)
        await eventually_async(lambda: statuses(conn)[job] != "running")
    assert app.client.job(job).last_error == "Cancelled: cancelled while it ran"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lost_claim_costs_nothing(app: App, conn: psycopg.Connection, kind: str) -> None:
    started = threading.Event()
    task = tasks(app, started)[kind]
    job = task.enqueue("dead").id
    async with working(app, lease=1) as worker:
        await eventually_async(started.is_set)
        conn.execute(
            "update pgqueue.jobs set status = 'pending', claim_id = null, worker_id = null,"
            " lease_expires_at = null, run_at = clock_timestamp() + interval '1 h'"
        )
        await eventually_async(lambda: not list(worker._held()))
    assert statuses(conn) == {job: "pending"}
    assert app.client.attempts(job) == []


@pytest.mark.parametrize(
    ("how", "error", "status"),
    [
        ("wrapped", "TimeoutError: ran longer than 0.1 s", "pending"),
        ("grouped", "TimeoutError: ran longer than 0.1 s", "pending"),
        ("as_it_is", "TimeoutError: ran longer than 0.1 s", "pending"),
        ("dead", "Dead: interrupted", "dead"),
        ("again", "Retry", "pending"),
    ],
)
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_timeout_is_one_but_the_handler_may_say_how_it_goes_on(
    app: App, conn: psycopg.Connection, kind: str, how: str, error: str, status: str
) -> None:
    """An error that came of the interruption is none of the kinds that ``retry_on`` is about."""
    task = tasks(app, threading.Event(), timeout=0.1)[kind]
    job = task.with_max_retries(3).enqueue(how).id
    await drain(app)
    row = app.client.job(job)
    assert (row.status, row.last_error) == (status, error)


async def test_an_interrupt_while_results_of_parents_are_fetched(
    app: App, conn: psycopg.Connection
) -> None:
    @app.task(name="parent", result=True)
    async def parent() -> int:
        return 1

    @app.task(name="child", max_retries=0)
    async def child(value: int) -> None: ...

    flow = app.workflow("one")
    first = flow.add(parent.call())
    flow.add(child.call(first.result))
    flow.enqueue()
    await drain(app, max_jobs=1)
    waiting = threading.Event()
    async with working(app, grace=0) as worker:

        async def hang(*_: Any) -> Any:
            waiting.set()
            await asyncio.Event().wait()

        worker.handlers._results = hang
        await eventually_async(waiting.is_set)
    rows = conn.execute("select status, attempt from pgqueue.jobs where task = 'child'").fetchall()
    assert rows == [("pending", 0)]


@pytest.mark.parametrize("kind", ["async", "thread", "completed"])
@pytest.mark.parametrize("result", [False, True])
async def test_a_late_return_is_said(
    app: App, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture, kind: str, result: bool
) -> None:
    @app.task(name="async", timeout=0.05, result=result)
    async def in_async() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "late"
        return "never"

    @app.task(name="thread", timeout=0.05, result=result)
    def in_thread(ctx: Context) -> str:
        while not ctx._stopped:
            threading.Event().wait(0.005)
        return "late"

    @app.task(name="completed", timeout=0.05, result=result)
    def completed(ctx: Context) -> str:
        while not ctx._stopped:
            threading.Event().wait(0.005)
        with ctx.transaction() as connection:
            connection.execute("select 1")
        return "late"

    task: Any = {"async": in_async, "thread": in_thread, "completed": completed}[kind]
    handle = task.enqueue()
    with caplog.at_level(logging.WARNING, "pgqueue.job"):
        await drain(app)
    row = app.client.job(handle.id)
    assert row.status == "succeeded"
    assert "TimeoutExceeded: it returned after " in (row.last_error or "")
    assert "its timeout is 0.05 s" in (row.last_error or "")
    assert any("succeeded late" in record.getMessage() for record in caplog.records)
    if result:
        assert await handle.aresult() == "late"
