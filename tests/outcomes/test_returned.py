"""What a handler gives back is run to its end, or the job is dead and says why: nothing succeeds that did not run."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pgqueue import App, ConfigError, Context, Ended, Job, TaskError
from pgqueue.testing import AsyncQueueTester, QueueTester, inline
from tests.isolation import process_tasks
from tests.support import drain, eventually_async, statuses, working


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def unnamed(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper() -> Any:
        return function()

    return wrapper


def gen() -> Iterator[int]:
    yield 1


async def agen() -> AsyncIterator[int]:
    yield 1


class Called:
    __qualname__ = "Called"
    __name__ = "Called"

    def __call__(self) -> Iterator[int]:
        yield 1


class Method:
    def gen(self) -> Iterator[int]:
        yield 1


GENERATORS: dict[str, Any] = {
    "plain": gen,
    "async": agen,
    "wraps": plain(gen),
    "wraps twice": plain(plain(agen)),
    "partial": functools.partial(gen),
    "partial of wraps": functools.partial(plain(agen)),
    "method": Method().gen,
    "callable": Called(),
}


@pytest.mark.parametrize("run", [None, "process", "thread"])
@pytest.mark.parametrize("which", GENERATORS)
def test_generators_are_refused(app: App, which: str, run: Any) -> None:
    with pytest.raises(TaskError, match=r"is an? (async )?generator function: .* must not yield"):
        app.task(name="t", run=run)(GENERATORS[which])


@pytest.mark.parametrize("handle", [lambda self: (yield), plain(lambda self: (yield)), agen])
def test_so_are_those_of_classes(app: App, handle: Any) -> None:
    with pytest.raises(TaskError, match="must not yield"):
        app.job(type("Yields", (Job,), {"handle": handle, "name": "yields"}))


def test_so_are_hooks_and_what_goes_around(app: App) -> None:
    def hook(ended: Ended) -> Iterator[None]:
        yield

    def around(ctx: Context) -> Iterator[None]:
        yield

    for register in (app.on_success, app.on_retry, app.on_dead):
        with pytest.raises(ConfigError, match="generator"):
            register(hook)
    for register in (app.around_run, app.around_enqueue):
        with pytest.raises(ConfigError, match="@contextmanager"):
            register(around)
    app.around_run(contextmanager(around))


WAYS: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "wraps": plain,
    "def": lambda function: lambda *args: function(*args),
    "twice": lambda function: plain(plain(lambda *args: _later(function(*args)))),
}


async def _later(value: Any) -> Any:
    return value


@pytest.mark.parametrize("around", [False, True], ids=["alone", "around"])
@pytest.mark.parametrize("way", WAYS)
async def test_awaitables_are_awaited(
    app: App, conn: psycopg.Connection, way: str, around: bool
) -> None:
    ran: list[Any] = []

    async def work(ctx: Context, how: str) -> str:
        await asyncio.sleep(0)
        ran.append((threading.current_thread(), asyncio.get_running_loop()))
        if how == "fail":
            raise ValueError("in the coroutine")
        async with ctx.transaction() as connection:
            await connection.execute("select 1")
        return how

    if around:

        @app.around_run
        @contextmanager
        def manager(ctx: Context) -> Iterator[None]:
            ran.append("in")
            try:
                yield
            except ValueError:
                ran.append("failed")
                raise
            ran.append("out")

    function = WAYS[way](work)

    def wrapper(ctx: Context, how: str) -> Any:
        return function(ctx, how)

    task = app.task(name="t", result=True, max_retries=0)(wrapper)
    good = task.enqueue("good")
    await drain(app, concurrency=1)
    bad = task.enqueue("fail")
    await drain(app, concurrency=1)
    assert await good.aresult() == "good"
    assert app.client.job(bad.id).last_error == "ValueError: in the coroutine"
    here = (threading.current_thread(), asyncio.get_running_loop())
    assert ran == (["in", here, "out", "in", here, "failed"] if around else [here, here])


async def test_a_task_behind_a_plain_decorator(app: App, conn: psycopg.Connection) -> None:
    ran: list[int] = []

    @app.task(name="wrapped")
    @plain
    async def wrapped(number: int) -> None:
        await asyncio.sleep(0)
        ran.append(number)

    @app.task(name="forgot")
    async def forgot(number: int) -> Any:
        return wrapped.function(number)

    @app.task(name="started")
    async def started(number: int) -> Any:
        return asyncio.create_task(wrapped.function(number))

    @app.job
    class Wrapped(Job):
        name = "wrapped_class"
        number: int

        @plain
        async def handle(self) -> None:
            await asyncio.sleep(0)
            ran.append(self.number)

    for number, task in enumerate((wrapped, forgot, started)):
        await task.aenqueue(number)
    await app.dispatch(Wrapped(3)).aenqueue()
    await drain(app)
    assert sorted(ran) == [0, 1, 2, 3]
    assert set(statuses(conn).values()) == {"succeeded"}


@pytest.mark.parametrize("reason", ["timeout", "stopping", "cancelled"])
async def test_an_awaited_one_can_be_interrupted(
    app: App, conn: psycopg.Connection, reason: str
) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def behind() -> Any:
        return work()

    task = app.task(name="t", timeout=0.2 if reason == "timeout" else None, max_retries=0)(behind)
    job = task.enqueue().id
    async with working(app, grace=0, lease=1):
        await started.wait()
        if reason == "cancelled":
            await app.aclient.cancel(job)
        if reason != "stopping":
            await eventually_async(ended.is_set)
            await eventually_async(lambda: statuses(conn)[job] != "running")
    assert ended.is_set()
    status = {"timeout": "dead", "cancelled": "cancelled", "stopping": "pending"}[reason]
    assert statuses(conn)[job] == status


@pytest.mark.parametrize(
    "make",
    [lambda: unnamed(gen), lambda: unnamed(agen), lambda: lambda: (n for n in range(3))],
    ids=["generator", "async generator", "expression"],
)
async def test_a_generator_that_comes_back(app: App, conn: psycopg.Connection, make: Any) -> None:
    function = make()

    async def from_async() -> Any:
        return function()

    for number, each in enumerate((function, from_async)):
        app.task(name=f"t{number}", max_retries=3)(each).enqueue()
    await drain(app)
    assert set(statuses(conn).values()) == {"dead"}
    for row in conn.execute("select last_error from pgqueue.jobs").fetchall():
        assert "nothing of it has run" in row[0]


async def test_a_generator_that_was_started_is_only_a_value(app: App) -> None:
    @app.task(name="t")
    def t() -> Any:
        numbers = (n for n in range(3))
        next(numbers)
        return numbers

    job = t.enqueue().id
    await drain(app)
    assert app.client.job(job).status == "succeeded"


async def test_in_a_process(app: App, conn: psycopg.Connection) -> None:
    process_tasks.app.use(dsn=app.dsn)
    good = process_tasks.gives_a_coroutine.enqueue("text")
    bad = process_tasks.gives_a_coroutine.enqueue("fail").id
    yields = process_tasks.gives_a_generator.enqueue().id
    await drain(process_tasks.app, processes=1)
    assert await good.aresult() == "text in gives_a_coroutine"
    assert statuses(conn) == {good.id: "succeeded", bad: "dead", yields: "dead"}
    assert app.client.job(bad).last_error == "ValueError: in the coroutine"
    assert "nothing of it has run" in (app.client.job(yields).last_error or "")


async def test_hooks_are_awaited_too(app: App) -> None:
    heard: list[int] = []

    @app.task(name="t")
    async def t() -> None: ...

    @app.on_success
    @plain
    async def hook(ended: Ended) -> None:
        await asyncio.sleep(0)
        heard.append(ended.job_id)

    job = t.enqueue().id
    await drain(app)
    assert heard == [job]


def test_the_kit(dsn: str, conn: psycopg.Connection) -> None:
    app, ran = App(dsn), list[str]()

    @app.task(name="wrapped")
    @plain
    async def wrapped() -> None:
        await asyncio.sleep(0)
        ran.append("wrapped")

    yields = app.task(name="yields")(unnamed(gen))
    wrapped.on(conn).enqueue()
    job = yields.on(conn).enqueue().id
    assert QueueTester(app, conn).drain().dead == [job]
    with inline(app):
        wrapped.enqueue()
        with pytest.raises(Exception, match="nothing of it has run"):
            yields.enqueue()
    assert ran == ["wrapped"] * 2


async def test_the_async_kit(app: App) -> None:
    ran: list[str] = []

    @app.task(name="wrapped")
    @plain
    async def wrapped() -> None:
        await asyncio.sleep(0)
        ran.append("wrapped")

    yields = app.task(name="yields")(unnamed(gen))
    async with app.connections.aio() as connection:
        await wrapped.on(connection).aenqueue()
        job = (await yields.on(connection).aenqueue()).id
        assert (await AsyncQueueTester(app, connection).drain()).dead == [job]
    with inline(app):
        await wrapped.aenqueue()
    assert ran == ["wrapped"] * 2
