"""The testing kit runs, counts and moves the jobs of the test, and leaves those of others as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg
import psycopg
import pytest
from django.db import transaction as django_transaction
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgqueue import App, Task
from pgqueue.connect import asyncpg_uri
from pgqueue.testing import AsyncQueueTester, QueueTester
from tests.enqueue.connections import url
from tests.kit.test_kit import WAYS, a_django_test_case

Rows = list[tuple[Any, ...]]


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.fixture
def note(app: App, ran: list[str]) -> Task[Any, Any]:
    @app.task(name="note")
    def note(text: str) -> None:
        ran.append(text)

    return note


@pytest.fixture
def narrow(app: App, conn: psycopg.Connection, ran: list[str]) -> Task[Any, Any]:
    conn.execute(
        "insert into pgqueue.tasks (name, max_running, ordered) values ('narrow', 1, 'strict')"
    )
    conn.execute("insert into pgqueue.queues (name, max_running) values ('narrow', 2)")

    @app.task(name="narrow", queue="narrow", limit=1, per="key")
    def narrow(key: str, text: str) -> None:
        ran.append(text)

    return narrow


@pytest.fixture
def others(conn: psycopg.Connection, note: Any, narrow: Any) -> Callable[[], Rows]:
    """Commit jobs of others: due, due later, of a task unknown here, under limits, running. Returns what reads them."""
    note.on(conn).enqueue("other")
    note.on(conn).with_delay("1h").enqueue("other, later")
    narrow.on(conn).enqueue("k", "other")
    for queue in ("default", "narrow"):
        conn.execute("select pgqueue.enqueue('unheard', queue => %s, priority => 9)", [queue])
    busy = [narrow.on(conn).enqueue("k", "other, running").id for _ in range(2)]
    conn.execute(
        "update pgqueue.jobs set status = 'running', claim_id = gen_random_uuid(), worker_id = gen_random_uuid(),"
        " claimed_at = clock_timestamp(), lease_expires_at = clock_timestamp() + interval '1h', attempt = 1"
        " where id = any (%s)",
        [busy],
    )

    def read() -> Rows:
        return conn.execute("select xmin::text, jobs.* from pgqueue.jobs order by id").fetchall()

    return read


@pytest.mark.parametrize("way", WAYS)
def test_of_a_transaction_that_rolls_back(
    app: App, dsn: str, conn: psycopg.Connection, note: Any, narrow: Any, ran: list[str],
    others: Callable[[], Rows], way: Callable[[str], Any],
) -> None:  # fmt: skip
    before = others()
    with way(dsn) as mine, QueueTester(app, mine) as pgq:
        pgq.assert_not_enqueued(note)
        pgq.assert_not_enqueued(narrow)
        assert pgq.enqueued() == []
        assert pgq.drain().succeeded == []
        note.on(mine).enqueue("mine")
        note.on(mine).with_delay("1h").enqueue("mine, later")
        narrow.on(mine).enqueue("k", "mine, one at a time")
        late = note.on(conn).enqueue("other, meanwhile")
        pgq.assert_enqueued(note, count=2)
        pgq.drain()
        assert sorted(ran) == ["mine", "mine, one at a time"]
        pgq.travel("1h")
        pgq.drain()
        assert ran[2:] == ["mine, later"]
        assert pgq.enqueued() == []
        # Whoever looks at rows of others locks none: the others write them meanwhile.
        conn.execute("set lock_timeout = '2s'")
        conn.execute("update pgqueue.jobs set args = args")
        conn.execute("delete from pgqueue.jobs where id = %s", [late.id])
        before = others()
    assert others() == before


def test_savepoints_of_psycopg(app: App, dsn: str, note: Any, ran: list[str], others: Any) -> None:
    with psycopg.connect(dsn) as mine, QueueTester(app, mine) as pgq:
        with mine.transaction():
            note.on(mine).enqueue("released")
            with mine.transaction():
                note.on(mine).enqueue("released twice")
        with mine.transaction(force_rollback=True):
            note.on(mine).enqueue("rolled back")
            pgq.assert_enqueued(note, text="rolled back")
        pgq.assert_not_enqueued(note, text="rolled back")
        mine.execute("savepoint open")
        note.on(mine).enqueue("in one still open")
        pgq.assert_enqueued(note, count=3)
        pgq.drain()
        mine.rollback()
    assert sorted(ran) == ["in one still open", "released", "released twice"]


def test_a_session_that_commits_savepoints(
    app: App, dsn: str, note: Any, ran: list[str], others: Callable[[], Rows]
) -> None:
    before = others()
    engine = create_engine(url(dsn, "psycopg"), poolclass=NullPool)
    with engine.connect() as outer:
        transaction = outer.begin()
        with (
            Session(outer, join_transaction_mode="create_savepoint") as session,
            QueueTester(app, session) as pgq,
        ):
            note.on(session).enqueue("committed")
            session.commit()
            note.on(session).enqueue("rolled back")
            session.rollback()
            note.on(session).enqueue("flushed")
            pgq.assert_enqueued(note, count=2)
            pgq.drain()
        transaction.rollback()
    assert sorted(ran) == ["committed", "flushed"]
    assert others() == before


def test_nested_atomics_of_django(
    app: App, dsn: str, note: Any, ran: list[str], others: Any
) -> None:
    with a_django_test_case(dsn) as mine, QueueTester(app, mine) as pgq:
        with django_transaction.atomic(using=mine.alias):
            note.on(mine).enqueue("outer")
            with django_transaction.atomic(using=mine.alias):
                note.on(mine).enqueue("inner")
        pgq.assert_enqueued(note, count=2)
        pgq.drain()
    assert sorted(ran) == ["inner", "outer"]


async def an_async_plan(
    pgq: AsyncQueueTester, mine: Any, note: Any, narrow: Any, ran: list[str]
) -> None:
    await pgq.assert_not_enqueued(note)
    assert await pgq.enqueued() == []
    assert (await pgq.drain()).succeeded == []
    await note.on(mine).aenqueue("mine")
    await note.on(mine).with_delay("1h").aenqueue("mine, later")
    await narrow.on(mine).aenqueue("k", "mine, one at a time")
    await pgq.assert_enqueued(note, count=2)
    await pgq.drain()
    assert sorted(ran) == ["mine", "mine, one at a time"]
    await pgq.travel("1h")
    await pgq.drain()
    assert ran[2:] == ["mine, later"]


async def test_on_asyncpg_in_savepoints(
    app: App, dsn: str, note: Any, narrow: Any, ran: list[str], others: Callable[[], Rows]
) -> None:
    before = others()
    mine = await asyncpg.connect(asyncpg_uri(dsn))
    transaction = mine.transaction()
    await transaction.start()
    async with AsyncQueueTester(app, mine) as pgq:
        await an_async_plan(pgq, mine, note, narrow, ran)
        async with mine.transaction(), mine.transaction():
            await note.on(mine).aenqueue("in savepoints")
        await pgq.drain()
    await transaction.rollback()
    await mine.close()
    assert ran[3:] == ["in savepoints"]
    assert others() == before


async def test_on_an_async_session(
    app: App, dsn: str, note: Any, narrow: Any, ran: list[str], others: Callable[[], Rows]
) -> None:
    before = others()
    engine = create_async_engine(url(dsn, "asyncpg"), poolclass=NullPool)
    async with engine.connect() as outer:
        await outer.begin()
        async with AsyncSession(outer, join_transaction_mode="create_savepoint") as session:
            pgq = AsyncQueueTester(app, session)  # as the fixture does: not entered
            await an_async_plan(pgq, session, note, narrow, ran)
            await note.on(session).aenqueue("committed")
            await session.commit()
            await pgq.drain()
        await outer.rollback()
    await engine.dispose()
    assert ran[3:] == ["committed"]
    assert others() == before


def test_jobs_that_the_test_changes_are_its_own(
    app: App, dsn: str, conn: psycopg.Connection, note: Any, ran: list[str]
) -> None:
    dead = note.on(conn).enqueue("brought back")
    conn.execute("update pgqueue.jobs set status = 'running'")
    conn.execute("update pgqueue.jobs set status = 'dead', finished_at = now()")
    with psycopg.connect(dsn) as mine, QueueTester(app, mine) as pgq:
        app.client.retry(dead.id, on=mine)
        pgq.drain()
        mine.rollback()
    assert ran == ["brought back"]


def test_a_workflow_is_run_to_its_end(
    app: App, dsn: str, note: Any, ran: list[str], others: Any
) -> None:
    with psycopg.connect(dsn) as mine, QueueTester(app, mine) as pgq:
        app.chain(note.call("first"), note.call("second")).enqueue(on=mine)
        pgq.drain()
        mine.rollback()
    assert ran == ["first", "second"]


def test_what_a_test_commits_is_told_by_its_id(
    app: App,
    dsn: str,
    conn: psycopg.Connection,
    note: Any,
    ran: list[str],
    others: Callable[[], Rows],
) -> None:
    before = others()
    with psycopg.connect(dsn) as mine, QueueTester(app, mine) as pgq:
        note.on(mine).enqueue("committed")
        mine.commit()
        note.on(mine).enqueue("not yet")
        pgq.assert_enqueued(note, count=2)
        pgq.drain()
        mine.commit()
    assert sorted(ran) == ["committed", "not yet"]
    with QueueTester(app, conn) as pgq:
        note.on(conn).enqueue("by itself")
        pgq.drain()
    assert ran[2:] == ["by itself"]
    assert others()[: len(before)] == before


async def test_what_an_async_test_commits_is_told_by_its_id(
    app: App, dsn: str, note: Any, ran: list[str], others: Callable[[], Rows]
) -> None:
    before = others()
    mine = await asyncpg.connect(asyncpg_uri(dsn))
    async with AsyncQueueTester(app, mine) as pgq:
        await note.on(mine).aenqueue("by itself")
        await pgq.drain()
    await mine.close()
    assert ran == ["by itself"]
    assert others()[: len(before)] == before
