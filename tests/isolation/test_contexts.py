"""What one job sets in its context variables, no other job, hook or worker sees."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, Ended, Job
from pgqueue.testing import AsyncQueueTester, QueueTester, inline
from tests.isolation import process_tasks
from tests.support import drain, eventually_async

V: ContextVar[str] = ContextVar("V", default="nobody")


@pytest.fixture
def mixed(app: App) -> tuple[App, list[str]]:
    """Tasks of all kinds that set the variable, and others that read it."""
    seen: list[str] = []

    @app.task(name="setter")
    async def setter(number: int) -> None:
        V.set(f"async {number}")
        await asyncio.sleep(0)
        seen.append("own" if V.get() == f"async {number}" else V.get())

    @app.task(name="thread_setter")
    def thread_setter(number: int) -> None:
        V.set(f"thread {number}")

    @app.task(name="failing_setter", max_retries=0)
    async def failing_setter(number: int) -> None:
        V.set(f"failed {number}")
        raise ValueError

    @app.task(name="reader")
    async def reader(number: int) -> None:
        await asyncio.sleep(0)
        seen.append(V.get())

    @app.task(name="thread_reader")
    def thread_reader(number: int) -> None:
        seen.append(V.get())

    @app.job
    class Reader(Job):
        name = "class_reader"
        number: int

        async def handle(self, ctx: Context) -> None:
            seen.append(V.get())

    tasks = (setter, thread_setter, failing_setter, reader, thread_reader)
    app.enqueue_many(
        [task.call(n) for n in range(20) for task in tasks]
        + [app.dispatch(Reader(n)).call() for n in range(20)]
    )
    return app, seen


@pytest.mark.parametrize("concurrency", [1, 20])
async def test_no_job_sees_the_value_of_another(
    mixed: tuple[App, list[str]], concurrency: int
) -> None:
    app, seen = mixed
    V.set("whoever started the worker")
    await drain(app, concurrency=concurrency)
    assert Counter(seen) == {"own": 20, "whoever started the worker": 60}
    assert V.get() == "whoever started the worker"


async def test_hooks_start_clean(app: App) -> None:
    seen: list[str] = []

    @app.task(name="t", max_retries=0)
    async def t(fails: bool) -> None:
        V.set("job")
        if fails:
            raise ValueError

    @app.on_success
    async def success(ended: Ended) -> None:
        seen.append(V.get())
        V.set("hook")

    @app.on_dead
    def dead(ended: Ended) -> None:
        seen.append(V.get())
        V.set("hook")

    app.enqueue_many([t.call(number % 2 == 0) for number in range(10)])
    await drain(app, concurrency=1)
    assert seen == ["nobody"] * 10


async def test_what_goes_around_a_run_sets_is_seen_by_that_run_alone(app: App) -> None:
    seen: list[tuple[int, str]] = []

    @app.around_run
    @asynccontextmanager
    async def outer(ctx: Context) -> AsyncIterator[None]:
        seen.append((ctx.id, V.get()))
        V.set(f"around {ctx.id}")
        yield

    @app.around_run
    @contextmanager
    def inner(ctx: Context) -> Iterator[None]:
        seen.append((ctx.id, V.get()))
        V.set(f"inner {ctx.id}")
        yield

    @app.task(name="a")
    async def a(ctx: Context) -> None:
        seen.append((ctx.id, V.get()))
        V.set("handler")

    @app.task(name="b")
    def b(ctx: Context) -> None:
        seen.append((ctx.id, V.get()))
        V.set("handler")

    ids = [handle.id for handle in app.enqueue_many([a.call(), b.call()] * 5)]
    await drain(app, concurrency=2)
    for job in ids:
        assert [text for at, text in seen if at == job] == [
            "nobody", f"around {job}", f"inner {job}",
        ]  # fmt: skip


async def test_a_timeout_and_a_step_have_the_context_of_their_job(app: App) -> None:
    seen: list[Any] = []

    @app.task(name="slow", timeout=0.1, max_retries=0)
    async def slow() -> None:
        V.set("slow")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(V.get())

    @app.task(name="stepped")
    async def stepped(ctx: Context) -> None:
        async def step() -> str:
            value = V.get()
            V.set("step")
            return value

        seen.append(await ctx.step("one", step))

    await slow.aenqueue()
    await drain(app, concurrency=1)
    await stepped.aenqueue()
    await drain(app, concurrency=1)
    assert seen == ["slow", "nobody"]


async def test_process_tasks_start_clean(app: App, conn: psycopg.Connection) -> None:
    process_tasks.app.use(dsn=app.dsn)
    handles = [process_tasks.set_and_tell.enqueue(f"value {number}") for number in range(3)]
    await drain(process_tasks.app, processes=1)
    assert {await handle.aresult() for handle in handles} == {"nobody"}


def test_the_kit_runs_handlers_alike(dsn: str, conn: psycopg.Connection) -> None:
    app, seen = App(dsn), list[str]()

    @app.task(name="a")
    async def a() -> None:
        seen.append(V.get())
        V.set("a")

    @app.task(name="b")
    def b() -> None:
        seen.append(V.get())
        V.set("b")

    for _ in range(2):
        a.on(conn).enqueue()
        b.on(conn).enqueue()
    QueueTester(app, conn).drain()
    with inline(app):
        a.enqueue()
        b.enqueue()
    assert seen == ["nobody"] * 6
    assert V.get() == "nobody"


async def test_the_async_kit_runs_handlers_alike(app: App) -> None:
    seen: list[str] = []

    @app.task(name="a")
    async def a() -> None:
        seen.append(V.get())
        V.set("a")

    @app.task(name="b")
    def b() -> None:
        seen.append(V.get())
        V.set("b")

    async with app.connections.aio() as connection:
        for _ in range(2):
            await a.on(connection).aenqueue()
            await b.on(connection).aenqueue()
        await AsyncQueueTester(app, connection).drain()
    with inline(app):
        await a.aenqueue()
        await b.aenqueue()
    assert seen == ["nobody"] * 6
    assert V.get() == "nobody"


async def test_a_task_that_outlives_its_job_keeps_its_context_to_itself(app: App) -> None:
    seen: list[str] = []
    go, told = asyncio.Event(), threading.Event()

    @app.task(name="starts")
    async def starts() -> None:
        V.set("starts")

        async def later() -> None:
            await go.wait()
            seen.append(V.get())
            told.set()

        background.append(asyncio.create_task(later()))

    @app.task(name="reads")
    async def reads() -> None:
        seen.append(V.get())

    background: list[asyncio.Task[None]] = []
    await starts.aenqueue()
    await drain(app, concurrency=1)
    await reads.aenqueue()
    await drain(app, concurrency=1)
    go.set()
    await eventually_async(told.is_set)
    assert seen == ["nobody", "starts"]
