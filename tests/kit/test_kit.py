"""The testing kit, on the connections that tests of applications have; nothing outlives their rollback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
from django.db import transaction as django_transaction
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgqueue import App, Backoff, Context, Dead, Job, Task, TaskError
from pgqueue.connect import asyncpg_uri
from pgqueue.testing import AsyncQueueTester, QueueTester, inline
from tests.enqueue.connections import django_connection_of, url


@contextmanager
def a_psycopg_connection(dsn: str) -> Iterator[Any]:
    with psycopg.connect(dsn) as conn:
        yield conn
        conn.rollback()


@contextmanager
def a_session_with_savepoints(dsn: str) -> Iterator[Any]:
    engine = create_engine(url(dsn, "psycopg"), poolclass=NullPool)
    with engine.connect() as conn:
        outer = conn.begin()
        with Session(conn, join_transaction_mode="create_savepoint") as session:
            session.begin_nested()
            yield session
        outer.rollback()


@contextmanager
def a_django_test_case(dsn: str) -> Iterator[Any]:
    with django_connection_of(dsn) as connection:
        with django_transaction.atomic(using=connection.alias):
            yield connection
            django_transaction.set_rollback(True, using=connection.alias)


WAYS: list[Callable[[str], Any]] = [
    a_psycopg_connection,
    a_session_with_savepoints,
    a_django_test_case,
]


@pytest.fixture
def shop(app: App) -> dict[str, Task[Any, Any]]:
    @app.task(name="mail", queue="mail", backoff=Backoff.constant("10m"), max_retries=1)
    def mail(to: str, subject: str = "hi") -> str:
        if to == "nobody":
            raise ValueError("no such mailbox")
        if to == "never":
            raise Dead("for ever")
        if to == "many":
            mail.on(app.test_connection).enqueue("one more")  # type: ignore[attr-defined]
        return to

    @app.task(name="slow", result=True)
    async def slow(n: int) -> int:
        await asyncio.sleep(0)
        return n * 2

    @app.task(name="noted")
    def noted(ctx: Context) -> None:
        with ctx.transaction() as conn:
            conn.execute("insert into notes values (%s)", (ctx.id,))

    return {"mail": mail, "slow": slow, "noted": noted}


@pytest.mark.parametrize("way", WAYS)
def test_on_a_sync_connection(
    app: App, dsn: str, conn: psycopg.Connection, shop: dict[str, Any], way: Callable[[str], Any]
) -> None:
    conn.execute("create table notes (job bigint)")
    mail, slow, noted = shop["mail"], shop["slow"], shop["noted"]
    with way(dsn) as mine:
        app.test_connection = mine  # type: ignore[attr-defined]
        pgq = QueueTester(app, mine)
        pgq.assert_not_enqueued(mail)
        mail.on(mine).enqueue("ada", subject="Thanks")
        for to in ("nobody", "never", "many"):
            mail.on(mine).enqueue(to)
        doubled = slow.on(mine).enqueue(21)
        noted.on(mine).enqueue()
        (job,) = pgq.assert_enqueued(mail, to="ada", subject="Thanks", queue="mail")
        assert job.task == "mail"
        pgq.assert_enqueued("mail", count=4)
        with pytest.raises(
            AssertionError, match=r"no job of mail\(to='bob'\); enqueued are:\n  mail"
        ):
            pgq.assert_enqueued(mail, to="bob")
        with pytest.raises(AssertionError, match="1 jobs instead of 0"):
            pgq.assert_not_enqueued(mail, to="ada")
        mail.on(mine).with_delay("1h").enqueue("later")
        out = pgq.drain()
        assert (len(out.succeeded), len(out.retried), len(out.dead)) == (5, 1, 1)
        assert "ValueError: no such mailbox" in out.errors.values()
        assert app.client.ends([doubled.id], on=mine)[doubled.id].result == "42"
        pgq.travel("15m")
        again = pgq.drain()
        assert (len(again.succeeded), len(again.dead)) == (0, 1), "out of retries"
        pgq.travel("1h")
        assert len(pgq.drain().succeeded) == 1
        assert pgq.enqueued() == []
    assert conn.execute("select count(*) from pgqueue.jobs").fetchone() == (0,)
    assert conn.execute("select count(*) from notes").fetchone() == (0,)


async def a_plan(app: App, mine: Any, shop: dict[str, Any]) -> None:
    pgq = AsyncQueueTester(app, mine)

    @app.task(name="anoted")
    async def anoted(ctx: Context) -> None:
        async with ctx.transaction() as conn:
            await conn.execute("insert into notes values ($1)", ctx.id)

    await pgq.assert_not_enqueued(shop["slow"])
    await shop["slow"].on(mine).aenqueue(4)
    await shop["mail"].on(mine).aenqueue("ada")
    await shop["mail"].on(mine).with_delay("1h").aenqueue("nobody")
    await anoted.on(mine).aenqueue()
    await pgq.assert_enqueued(shop["slow"], n=4, count=1)
    assert len((await pgq.drain()).succeeded) == 3
    await pgq.travel("1h")
    assert len((await pgq.drain()).retried) == 1
    assert len(await pgq.enqueued(shop["mail"])) == 1


async def test_on_asyncpg(app: App, dsn: str, conn: psycopg.Connection, shop: Any) -> None:
    conn.execute("create table notes (job bigint)")
    mine = await asyncpg.connect(asyncpg_uri(dsn))
    transaction = mine.transaction()
    await transaction.start()
    await a_plan(app, mine, shop)
    await transaction.rollback()
    await mine.close()
    assert conn.execute("select count(*) from pgqueue.jobs").fetchone() == (0,)
    assert conn.execute("select count(*) from notes").fetchone() == (0,)


async def test_on_an_async_session(app: App, dsn: str, conn: psycopg.Connection, shop: Any) -> None:
    conn.execute("create table notes (job bigint)")
    engine = create_async_engine(url(dsn, "asyncpg"), poolclass=NullPool)
    async with AsyncSession(engine) as session:
        await a_plan(app, session, shop)
        await session.rollback()
    assert conn.execute("select count(*) from pgqueue.jobs").fetchone() == (0,)
    assert conn.execute("select count(*) from notes").fetchone() == (0,)


def test_limited_unique_and_bad_jobs(app: App, conn: psycopg.Connection) -> None:
    ran: list[str] = []

    @app.task(name="t", limit=1, per="key", unique=True)
    def t(key: str) -> None:
        ran.append(key)

    pgq = QueueTester(app, conn)
    for key in "aab":
        t.on(conn).enqueue(key)
    pgq.drain()
    assert sorted(ran) == ["a", "b"]
    conn.execute("select pgqueue.enqueue('t', '{\"wrong\": 1}')")
    assert len(pgq.drain().dead) == 1
    conn.execute("select pgqueue.enqueue('unheard')")
    with pytest.raises(TaskError, match="no task 'unheard' in this app"):
        pgq.drain()


def test_inline(app: App, shop: dict[str, Any], conn: psycopg.Connection) -> None:
    ran: list[int] = []

    class Note(Job):
        number: int

        async def handle(self) -> None:
            ran.append(self.number)

    with inline(app):
        assert shop["slow"].enqueue(1).id < 0
        app.dispatch(Note(1)).with_delay("1h").enqueue()
        app.enqueue_many([app.dispatch(Note(2)).call()])
        with pytest.raises(ValueError, match="no such mailbox"):
            shop["mail"].enqueue("nobody")
    assert ran == [1, 2]
    shop["slow"].enqueue(1)
    assert conn.execute("select count(*) from pgqueue.jobs").fetchone() == (1,)


async def test_inline_async(app: App, shop: dict[str, Any], conn: psycopg.Connection) -> None:
    conn.execute("create table notes (job bigint)")
    with inline(app):
        await shop["slow"].aenqueue(1)
        await asyncio.to_thread(shop["noted"].enqueue)
        shop["slow"].enqueue(3)
    assert conn.execute("select count(*) from notes").fetchone() == (1,)


def test_what_is_no_task(app: App, conn: psycopg.Connection) -> None:
    with pytest.raises(TaskError, match="a task, a job class or a name"):
        QueueTester(app, conn).enqueued(42)  # type: ignore[arg-type]


CONFTEST = """
import psycopg
import pytest
from pgqueue import App

app = App({dsn!r})

@app.task(name="greet")
def greet(whom: str) -> None: ...

@pytest.fixture
def pgqueue_app():
    return app

@pytest.fixture
def pgqueue_connection():
    with psycopg.connect({dsn!r}) as conn:
        yield conn
        conn.rollback()
"""
TEST = """
from conftest import greet

def test_greeting(pgq, pgqueue_connection):
    greet.on(pgqueue_connection).enqueue("ada")
    pgq.assert_enqueued(greet, whom="ada")
    assert len(pgq.drain().succeeded) == 1
"""
FORGOT = "def test_forgot(pgq): ..."


def test_the_pytest_plugin(dsn: str, tmp_path: Any) -> None:
    import subprocess
    import sys

    (tmp_path / "conftest.py").write_text(CONFTEST.format(dsn=dsn))
    (tmp_path / "test_greeting.py").write_text(TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "1 passed" in done.stdout, done.stdout
    (tmp_path / "conftest.py").unlink()
    (tmp_path / "test_greeting.py").write_text(FORGOT)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "define a fixture pgqueue_app" in done.stdout
