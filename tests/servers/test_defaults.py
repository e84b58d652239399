"""What a role, a database or a full server impose on the worker and the library."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import psycopg
import pytest

from pgqueue import App, Worker, schema
from pgqueue.embedded import embedded_postgres
from pgqueue.sql import compile_statement, load
from pgqueue.worker.link import Link, connect
from tests.servers import bouncer
from tests.support import eventually_async, statuses

ISOLATION = compile_statement("isolation", "select current_setting('transaction_isolation')")
SLEEP = compile_statement("sleep", "select 'slept' from pg_sleep(0.1)")
SETTINGS = ["alter database {0} set {1}", "alter role {2} in database {0} set {1}"]


@pytest.fixture(params=["direct", "pooled"])
def through(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SETTINGS, ids=["database", "role"])
def imposed(request: pytest.FixtureRequest, dsn: str, conn: psycopg.Connection) -> Iterator[None]:
    """The defaults of the database, or of the role in it: all that pgqueue must not inherit."""
    for setting in ("default_transaction_isolation = serializable", "statement_timeout = '1ms'"):
        sql = request.param.format(conn.info.dbname, setting, conn.info.user)
        conn.execute(sql.encode())


@contextmanager
def reached(dsn: str, through: str, request: pytest.FixtureRequest) -> Iterator[str]:
    if through == "direct":
        yield dsn
        return
    program = request.getfixturevalue("pgbouncer_program")
    with bouncer.pgbouncer(program, dsn) as pooled:
        yield pooled


@asynccontextmanager
async def linked(dsn: str) -> AsyncIterator[Link]:
    link = await connect(dsn, load(), limit="5s", timeout=10.0, lost=lambda: None)
    yield link
    await link.close(timeout=5.0)


async def test_the_worker_is_read_committed_and_has_its_own_time_limit(
    dsn: str, imposed: None, through: str, request: pytest.FixtureRequest
) -> None:
    with reached(dsn, through, request) as to:
        async with linked(to) as link:
            assert link.pooled is (through == "pooled")
            assert [tuple(row) for row in await link.fetch(ISOLATION, {})] == [("read committed",)]
            assert [tuple(row) for row in await link.fetch(SLEEP, {})] == [("slept",)]


@pytest.fixture
def full(request: pytest.FixtureRequest) -> Iterator[tuple[str, ExitStack]]:
    """A migrated server of eight connections, and a stack that holds those that are taken."""
    programs = os.environ.get("TESTS_PROGRAMS")
    settings = {"max_connections": "8", "superuser_reserved_connections": "0", "fsync": "off",
                "max_wal_senders": "0", "autovacuum": "off"}  # fmt: skip
    with embedded_postgres(settings=settings, programs=Path(programs) if programs else None) as dsn:
        schema.upgrade(dsn)
        with ExitStack() as taken:
            yield dsn, taken


async def test_a_full_server_is_waited_for(
    full: tuple[str, ExitStack], caplog: pytest.LogCaptureFixture
) -> None:
    dsn, taken = full
    app = App(dsn)

    @app.task
    async def noop() -> None: ...

    await noop.aenqueue()
    await app.aclose()
    with psycopg.connect(dsn, autocommit=True) as watch:
        await eventually_async(lambda: _takes_a_slot(dsn, taken))
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            noop.enqueue()
        with pytest.raises(asyncpg.TooManyConnectionsError, match="too many clients"):
            await noop.aenqueue()
        worker = Worker(app)
        running = asyncio.create_task(worker.arun())
        await eventually_async(lambda: "too many clients" in caplog.text)
        assert set(statuses(watch).values()) == {"pending"}
        taken.close()
        await eventually_async(lambda: set(statuses(watch).values()) == {"succeeded"})
        worker.stop()
        await running


def _takes_a_slot(dsn: str, taken: ExitStack) -> bool:
    """True once there is none left to take."""
    try:
        taken.enter_context(psycopg.connect(dsn, autocommit=True))
    except psycopg.OperationalError:
        return True
    return False
