"""The traceback of a failed handler begins with the handler: what of pgqueue called it says nothing to the user."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar

import pytest

import pgqueue
from pgqueue import App, Context, Ended, Job
from pgqueue.outcome import describe
from tests.outcomes import failing_tasks
from tests.support import drain, eventually_async, working

OWN = os.path.join(os.path.dirname(pgqueue.__file__), "")
FRAME = re.compile(r'^(?:[ |+-]*)File "(.*)", line \d+, in (.*)$', re.MULTILINE)
PART = re.compile(r"Traceback \(most recent call last\):")


def firsts(text: str) -> list[str]:
    """Of each traceback in the text, the function of the first frame; "pgqueue" for one of its own."""
    found = [FRAME.search(part) for part in PART.split(text)[1:]]
    return [
        "pgqueue" if each[1].startswith(OWN) else each[2].rpartition(".")[2]
        for each in found
        if each
    ]


async def traceback_of(app: App, enqueue: Callable[[], Any]) -> str:
    job = await enqueue()
    await drain(app)
    *_, attempt = await app.aclient.attempts(job.id)
    row = await app.aclient.job(job.id)
    assert row is not None
    assert OWN not in str(row.last_error)
    assert attempt.traceback
    return attempt.traceback


def fail() -> None:
    raise ValueError("here")


def wrap() -> None:
    try:
        fail()
    except ValueError as error:
        raise RuntimeError("wrapped") from error


def in_a_context() -> None:
    try:
        fail()
    except ValueError:
        raise RuntimeError("meanwhile")  # noqa: B904


WAYS = {fail: ["handler"], wrap: ["wrap", "handler"], in_a_context: ["in_a_context", "handler"]}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_thread(app: App, way: Callable[[], None]) -> None:
    @app.task(max_retries=0)
    def handler() -> None:
        way()

    text = await traceback_of(app, handler.aenqueue)
    assert firsts(text) == WAYS[way]
    assert OWN not in text


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_coroutine(app: App, way: Callable[[], None]) -> None:
    @app.task(max_retries=0)
    async def handler() -> None:
        way()

    text = await traceback_of(app, handler.aenqueue)
    assert firsts(text) == WAYS[way]
    assert OWN not in text


async def test_what_a_sync_handler_returns_to_be_awaited(app: App) -> None:
    @app.task(max_retries=0)
    def handler() -> Any:
        async def later() -> None:
            fail()

        return later()

    text = await traceback_of(app, handler.aenqueue)
    assert (firsts(text), OWN in text) == (["later"], False)


async def test_job_classes(app: App) -> None:
    class Sync(Job):
        name: ClassVar[str] = "sync"
        max_retries: ClassVar[int] = 0

        def handle(self) -> None:
            fail()

    class Async(Job):
        name: ClassVar[str] = "async"
        max_retries: ClassVar[int] = 0

        async def handle(self, ctx: Context) -> None:
            fail()

    for job in (Sync(), Async()):
        text = await traceback_of(app, app.dispatch(job).aenqueue)
        assert (firsts(text), OWN in text) == (["handle"], False)


@pytest.mark.parametrize("task", ["fails", "fails_later"])
async def test_a_process(dsn: str, task: str) -> None:
    app = failing_tasks.app
    app.use(dsn=dsn)
    text = await traceback_of(app, getattr(failing_tasks, task).aenqueue)
    await app.aclose()
    assert firsts(text) == ["fails" if task == "fails" else "later"]
    assert OWN not in text


async def test_a_group(app: App) -> None:
    async def child() -> None:
        fail()

    @app.task(max_retries=0)
    async def handler() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    text = await traceback_of(app, handler.aenqueue)
    assert firsts(text) == ["handler", "child"]
    assert OWN not in text


async def test_a_group_of_steps(app: App) -> None:
    async def step() -> None:
        fail()

    @app.task(max_retries=0)
    async def handler(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step("s", step))

    text = await traceback_of(app, handler.aenqueue)
    assert firsts(text) == ["handler", "step"]


@pytest.mark.parametrize("kind", ["step", "transaction_step"])
async def test_frames_further_in_are_kept(app: App, kind: str) -> None:
    async def astep(*_: Any) -> None:
        fail()

    def step(*_: Any) -> None:
        fail()

    @app.task(max_retries=0)
    def sync_handler(ctx: Context) -> None:
        getattr(ctx, kind)("s", step)

    @app.task(max_retries=0)
    async def async_handler(ctx: Context) -> None:
        await getattr(ctx, kind)("s", astep)

    for task in (sync_handler, async_handler):
        text = await traceback_of(app, task.aenqueue)
        assert firsts(text) == [task.__name__]
        assert os.path.join(OWN, "steps.py") in text
        assert text.rstrip().endswith("ValueError: here")


async def test_an_error_of_pgqueue_shows_where_it_was_raised(app: App) -> None:
    @app.task(max_retries=0)
    async def handler(ctx: Context) -> None:
        ctx.progress("half")  # type: ignore[arg-type]

    text = await traceback_of(app, handler.aenqueue)
    assert firsts(text) == ["handler"]
    assert os.path.join(OWN, "context.py") in text


def test_an_error_with_frames_of_pgqueue_alone_keeps_them() -> None:
    try:
        pgqueue.Keys.parse("no keys")
    except pgqueue.PgQueueError as error:
        # As if nobody had called it.
        caught = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    assert set(firsts(describe(caught)[2])) == {"pgqueue"}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("run", ["thread", "loop"])
async def test_around_runs(app: App, kind: str, run: str) -> None:
    @contextmanager
    def around(ctx: Context) -> Iterator[None]:
        yield
        if ctx.task == "good":
            fail()

    @asynccontextmanager
    async def aaround(ctx: Context) -> AsyncIterator[None]:
        yield
        if ctx.task == "good":
            fail()

    app.around_run(around if kind == "sync" else aaround)
    if run == "thread":
        good = app.task(name="good", max_retries=0)(lambda: None)

        @app.task(max_retries=0)
        def bad() -> None:
            fail()
    else:

        @app.task(name="good", max_retries=0)
        async def good() -> None: ...

        @app.task(max_retries=0)
        async def bad() -> None:
            fail()

    assert firsts(await traceback_of(app, good.aenqueue)) == [
        "around" if kind == "sync" else "aaround"
    ]
    assert firsts(await traceback_of(app, bad.aenqueue)) == ["bad"]


async def test_hooks(app: App, caplog: pytest.LogCaptureFixture) -> None:
    @app.on_success
    def hook(ended: Ended) -> None:
        wrap()

    @app.on_success
    async def ahook(ended: Ended) -> None:
        fail()

    @app.task
    async def handler() -> None: ...

    await handler.aenqueue()
    async with working(app):
        # Formatted as they are logged: then the tracebacks are let go.
        await eventually_async(lambda: caplog.text.count("Traceback") == 3)
    assert sorted(firsts(caplog.text)) == ["ahook", "hook", "wrap"]
    assert OWN not in caplog.text
