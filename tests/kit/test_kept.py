"""What the kit keeps off a real database, and what it does without one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from pgqueue import (
    App,
    ConfigError,
    ConnectionUnusable,
    Context,
    JobFailed,
    ResultMissing,
    ScheduleNotFound,
    Task,
)
from pgqueue.connect import asyncpg_uri
from pgqueue.testing import AsyncQueueTester, QueueTester, context, inline
from tests.enqueue.connections import url

FORGOTTEN = r"give it the test's, \.on\(connection\)"


@pytest.fixture
def tasks(app: App) -> dict[str, Task[Any, Any]]:
    @app.task(name="mail", result=True)
    def mail(to: str) -> str:
        if to == "nobody":
            raise ValueError("no such mailbox")
        return f"to {to}"

    @app.task(name="fan-out")
    def fan_out() -> None:
        mail.enqueue("from a handler")
        app.emit("happened")
        app.chain(mail.call("chained")).enqueue()

    @app.task(name="afan-out")
    async def afan_out() -> None:
        await mail.aenqueue("from a handler")
        await app.aemit("happened")
        await app.chain(mail.call("chained")).aenqueue()

    return {"mail": mail, "fan_out": fan_out, "afan_out": afan_out}


def nothing_stayed(conn: psycopg.Connection) -> bool:
    counts = [conn.execute(f"select count(*) from pgqueue.{name}".encode()).fetchone()
              for name in ("jobs", "schedules", "events", "workflows", "queues")]  # fmt: skip
    return counts == [(0,)] * 5


WRITES = [
    lambda app, mail: mail.enqueue("a"),
    lambda app, mail: app.enqueue_many([mail.call("a")]),
    lambda app, mail: app.chain(mail.call("a")).enqueue(),
    lambda app, mail: app.emit("e"),
    lambda app, mail: app.client.pause("q"),
    lambda app, mail: app.client.add_schedule("s", "@daily", mail.call("a")),
]
AWRITES = [
    lambda app, mail: mail.aenqueue("a"),
    lambda app, mail: app.aenqueue_many([mail.call("a")]),
    lambda app, mail: app.chain(mail.call("a")).aenqueue(),
    lambda app, mail: app.aemit("e"),
    lambda app, mail: app.aclient.pause("q"),
    lambda app, mail: app.aclient.add_schedule("s", "@daily", mail.call("a")),
]


async def test_a_forgotten_connection_is_refused(
    app: App, dsn: str, conn: psycopg.Connection, tasks: Any
) -> None:
    with psycopg.connect(dsn) as mine, QueueTester(app, mine):
        for write in WRITES:
            with pytest.raises(ConnectionUnusable, match=FORGOTTEN):
                write(app, tasks["mail"])
        for awrite in AWRITES:
            with pytest.raises(ConnectionUnusable, match=FORGOTTEN):
                await awrite(app, tasks["mail"])
        mine.rollback()
    amine = await asyncpg.connect(asyncpg_uri(dsn))
    async with AsyncQueueTester(app, amine):
        for each in (*WRITES, *AWRITES):
            with pytest.raises(ConnectionUnusable, match=FORGOTTEN):
                await each(app, tasks["mail"])
    await amine.close()
    assert nothing_stayed(conn)
    tasks["mail"].enqueue("a")  # the kit is no longer active
    assert not nothing_stayed(conn)


async def test_or_it_joins(app: App, dsn: str, conn: psycopg.Connection, tasks: Any) -> None:
    with psycopg.connect(dsn) as mine:
        with QueueTester(app, mine, join=True) as pgq:
            for write in WRITES:
                write(app, tasks["mail"])
            pgq.assert_enqueued("mail", count=3)
            for awrite in AWRITES:
                await awrite(app, tasks["mail"])
            pgq.assert_enqueued("mail", count=6)
        mine.rollback()
    amine = await asyncpg.connect(asyncpg_uri(dsn))
    transaction = amine.transaction()
    await transaction.start()
    async with AsyncQueueTester(app, amine, join=True) as apgq:
        for awrite in AWRITES:
            await awrite(app, tasks["mail"])
        await apgq.assert_enqueued("mail", count=3)
        with pytest.raises(ConnectionUnusable, match="await aenqueue"):
            tasks["mail"].enqueue("a")
    await transaction.rollback()
    await amine.close()
    assert nothing_stayed(conn)


def test_what_drained_handlers_enqueue_stays_in_the_test(
    app: App, dsn: str, conn: psycopg.Connection, tasks: Any
) -> None:
    with psycopg.connect(dsn) as mine:
        pgq = QueueTester(app, mine)
        for name in ("fan_out", "afan_out"):
            tasks[name].on(mine).enqueue()
        assert len(pgq.drain().succeeded) == 6
        mine.rollback()
    assert nothing_stayed(conn)


async def test_the_same_on_an_async_connection(
    app: App, dsn: str, conn: psycopg.Connection, tasks: Any
) -> None:
    engine = create_async_engine(url(dsn, "asyncpg"), poolclass=NullPool)
    async with AsyncSession(engine) as session, AsyncQueueTester(app, session) as apgq:
        for name in ("fan_out", "afan_out"):
            await tasks[name].on(session).aenqueue()
        assert len((await apgq.drain()).succeeded) == 6
        await session.rollback()
    await engine.dispose()
    assert nothing_stayed(conn)


async def test_results_of_what_was_drained(app: App, dsn: str, tasks: Any) -> None:
    with psycopg.connect(dsn) as mine, QueueTester(app, mine) as pgq:
        handle = tasks["mail"].on(mine).enqueue("ada")
        with pytest.raises(TimeoutError, match=r"drain\(\) runs it"):
            handle.result()
        pgq.drain()
        assert handle.result() == await handle.aresult() == "to ada"
        mine.rollback()
    amine = await asyncpg.connect(asyncpg_uri(dsn))
    async with amine.transaction(), AsyncQueueTester(app, amine) as apgq:
        handle = await tasks["mail"].on(amine).aenqueue("ada")
        await apgq.drain()
        assert await handle.aresult() == "to ada"
    await amine.close()


async def test_a_schedule_is_run(app: App, dsn: str, conn: psycopg.Connection) -> None:
    ticks: list[object] = []

    @app.task(name="nightly", cron="0 3 * * *")
    def nightly(ctx: Context) -> None:
        ticks.append(ctx.tick)

    with psycopg.connect(dsn) as mine:
        with QueueTester(app, mine) as pgq:
            assert pgq.run_schedule("nightly") > 0
            # As the client does, once it is there.
            app.client.run_schedule("nightly", on=mine)
            assert len(pgq.drain().succeeded) == 2
            with pytest.raises(ScheduleNotFound):
                pgq.run_schedule("weekly")
        mine.rollback()
    amine = await asyncpg.connect(asyncpg_uri(dsn))
    transaction = amine.transaction()
    await transaction.start()
    async with AsyncQueueTester(app, amine) as apgq:
        assert await apgq.run_schedule("nightly") > 0
        assert len((await apgq.drain()).succeeded) == 1
    await transaction.rollback()
    await amine.close()
    assert len(ticks) == 3
    assert nothing_stayed(conn)


def test_hooks_are_not_called(app: App, dsn: str, tasks: Any) -> None:
    called: list[object] = []
    app.on_success(called.append)
    app.around_run(called.append)
    with psycopg.connect(dsn) as mine, QueueTester(app, mine) as pgq:
        tasks["mail"].on(mine).enqueue("ada")
        pgq.drain()
        mine.rollback()
    with inline(app):
        tasks["mail"].enqueue("ada")
    assert called == []


async def test_results_inline(app: App, tasks: Any, conn: psycopg.Connection) -> None:
    @app.task(name="plain")
    async def plain() -> int:
        return await double.enqueue(4).aresult(0)  # type: ignore[no-any-return]

    @app.task(name="double", result=True)
    async def double(n: int) -> int:
        return 2 * n

    with inline(app):
        for handle in (tasks["mail"].enqueue("ada"), await tasks["mail"].aenqueue("ada")):
            assert handle.result(0) == await handle.aresult(1) == "to ada"
        (one, two) = app.enqueue_many([double.call(1), double.call(2)])
        assert (one.result(), await two.aresult()) == (2, 4)
        with pytest.raises(ResultMissing, match="result=True"):
            plain.enqueue().result()
    assert nothing_stayed(conn)


async def test_workflows_inline(app: App, conn: psycopg.Connection) -> None:
    ran: list[str] = []

    @app.task(name="number")
    def number(n: int) -> int:
        if n < 0:
            raise ValueError(f"no {n}")
        return n

    @app.task(name="total")
    async def total(a: int | None, b: int | None) -> int:
        ran.append(f"total {a} {b}")
        return (a or 0) + (b or 0)

    @app.task(name="note")
    def note(text: str) -> None:
        ran.append(text)

    def made(b: int) -> Any:
        flow = app.workflow("sums")
        first, second = flow.add(number.call(1)), flow.add(number.call(b))
        both = flow.add(total.call(first.result, second.result), if_failed="continue")
        both.then(note.call("after"))
        flow.add(note.call("well"), after=second)
        flow.add(note.call("alarm"), after=[first, second], if_failed="only")
        flow.add(note.call("held"), after=second, if_failed="hold")
        return flow, both

    with inline(app):
        flow, both = made(2)
        assert flow.enqueue()[both].result() == 3
        assert ran == ["total 1 2", "after", "well", "held"]
        ran.clear()
        flow, both = made(3)
        assert await (await flow.aenqueue())[both].aresult() == 4
        ran.clear()
        with pytest.raises(ValueError, match="no -1"):
            made(-1)[0].enqueue()
        assert ran == ["total 1 None", "after", "alarm"]
        batch = app.batch([number.call(1)], on_failure=note.call("no")).enqueue()
        with pytest.raises(JobFailed, match="cancelled"):
            batch.jobs[1].result()
    assert nothing_stayed(conn)


async def test_a_context_for_calling_a_task(app: App, dsn: str, conn: psycopg.Connection) -> None:
    conn.execute("create table notes (job bigint)")
    tick = datetime(2026, 1, 1, tzinfo=UTC)

    @app.task(name="sync")
    def sync(ctx: Context, n: int) -> tuple[Any, ...]:
        ctx.log.info("begun")
        ctx.progress(1, 2)
        ctx.sleep("1h")
        doubled = ctx.step("double", lambda: n * 2)
        ctx.transaction_step("insert", lambda c: c.execute("insert into notes values (1)") and None)
        with ctx.transaction() as mine:
            mine.execute("insert into notes values (%s)", (ctx.id,))
        return doubled, ctx.attempt, ctx.tick, ctx.resource(str), ctx.idempotency_key

    @app.task(name="async")
    async def asynchronous(ctx: Context) -> None:
        async def insert(connection: Any) -> None:
            await connection.execute("insert into notes values (1)")

        await ctx.sleep("1h")
        await ctx.transaction_step("insert", insert)
        async with ctx.transaction() as mine:
            await mine.execute("insert into notes values ($1)", ctx.id)

    with psycopg.connect(dsn) as mine:
        ctx = context(mine, id=7, attempt=3, tick=tick, resources={str: "r"})
        found = await asyncio.to_thread(sync, ctx, 21)
        assert found[:4] == (42, 3, tick, "r")
        assert ctx.completed
        assert mine.execute("select job from notes order by job").fetchall() == [(1,), (7,)]
        mine.rollback()
    amine = await asyncpg.connect(asyncpg_uri(dsn))
    await asynchronous(context(amine))
    assert await amine.fetchval("select count(*) from notes") == 2
    await amine.close()
    assert context().task == "test"
    with pytest.raises(ConfigError, match="no connection: give context"):
        await asyncio.to_thread(sync, context(resources={str: "r"}), 1)
    with pytest.raises(ConfigError, match="no connection: give context"):
        await asynchronous(context())
    with pytest.raises(ConfigError, match=r"QueueTester\.drain"):
        context().wait_for_event("e")


CONFTEST = """
import pytest
from pgqueue import App
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

app = App({dsn!r})

@app.task(name="greet")
async def greet(whom: str) -> None: ...

@pytest.fixture
def pgqueue_app():
    return app

@pytest.fixture
async def pgqueue_async_connection():
    engine = create_async_engine({url!r})
    async with engine.connect() as connection:
        await connection.begin()
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            yield session
        await connection.rollback()
    await engine.dispose()
"""
TEST = """
import pytest
from conftest import greet
from pgqueue import ConnectionUnusable

async def test_greeting(apgq, pgqueue_async_connection):
    await greet.on(pgqueue_async_connection).aenqueue("ada")
    await pgqueue_async_connection.commit()
    await apgq.assert_enqueued(greet, whom="ada")
    assert len((await apgq.drain()).succeeded) == 1
    with pytest.raises(ConnectionUnusable):
        await greet.aenqueue("eve")
"""


def test_the_async_fixture(dsn: str, conn: psycopg.Connection, tmp_path: Path) -> None:
    conftest = CONFTEST.format(dsn=dsn, url=url(dsn, "asyncpg"))
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_greeting.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "1 passed" in done.stdout, done.stdout
    assert nothing_stayed(conn)
