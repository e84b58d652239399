"""The caller's own connections and sessions in ``ctx.transaction(on=...)`` and ``ctx.transaction_step(..., on=...)``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgqueue import App, ConnectionUnusable, Context, Status
from tests.enqueue.connections import asyncpg_uri, django_connection_of, url
from tests.support import drain, statuses

Conn = psycopg.Connection[Any]
INSERT = "insert into effects values ('{}')"


@contextmanager
def sync_one(kind: str, dsn: str) -> Iterator[tuple[Any, Callable[[str], Any]]]:
    """A connection or session of the caller's, and how it runs a statement."""
    match kind:
        case "psycopg" | "psycopg autocommit" | "psycopg after a read":
            with psycopg.connect(dsn, autocommit=kind == "psycopg autocommit") as own:
                if kind == "psycopg after a read":
                    own.execute("select 1")
                yield own, own.execute
        case "core":
            with create_engine(url(dsn, "psycopg"), poolclass=NullPool).connect() as core:
                yield core, lambda statement: core.execute(text(statement))
        case "session" | "session after a read":
            with Session(create_engine(url(dsn, "psycopg"), poolclass=NullPool)) as session:
                if kind == "session after a read":
                    session.execute(text("select 1"))
                yield session, lambda statement: session.execute(text(statement))
        case _:
            with django_connection_of(dsn) as django:

                def execute(statement: str) -> None:
                    with django.cursor() as cursor:
                        cursor.execute(statement)

                yield django, execute


@asynccontextmanager
async def async_one(kind: str, dsn: str) -> AsyncIterator[tuple[Any, Callable[[str], Any]]]:
    """The same, async."""
    match kind:
        case "asyncpg":
            own = await asyncpg.connect(asyncpg_uri(dsn))
            try:
                yield own, own.execute
            finally:
                await own.close()
        case "psycopg async":
            async with await psycopg.AsyncConnection.connect(dsn) as other:
                yield other, other.execute
        case _:
            driver = "psycopg" if "psycopg" in kind else "asyncpg"
            engine = create_async_engine(url(dsn, driver), poolclass=NullPool)
            if kind.startswith("core"):
                async with engine.connect() as core:
                    yield core, lambda statement: core.execute(text(statement))
            else:
                async with AsyncSession(engine) as session:
                    if "after a read" in kind:
                        await session.execute(text("select 1"))
                    yield session, lambda statement: session.execute(text(statement))
            await engine.dispose()


SYNC = ["psycopg", "psycopg autocommit", "psycopg after a read", "core", "session", "session after a read", "django"]  # fmt: skip
ASYNC = ["asyncpg", "psycopg async", "core asyncpg", "core psycopg", "session asyncpg", "session psycopg", "session asyncpg after a read"]  # fmt: skip
ENDS = ["commits", "raises", "lost"]


async def test_what_is_written_and_the_job_go_together(app: App, dsn: str, conn: Conn) -> None:
    """Each kind of connection, each way to end, in one job each."""
    conn.execute("create table effects (what text)")

    def set_up() -> None:
        with django_connection_of(dsn):
            pass

    await asyncio.to_thread(set_up)  # Django, once and not in several threads

    def end(how: str, job_id: int) -> None:
        if how == "raises":
            raise ValueError("after the write")
        if how == "lost":
            conn.execute(
                "update pgqueue.jobs set status = 'cancelled', finished_at = now(), worker_id = null,"
                " claim_id = null where id = %s",
                [job_id],
            )

    @app.task(name="sync", max_retries=0)
    def sync(ctx: Context, kind: str, verb: str, how: str) -> None:
        with sync_one(kind, dsn) as (own, execute):

            def effect(given: Any) -> str:
                assert given is own
                execute(INSERT.format(f"{kind} {verb} {how}"))
                end(how, ctx.id)
                return kind

            if verb == "transaction":
                with ctx.transaction(on=own) as given:
                    effect(given)
            else:
                assert ctx.transaction_step("effect", effect, on=own) == kind
            execute("select 1")  # it is of use after that

    @app.task(name="async", max_retries=0)
    async def by_loop(ctx: Context, kind: str, verb: str, how: str) -> None:
        async with async_one(kind, dsn) as (own, execute):

            async def effect(given: Any) -> str:
                assert given is own
                await execute(INSERT.format(f"{kind} {verb} {how}"))
                end(how, ctx.id)
                return kind

            if verb == "transaction":
                async with ctx.transaction(on=own) as given:
                    await effect(given)
            else:
                assert await ctx.transaction_step("effect", effect, on=own) == kind
            await execute("select 1")

    jobs = {
        task.enqueue(kind, verb, how).id: (kind, verb, how)
        for task, kinds in ((sync, SYNC), (by_loop, ASYNC))
        for kind in kinds
        for verb in ("transaction", "step")
        for how in ENDS
    }
    await drain(app)
    became = {"commits": Status.SUCCEEDED, "raises": Status.DEAD, "lost": Status.CANCELLED}
    for job_id, (kind, verb, how) in jobs.items():
        job = app.client.job(job_id)
        assert job.status is became[how], (kind, verb, how, job.last_error)
        if how == "raises":
            assert "after the write" in str(job.last_error)
    written = {row[0] for row in conn.execute("select what from effects").fetchall()}
    assert written == {f"{k} {verb} commits" for k, verb, how in jobs.values() if how == "commits"}
    steps = conn.execute("select count(*) from pgqueue.steps").fetchone()
    assert steps == (len(SYNC) + len(ASYNC),)


