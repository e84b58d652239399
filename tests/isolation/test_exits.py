"""SystemExit, KeyboardInterrupt and GeneratorExit fail the job they came from; the worker and all other jobs go on."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, Ended, Job
from tests.isolation import exiting_tasks, process_tasks
from tests.processes import Workers
from tests.support import drain, eventually, statuses

KINDS = {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt,
         "GeneratorExit": GeneratorExit}  # fmt: skip


async def _raises(how: str) -> None:
    await asyncio.sleep(0)
    raise KINDS[how]("why")


async def itself(how: str) -> None:
    await _raises(how)


async def child(how: str) -> None:
    await asyncio.create_task(_raises(how))


async def of_a_group(how: str) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_raises(how))
        group.create_task(asyncio.sleep(60))


async def gathered(how: str) -> None:
    await asyncio.gather(_raises(how), asyncio.sleep(0))


@pytest.mark.parametrize("way", [itself, child, of_a_group, gathered])
@pytest.mark.parametrize("how", KINDS)
async def test_in_an_event_loop_of_others(
    app: App, conn: psycopg.Connection, way: Any, how: str
) -> None:
    bad = app.task(name="bad", max_retries=0)(way)
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    started = asyncio.Event()

    @app.task(name="innocent")
    async def innocent() -> None:
        started.set()
        for _ in range(20):
            await asyncio.sleep(0.01)

    @app.task(name="first")
    async def first() -> None:
        await started.wait()
        await bad.aenqueue(how)

    good = [innocent.enqueue().id, first.enqueue().id]
    await drain(app)
    found = statuses(conn)
    assert [found.pop(each) for each in good] == ["succeeded"] * 2
    assert list(found.values()) == ["dead"]
    (error,) = conn.execute("select last_error from pgqueue.jobs where status = 'dead'").fetchone()  # type: ignore[misc]
    traceback = conn.execute("select traceback from pgqueue.attempts").fetchone()
    assert how in f"{error} {traceback}"
    assert loop.get_task_factory() is before


async def test_a_thread_a_class_and_what_goes_around(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="thread", max_retries=0)
    def thread(how: str) -> None:
        raise KINDS[how]("why")

    @app.job
    class Bad(Job):
        name = "bad_class"
        how: str
        max_retries = 0

        def backoff(self, attempt: int) -> float:
            raise KINDS[self.how]("why")

        async def handle(self, ctx: Context) -> None:
            await ctx.step("one", _raises, self.how)

    for how in KINDS:
        thread.enqueue(how)
        app.dispatch(Bad(how)).enqueue()
    await drain(app)
    errors = conn.execute(
        "select task, split_part(last_error, ':', 1) from pgqueue.jobs"
    ).fetchall()
    assert sorted(errors) == sorted(
        (task, how) for task in ("bad_class", "thread") for how in KINDS
    )


@pytest.mark.parametrize("how", [*KINDS, "StopIteration", "CancelledError"])
async def test_hooks(
    app: App, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    error: Any = (KINDS | {"StopIteration": StopIteration, "CancelledError": asyncio.CancelledError})[
        how
    ]  # fmt: skip
    called: list[str] = []

    @app.task(name="t")
    async def t() -> None: ...

    @app.on_success
    def sync_hook(ended: Ended) -> None:
        called.append("sync")
        raise error

    @app.on_success
    async def async_hook(ended: Ended) -> None:
        called.append("async")
        if how == "StopIteration":
            raise RuntimeError  # what Python makes of it in a coroutine
        raise error

    ids = [t.enqueue().id for _ in range(3)]
    await drain(app)
    assert statuses(conn) == dict.fromkeys(ids, "succeeded")
    assert sorted(called) == ["async"] * 3 + ["sync"] * 3
    assert sum("the hook" in record.getMessage() for record in caplog.records) == 6


async def test_process_tasks(app: App, conn: psycopg.Connection) -> None:
    process_tasks.app.use(dsn=app.dsn)
    bad = [process_tasks.exits.enqueue(how).id for how in KINDS]
    good = process_tasks.good.enqueue().id
    await drain(process_tasks.app, processes=1)
    assert statuses(conn) == dict.fromkeys(bad, "dead") | {good: "succeeded"}


def test_a_worker_process_goes_on(dsn: str, conn: psycopg.Connection) -> None:
    """Whatever raises, and wherever, in a worker with an event loop of its own."""
    exiting_tasks.app.use(dsn=dsn)
    workers = Workers(dsn, "tests.isolation.exiting_tasks:app")
    try:
        innocent = exiting_tasks.innocent.enqueue().id
        process = workers.start("--concurrency", "20")
        eventually(lambda: statuses(conn)[innocent] == "running")
        bad = [
            exiting_tasks.bad.enqueue(way, how).id for way in exiting_tasks.WAYS for how in KINDS
        ]
        stray = [exiting_tasks.stray.enqueue(how).id for how in KINDS]
        eventually(lambda: {statuses(conn)[each] for each in bad} == {"dead"})
        eventually(lambda: {statuses(conn)[each] for each in stray} == {"succeeded"})
        stops = exiting_tasks.stops.enqueue().id
        eventually(lambda: statuses(conn)[stops] == "succeeded")
        cancels = [
            exiting_tasks.cancels.with_max_retries(0).enqueue(itself).id for itself in (False, True)
        ]
        eventually(lambda: [statuses(conn)[each] for each in cancels] == ["succeeded", "dead"])
        conn.execute("create table go ()")
        eventually(lambda: statuses(conn)[innocent] == "succeeded")
        assert conn.execute(
            "select attempt, crashes from pgqueue.jobs where id = %s", [innocent]
        ).fetchone() == (1, 0)
        assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=30) == 0
    finally:
        workers.end()
