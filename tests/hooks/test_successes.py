"""``on_success`` is called once for each success that is recorded, and for nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, Ended
from tests.isolation import process_tasks
from tests.support import drain, eventually_async, statuses, working


@pytest.fixture
def heard(app: App) -> Counter[int]:
    """How often each job was heard of."""
    found: Counter[int] = Counter()

    @app.on_success
    async def success(ended: Ended) -> None:
        found[ended.job_id] += 1

    return found


def completing(app: App, **options: Any) -> list[Any]:
    """Tasks that complete their jobs themselves, in each of the ways."""

    @app.task(name="sync_transaction", **options)
    def sync_transaction(ctx: Context) -> None:
        with ctx.transaction() as connection:
            connection.execute("select 1")

    @app.task(name="async_transaction", **options)
    async def async_transaction(ctx: Context) -> None:
        async with ctx.transaction() as connection:
            await connection.execute("select 1")

    @app.task(name="sync_complete", **options)
    def sync_complete(ctx: Context) -> None:
        with psycopg.connect(app.dsn) as connection:
            ctx.complete(connection)

    @app.task(name="async_complete", **options)
    async def async_complete(ctx: Context) -> None:
        async with app.connections.aio() as connection, connection.transaction():
            await ctx.acomplete(connection)

    return [sync_transaction, async_transaction, sync_complete, async_complete]


@pytest.mark.parametrize("result", [False, True])
@pytest.mark.parametrize("keep", ["7d", "0s"])
async def test_jobs_that_complete_themselves(
    app: App, conn: psycopg.Connection, heard: Counter[int], result: bool, keep: str
) -> None:
    ids = [task.enqueue().id for task in completing(app, result=result) for _ in range(5)]

    @app.task(name="plain", result=result)
    async def plain() -> None: ...

    ids += [plain.enqueue().id for _ in range(5)]
    await drain(app, keep_succeeded=keep)
    assert heard == Counter(ids)


async def test_one_that_raises_after_it(
    app: App, conn: psycopg.Connection, heard: Counter[int], caplog: pytest.LogCaptureFixture
) -> None:
    ids = []
    for task in completing(app):

        def after(ctx: Context, function: Any = task.function) -> Any:
            if asyncio.iscoroutinefunction(function):
                return aafter(ctx, function)
            function(ctx)
            raise ValueError("after it")

        async def aafter(ctx: Context, function: Any) -> None:
            await function(ctx)
            raise ValueError("after it")

        name = f"after_{task.name}"
        ids.append(app.task(name=name, max_retries=0)(bound(after, task.function)).enqueue().id)
    await drain(app)
    assert statuses(conn) == dict.fromkeys(ids, "succeeded")
    assert heard == Counter(ids)
    assert sum("ValueError after its completion" in r.getMessage() for r in caplog.records) == 4


def bound(function: Any, inner: Any) -> Any:
    def handler(ctx: Context) -> Any:
        return function(ctx, inner)

    return handler


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_completion_that_was_not_committed_is_none(
    app: App, conn: psycopg.Connection, heard: Counter[int], kind: str
) -> None:
    @app.task(name="sync", max_retries=3, backoff="1h")
    def sync(ctx: Context, raises: bool) -> None:
        connection = psycopg.connect(app.dsn)
        ctx.complete(connection)
        connection.rollback()
        connection.close()
        if raises:
            raise ValueError("no")

    @app.task(name="async", max_retries=3, backoff="1h")
    async def asynchronous(ctx: Context, raises: bool) -> None:
        async with app.connections.aio() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await ctx.acomplete(connection)
            await transaction.rollback()
        if raises:
            raise ValueError("no")

    task: Any = sync if kind == "sync" else asynchronous
    quiet, loud = task.enqueue(False).id, task.enqueue(True).id
    await drain(app)
    errors = dict(conn.execute("select id, last_error from pgqueue.jobs").fetchall())  # type: ignore[arg-type]
    assert errors[loud] == "ValueError: no"
    assert errors[quiet].startswith("NotCommitted: ctx.complete() was called")
    crashes = conn.execute("select status, crashes, attempt from pgqueue.jobs").fetchall()
    assert crashes == [("pending", 0, 1)] * 2
    assert heard == Counter()


async def test_a_lost_claim_is_not_heard_of(
    app: App, conn: psycopg.Connection, heard: Counter[int]
) -> None:
    started, go = threading.Event(), threading.Event()

    def taken() -> None:
        started.set()
        go.wait()

    @app.task(name="plain")
    def plain() -> None:
        taken()

    @app.task(name="kept", result=True)
    def kept() -> int:
        taken()
        return 1

    @app.task(name="innocent")
    async def innocent() -> None: ...

    for task in (plain, kept):
        started.clear()
        go.clear()
        lost = task.enqueue().id
        async with working(app) as worker:
            await eventually_async(started.is_set)
            conn.execute(
                "update pgqueue.jobs set claim_id = gen_random_uuid(), attempt = attempt + 1"
                " where id = %s",
                [lost],
            )
            good = [innocent.enqueue().id for _ in range(3)]
            go.set()
            await eventually_async(
                lambda good=good: all(statuses(conn)[i] == "succeeded" for i in good)
            )
            await eventually_async(lambda worker=worker: not list(worker._held()))
        assert lost not in heard
        assert [heard[each] for each in good] == [1, 1, 1]


async def test_a_success_recorded_without_an_answer_is_heard_of_once(
    app: App, conn: psycopg.Connection, heard: Counter[int]
) -> None:
    from pgqueue.worker.database import DatabaseAway

    @app.task(name="t")
    async def t() -> None: ...

    async with working(app, concurrency=5) as worker:
        run = worker.database.run
        lost: list[str] = []

        async def without_answer(operation: Any, **more: Any) -> Any:
            found = await run(operation, **more)
            name = operation.statement
            if name in ("trade", "complete") and name not in lost and operation.values["ids"]:
                lost.append(name)
                raise DatabaseAway("no answer", sent=True)
            return found

        worker.database.run = without_answer  # type: ignore[method-assign]
        ids = [t.enqueue().id for _ in range(10)]
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
        await eventually_async(lambda: len(heard) == 10)
    assert lost
    assert heard == Counter(ids)


async def test_process_tasks(app: App, conn: psycopg.Connection) -> None:
    process_tasks.app.use(dsn=app.dsn)
    process_tasks.heard.clear()
    ids = [
        process_tasks.completes.enqueue(how, app.dsn).id for how in ("return", "raise", "roll back")
    ]
    await drain(process_tasks.app, processes=1)
    rows = conn.execute("select status, last_error from pgqueue.jobs order by id").fetchall()
    assert [row[0] for row in rows] == ["succeeded", "succeeded", "pending"]
    assert rows[2][1].startswith("NotCommitted")
    assert sorted(process_tasks.heard) == ids[:2]