async def test_what_is_refused(app: App, dsn: str, conn: Conn) -> None:
    """What would not commit here, or each statement by itself; what is of the other kind, or none."""
    said: list[str] = []

    @app.task(name="sync", max_retries=0)
    def sync(ctx: Context) -> None:
        def attempt(own: Any) -> None:
            try:
                with ctx.transaction(on=own):
                    said.append("entered")
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}")

        engine = create_engine(url(dsn, "psycopg"), poolclass=NullPool)
        with Session(engine) as session, session.begin(), session.begin_nested():
            attempt(session)
        with engine.connect() as core:
            attempt(core.execution_options(isolation_level="AUTOCOMMIT"))
        own = create_engine(url(dsn, "psycopg"), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with Session(own) as session:
            attempt(session)
        attempt(object())
        raise ValueError

    @app.task(name="async", max_retries=0)
    async def by_loop(ctx: Context) -> None:
        async with async_one("asyncpg", dsn) as (own, _):
            async with own.transaction():
                with pytest.raises(ConnectionUnusable, match="would go on"):
                    async with ctx.transaction(on=own):
                        raise AssertionError
        with psycopg.connect(dsn) as other:
            with pytest.raises(ConnectionUnusable, match="sync connection"):
                async with ctx.transaction(on=other):
                    raise AssertionError

    jobs = [sync.enqueue().id, by_loop.enqueue().id]
    await drain(app)
    assert [each.partition(":")[0] for each in said] == ["ConnectionUnusable"] * 4
    assert ["would go on" in said[0], "AUTOCOMMIT" in said[1], "AUTOCOMMIT" in said[2]] == [
        True
    ] * 3
    assert statuses(conn) == {jobs[0]: "dead", jobs[1]: "succeeded"}


@pytest.mark.parametrize("kind", ["asyncpg", "session asyncpg", "core asyncpg"])
async def test_a_timeout_ends_the_statement_in_hand(
    app: App, dsn: str, conn: Conn, kind: str
) -> None:
    @app.task(name="t", max_retries=0, timeout="0.3s")
    async def task(ctx: Context) -> None:
        async with async_one(kind, dsn) as (own, execute):
            async with ctx.transaction(on=own):
                await execute("select pg_sleep(60)")

    task.enqueue()
    async with asyncio.timeout(40):
        await drain(app)
    assert set(statuses(conn).values()) == {"dead"}
    assert "TimeoutError" in str(app.client.job(1).last_error)


@pytest.mark.parametrize("verb", ["transaction", "transaction_step"])
async def test_own_statements_inside_transactions_of_all_slots(
    app: App, conn: Conn, verb: str
) -> None:
    """As many jobs as the worker has slots hold a connection each, and enqueue and do steps meanwhile."""
    slots = 12
    here, threads = asyncio.Barrier(slots), threading.Barrier(slots)

    async def one() -> int:
        return 1

    @app.task(name="child")
    async def child() -> None: ...

    @app.task(name="async", max_retries=0)
    async def by_loop(ctx: Context) -> None:
        async def inside(_: Any) -> None:
            await here.wait()
            await child.aenqueue()
            assert await ctx.step("one", one) == 1

        if verb == "transaction":
            async with ctx.transaction() as connection:
                await inside(connection)
        else:
            await ctx.transaction_step("all", inside)

    @app.task(name="sync", max_retries=0)
    def sync(ctx: Context) -> None:
        def inside(_: Any) -> None:
            threads.wait(20)
            child.enqueue()
            assert ctx.step("one", lambda: 1) == 1

        if verb == "transaction":
            with ctx.transaction() as connection:
                inside(connection)
        else:
            ctx.transaction_step("all", inside)

    for task in (by_loop, sync):
        for _ in range(slots):
            task.enqueue()
        await drain(app, concurrency=slots)
    assert list(statuses(conn).values()) == ["succeeded"] * slots * 4
