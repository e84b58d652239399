"""On the caller's connection, of whatever library, nothing is relied on that a database or a session may set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from pgqueue import App, Context
from pgqueue.connect import asyncpg_uri
from pgqueue.job import NewJob
from tests.enqueue.connections import django_connection_of, url
from tests.servers.test_imposed import IMPOSED, LIVED_WITH, encoded
from tests.support import alive, drain

__all__ = ["encoded"]


@contextmanager
def core(dsn: str) -> Iterator[Any]:
    with create_engine(url(dsn, "psycopg"), poolclass=NullPool).connect() as connection:
        yield connection


@contextmanager
def orm(dsn: str) -> Iterator[Any]:
    with Session(create_engine(url(dsn, "psycopg"), poolclass=NullPool)) as session:
        yield session


@contextmanager
def scoped(dsn: str) -> Iterator[Any]:
    session = scoped_session(sessionmaker(create_engine(url(dsn, "psycopg"), poolclass=NullPool)))
    yield session
    session.remove()


@contextmanager
def cursor(dsn: str) -> Iterator[Any]:
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        yield connection.cursor()


SYNC: dict[str, Callable[[str], Any]] = {
    "psycopg": psycopg.connect,
    "psycopg-cursor": cursor,
    "sqlalchemy": core,
    "session": orm,
    "scoped-session": scoped,
    "django": django_connection_of,
}


@asynccontextmanager
async def apsycopg(dsn: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        yield connection


@asynccontextmanager
async def pg(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(asyncpg_uri(dsn))
    yield connection
    await connection.close()


def acore(driver: str) -> Any:
    @asynccontextmanager
    async def connect(dsn: str) -> AsyncIterator[Any]:
        async with create_async_engine(
            url(dsn, driver), poolclass=NullPool
        ).connect() as connection:
            yield connection

    return connect


def aorm(driver: str) -> Any:
    @asynccontextmanager
    async def connect(dsn: str) -> AsyncIterator[Any]:
        async with AsyncSession(
            create_async_engine(url(dsn, driver), poolclass=NullPool)
        ) as session:
            yield session

    return connect


@asynccontextmanager
async def ascoped(dsn: str) -> AsyncIterator[Any]:
    engine = create_async_engine(url(dsn, "psycopg"), poolclass=NullPool)
    session = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    yield session
    await session.remove()


ASYNC: dict[str, Callable[[str], Any]] = {
    "psycopg": apsycopg,
    "asyncpg": pg,
    "sqlalchemy-psycopg": acore("psycopg"),
    "sqlalchemy-asyncpg": acore("asyncpg"),
    "session-psycopg": aorm("psycopg"),
    "session-asyncpg": aorm("asyncpg"),
    "scoped-session": ascoped,
}


# SQLAlchemy itself does not connect by psycopg to a database in SQL_ASCII.
UNABLE = (core, orm, scoped, ASYNC["sqlalchemy-psycopg"], ASYNC["session-psycopg"], ascoped)


async def with_something_of_everything(app: App) -> int:
    """Jobs, attempts, steps, schedules, limits and a workflow; returns the workflow's id."""

    @app.task(name="naïve", limit=5)
    def stepped(ctx: Context, text: str) -> None:
        ctx.step("one", lambda: text)

    @app.task(name="fails", max_retries=0, rate="3/7s", burst=2)
    def fails() -> None:
        raise ValueError("naïve")

    await stepped.aenqueue("naïve")
    await fails.aenqueue()
    app.client.add_schedule("naïve", "0 0 1 1 *", NewJob("naïve", '{"text":"a"}'), tz="Europe/Oslo")
    app.client.run_schedule("naïve")
    app.cron("@daily", stepped.call("ü"), name="ü")
    app.write_schedules()
    await stepped.with_unique("ü").aenqueue("ü")
    app.client.pause("held")
    app.queue("default", keep_dead="1h", timeout="90s", rate="100/3s", burst=50)
    flow = app.workflow("naïve")
    flow.add(stepped.call("b"), after=flow.add(stepped.call("a")))
    made = flow.enqueue()
    await drain(app)
    said = alive(uuid4(), queues=["naïve"], tasks=["naïve"], declares=["naïve"])
    app._way(None).run(said, None)
    return made.id


