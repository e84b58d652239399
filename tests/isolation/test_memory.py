"""What a handler held when it failed is freed at once, as when it succeeds: not when garbage is collected."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, Dead, Ended, Worker
from pgqueue.job import NewJob
from pgqueue.worker.tracebacks import clear_tracebacks
from tests.isolation import process_tasks
from tests.support import drain, eventually, working


class Big:
    """Stands for 20 MB."""


class Held:
    """Makes big objects, and knows how many there are."""

    def __init__(self) -> None:
        self._made: list[weakref.ref[Big]] = []

    def big(self) -> Big:
        made = Big()
        self._made.append(weakref.ref(made))
        return made

    @property
    def made(self) -> int:
        return len(self._made)

    @property
    def alive(self) -> int:
        return sum(each() is not None for each in self._made)


@pytest.fixture
def held() -> Iterator[Held]:
    """While the garbage collector is off."""
    gc.collect()
    gc.disable()
    try:
        yield Held()
    finally:
        gc.enable()


class Own(Exception):
    """Refers to itself by what it keeps."""

    def __init__(self, frame: Any) -> None:
        super().__init__("own")
        self.frame = frame


def plainly(held: Held) -> None:
    big = held.big()
    raise ValueError(f"{type(big).__name__}")


def keeping_it(held: Held) -> None:
    big = held.big()
    try:
        raise KeyError(1)
    except KeyError as error:
        kept = error
    raise ValueError(f"{big}") from kept


def keeping_itself(held: Held) -> None:
    big = held.big()
    try:
        raise KeyError(f"{big}")
    except KeyError as error:
        kept = error  # noqa: F841
        raise


def keeping_the_traceback(held: Held) -> None:
    big = held.big()
    try:
        raise KeyError(f"{big}")
    except KeyError:
        kept = sys.exc_info()  # noqa: F841
        raise


def in_a_context(held: Held) -> None:
    def inner() -> None:
        big = held.big()
        error = KeyError(f"{big}")
        raise error

    big = held.big()
    try:
        inner()
    except KeyError:
        error = RuntimeError(f"{big}")
        raise error  # noqa: B904


def in_a_group(held: Held) -> None:
    errors: list[Exception] = []
    for way in (plainly, keeping_it, keeping_itself, keeping_the_traceback, in_a_context):
        try:
            way(held)
        except Exception as error:
            errors.append(error)
    raise ExceptionGroup("many", [errors[0], ExceptionGroup("some", errors[1:])])


def with_its_frame(held: Held) -> None:
    big = held.big()
    error = Own(sys._getframe())
    raise error from ValueError(f"{big}")


def for_good(held: Held) -> None:
    big = held.big()
    error = Dead(f"{big}")
    raise error


WAYS = (plainly, keeping_it, keeping_itself, keeping_the_traceback, in_a_context, in_a_group,
        with_its_frame, for_good)  # fmt: skip


@pytest.mark.parametrize("around", [False, True], ids=["alone", "around"])
@pytest.mark.parametrize("kind", ["async", "thread", "step"])
async def test_failed_jobs_hold_nothing(app: App, held: Held, kind: str, around: bool) -> None:
    if around:

        @app.around_run
        @asynccontextmanager
        async def outer(ctx: Context) -> AsyncIterator[None]:
            yield

        @app.around_run
        @contextmanager
        def inner(ctx: Context) -> Iterator[None]:
            yield

    @app.task(name="async", max_retries=0)
    async def in_async(way: int) -> None:
        await asyncio.sleep(0)
        WAYS[way](held)

    @app.task(name="thread", max_retries=0)
    def in_thread(way: int) -> None:
        WAYS[way](held)

    @app.task(name="step", max_retries=0)
    async def in_step(ctx: Context, way: int) -> None:
        async def step() -> None:
            WAYS[way](held)

        await ctx.step("one", step)

    task: Any = {"async": in_async, "thread": in_thread, "step": in_step}[kind]
    app.enqueue_many([task.call(way) for way in range(len(WAYS))])
    async with working(app, concurrency=2):
        await ended(app, "dead", len(WAYS))
        assert held.made == 14
        assert held.alive == 0


@pytest.mark.parametrize("around", [False, True], ids=["alone", "around"])
async def test_a_thread_lets_go_by_itself(app: App, held: Held, around: bool) -> None:
    """Before the event loop, which is held up here, hears of the failure."""
    waiting, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    gone: list[bool] = []
    errors: list[BaseException] = []

    if around:

        @app.around_run
        @contextmanager
        def inside(ctx: Context) -> Iterator[None]:
            try:
                yield
            except Exception as error:
                assert error.__traceback__ is not None
                errors.append(error)
                raise
            finally:
                errors.clear()

    @app.task(name="fails", max_retries=0)
    def fails() -> None:
        loop.call_soon_threadsafe(waiting.set)
        go.wait()
        in_a_group(held)

    @app.task(name="holds_up")
    async def holds_up() -> None:
        await waiting.wait()
        go.set()
        gone.append(eventually(lambda: held.made == 6 and held.alive == 0))

    await fails.aenqueue()
    await holds_up.aenqueue()
    async with working(app):
        await ended(app, "dead", 1)
        await ended(app, "succeeded", 1)
    assert gone == [True]
    (attempt,) = await app.aclient.attempts(1)
    assert "in in_a_group" in (attempt.traceback or "")


async def test_a_manager_on_the_loop_sees_the_locals_of_a_failed_thread(app: App) -> None:
    """As error trackers show them."""
    seen: list[Any] = []

    @app.around_run
    @asynccontextmanager
    async def tracker(ctx: Context) -> AsyncIterator[None]:
        try:
            yield
        except ValueError as error:
            traceback = error.__traceback__
            while traceback is not None:
                seen.append(dict(traceback.tb_frame.f_locals))
                traceback = traceback.tb_next
            raise

    @app.around_run
    @contextmanager
    def beside_it(ctx: Context) -> Iterator[None]:
        yield

    @app.task(name="fails", max_retries=0)
    def fails() -> None:
        kept = "still here"
        raise ValueError(kept)

    await fails.aenqueue()
    await drain(app)
    assert seen[-1] == {"kept": "still here"}


async def ended(app: App, status: Any, count: int) -> None:
    from tests.support import eventually_async

    async def all_ended() -> bool:
        return await app.aclient.count(status=status) == count

    await eventually_async(all_ended)


async def test_so_do_swallowed_and_interrupted_ones_and_those_of_child_tasks(
    app: App, held: Held
) -> None:
    @app.around_run
    @contextmanager
    def swallows(ctx: Context) -> Iterator[None]:
        try:
            yield
        except KeyError:
            return

    @app.task(name="swallowed")
    async def swallowed() -> None:
        keeping_itself(held)

    @app.task(name="timed_out", timeout=0.05, max_retries=0)
    async def timed_out() -> None:
        big = held.big()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            kept = error
            raise RuntimeError(f"{big}") from kept

    @app.task(name="child", max_retries=0)
    async def child() -> None:
        async def fails() -> None:
            await asyncio.sleep(0)
            keeping_itself(held)

        big = held.big()
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(fails())
        assert big

    await swallowed.aenqueue()
    await timed_out.aenqueue()
    await child.aenqueue()
    async with working(app):
        await ended(app, "succeeded", 1)
        await ended(app, "dead", 2)
        assert held.made == 5
        assert held.alive == 0


async def test_so_do_hooks(app: App, held: Held) -> None:
    called = 0

    @app.task(name="t")
    async def t() -> None: ...

    @app.on_success
    def sync_hook(ended: Ended) -> None:
        nonlocal called
        called += 1
        keeping_itself(held)

    @app.on_success
    async def async_hook(ended: Ended) -> None:
        nonlocal called
        called += 1
        keeping_the_traceback(held)

    await t.aenqueue()
    await drain(app)
    assert (called, held.made, held.alive) == (2, 2, 0)


async def test_so_do_process_tasks(app: App, conn: psycopg.Connection) -> None:
    process_tasks.app.use(dsn=app.dsn)
    process_tasks.fails_big.enqueue()
    counted = process_tasks.count_big.with_priority(-1).enqueue()
    await drain(process_tasks.app, processes=1, concurrency=1)
    assert await counted.aresult() == [1, 0]


def test_frames_that_go_on_are_left_alone() -> None:
    """A reader task or a generator that handed an error over is not ended by the job that got it."""
    handed: list[BaseException] = []

    def reader() -> Iterator[int]:
        try:
            raise ConnectionError("lost")
        except ConnectionError as error:
            handed.append(error)
        yield 1
        yield 2

    async def areader() -> str:
        try:
            raise ConnectionError("lost")
        except ConnectionError as error:
            handed.append(error)
        await asyncio.sleep(0)
        return "done"

    def fails(error: BaseException) -> None:
        raise error

    goes_on = reader()
    assert next(goes_on) == 1

    async def run() -> str:
        task = asyncio.create_task(areader())
        await asyncio.sleep(0)
        for each in handed:
            with pytest.raises(ConnectionError) as raised:
                fails(each)
            clear_tracebacks(raised.value)
        return await task

    assert asyncio.run(run()) == "done"
    assert next(goes_on) == 2


def test_a_frame_that_runs_is_left_alone() -> None:
    go, errors = threading.Event(), []
    ready = threading.Event()

    def run(done: Callable[[], None]) -> None:
        local = "still here"
        try:
            raise ValueError
        except ValueError as error:
            errors.append(error)
        ready.set()
        go.wait()
        assert local == "still here"
        done()

    finished: list[int] = []
    thread = threading.Thread(target=run, args=[lambda: finished.append(1)])
    thread.start()
    ready.wait()
    clear_tracebacks(errors[0])
    go.set()
    thread.join()
    assert finished == [1]


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("run", ["async", "thread"])
async def test_a_run_leaves_nothing_to_the_garbage_collector(app: App, run: str) -> None:
    """With the collector off. What refers to itself costs a fast job half as much again: the collector goes over all of them."""
    if run == "async":

        @app.task(name="t")
        async def one() -> None: ...
    else:

        @app.task(name="t")
        def two() -> None: ...

    await app.aclient.insert([NewJob("t", "{}")] * 20)
    await Worker(app, drain=True, concurrency=5).arun()
    left = [each for each in gc.get_objects() if isinstance(each, Context)]
    assert len(left) <= 1, "the last one's frames may still be there"