def reads(client: Any, workflow: int, on: Any) -> list[Any]:
    """The result of each operation that reads; of the async client, what to await."""
    return [
        client.job(1, on=on), client.jobs(on=on), client.jobs(status="dead", on=on), client.attempts(2, on=on),
        client.stats(on=on), client.workers(on=on), client.paused(on=on), client.queues(on=on), client.limits(on=on),
        client.known_names(on=on), client.schedules(on=on), client.schedule_runs("naïve", on=on), client.steps(1, on=on),
        client.workflows(on=on), client.workflow_jobs(workflow, on=on),
    ]  # fmt: skip


def same(found: Any, expected: Any) -> bool:
    """Equal but for the time of reading."""
    if isinstance(found, list) and found and hasattr(found[0], "read_at"):
        return [(s.name, s.last_tick, s.created_at, s.last_run_at) for s in found] == [
            (s.name, s.last_tick, s.created_at, s.last_run_at) for s in expected
        ]
    return bool(found == expected)


@pytest.fixture
def imposed(conn: psycopg.Connection) -> Callable[[], None]:
    """Sets all of them for sessions that begin from now on."""

    def impose() -> None:
        for name in (*LIVED_WITH, "client_encoding"):
            conn.execute(f"alter database {conn.info.dbname} set {name} = {IMPOSED[name]}".encode())

    return impose


def check_reading(
    dsn: str, between: Callable[[], None] = lambda: None, without: tuple[Any, ...] = ()
) -> None:
    """Compare what is read on every kind of connection with what is read on one of pgqueue's own."""
    app = App(dsn)
    workflow = asyncio.run(with_something_of_everything(app))
    expected = reads(app.client, workflow, None)
    assert all(expected)
    between()
    for kind, connect in SYNC.items():
        if connect in without:
            continue
        with connect(dsn) as own:
            for found, wanted in zip(reads(app.client, workflow, own), expected, strict=True):
                assert same(found, wanted), kind

    async def others() -> None:
        for kind, connect in ASYNC.items():
            if connect in without:
                continue
            async with connect(dsn) as own:
                for found, wanted in zip(reads(app.aclient, workflow, own), expected, strict=True):
                    assert same(await found, wanted), kind

    asyncio.run(others())
    app.close()


def test_reading_under_settings_of_the_database(dsn: str, imposed: Callable[[], None]) -> None:
    check_reading(dsn, imposed)


@pytest.mark.parametrize(
    ("encoded", "without"), [("LATIN1", ()), ("SQL_ASCII", UNABLE)], indirect=["encoded"], ids=["LATIN1", "SQL_ASCII"]
)  # fmt: skip
def test_reading_from_databases_in_other_encodings(encoded: str, without: tuple[Any, ...]) -> None:
    check_reading(encoded, without=without)


@pytest.mark.parametrize("kind", SYNC)
def test_writing_under_settings_of_the_database(
    dsn: str, imposed: Callable[[], None], kind: str
) -> None:
    app = App(dsn)

    @app.task(name="t")
    def t(text: str) -> None: ...

    imposed()
    with SYNC[kind](dsn) as own:
        handle = t.on(own).with_delay("1h").enqueue("naïve")
        assert t.on(own).with_unique("k").enqueue("naïve").id != handle.id
        assert len(app.enqueue_many([t.call("naïve") for _ in range(600)], on=own)) == 600
        assert app.client.job(handle.id, on=own).args == {"text": "naïve"}
        assert app.client.cancel(handle.id, on=own)
        app.client.add_schedule("s", "@daily", t.call("naïve"), on=own)
        assert app.client.schedule("s", on=own).created_at.utcoffset() is not None
    app.close()


@pytest.mark.parametrize("kind", ASYNC)
async def test_writing_awaited(app: App, dsn: str, imposed: Callable[[], None], kind: str) -> None:
    @app.task(name="t")
    def t(text: str) -> None: ...

    imposed()
    async with ASYNC[kind](dsn) as own:
        handle = await t.on(own).with_delay("1h").aenqueue("naïve")
        assert (await t.on(own).with_unique("k").aenqueue("naïve")).id != handle.id
        assert len(await app.aenqueue_many([t.call("naïve") for _ in range(600)], on=own)) == 600
        assert (await app.aclient.job(handle.id, on=own)).args == {"text": "naïve"}
        assert await app.aclient.cancel(handle.id, on=own)
        await app.aclient.add_schedule("s", "@daily", t.call("naïve"), on=own)
        assert (await app.aclient.schedule("s", on=own)).created_at.utcoffset() is not None
