"""Through PgBouncer in transaction mode: everything works, and nothing stays in its sessions."""

from __future__ import annotations

import logging
import subprocess
import sys

import asyncpg
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import App, ConnectionUnusable, Context, PgQueueError, schema
from pgqueue.connect import asyncpg_uri
from pgqueue.operations import Operation, maintenance
from pgqueue.pooler import is_pooled, is_pooled_async
from pgqueue.worker.database import Database, DatabaseAway, StatementRefused
from tests.enqueue import connections
from tests.faults.proxy import Proxy
from tests.servers import bouncer
from tests.servers.conftest import POOL
from tests.support import drain, eventually_async, statuses

JOBS = 40
# What our own sessions are set to, and what LISTEN and prepared statements leave.
LEFT_BEHIND = """
    select name, setting from pg_settings
     where source = 'session' and name not in ('application_name', 'client_encoding', 'DateStyle',
                                               'TimeZone', 'standard_conforming_strings')
    union all select 'prepared', statement from pg_prepared_statements
    union all select 'listening', c from pg_listening_channels() c
"""


async def work(dsn: str, conn: psycopg.Connection) -> None:
    """Enqueue in both ways on pgqueue's own connections, and run it all."""
    conn.execute("create table notes (number int)")
    app = App(dsn)

    @app.task
    async def asynchronous(ctx: Context, number: int) -> None:
        async with ctx.transaction() as connection:
            await connection.execute("insert into notes values ($1)", number)

    @app.task
    def synchronous(ctx: Context, number: int) -> None:
        with ctx.transaction() as connection:
            connection.execute("insert into notes values (%s)", (number,))

    @app.task(max_retries=0)
    async def fails() -> None:
        raise ValueError

    for number in range(JOBS):
        synchronous.enqueue(number)
        await asynchronous.aenqueue(number)
    fails.enqueue()
    await drain(app, concurrency=10)
    await app.aclose()


async def test_enqueues_and_works(
    pooled_dsn: str, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "pgqueue"):
        await work(pooled_dsn, conn)
    found = statuses(conn)
    assert sorted(found.values()) == ["dead"] + ["succeeded"] * (2 * JOBS)
    row = conn.execute("select count(*), count(distinct number) from notes").fetchone()
    assert row == (2 * JOBS, JOBS)
    ours = ("pgqueue.worker", "pgqueue.database", "pgqueue.notifier")
    said, *more = (
        r.message for r in caplog.records if r.levelno >= logging.WARNING and r.name in ours
    )
    assert not more
    assert "every 1 s" in said


async def test_leaves_nothing_in_the_shared_sessions(
    pooled_dsn: str, conn: psycopg.Connection
) -> None:
    await work(pooled_dsn, conn)
    assert bouncer.sessions(pooled_dsn, POOL, LEFT_BEHIND) == []


@pytest.mark.parametrize("where", connections.ALL)
def test_the_callers_connection_works_or_says_what_to_do(
    pooled_dsn: str, pgbouncer_program: str, conn: psycopg.Connection, where: str
) -> None:
    """Drivers prepare statements by default, which before 1.21 no transaction pooler can follow."""
    app = App(pooled_dsn)

    @app.task
    def noop(number: int) -> None: ...

    plan = [("commit", number) for number in range(3 * POOL * 5)]
    try:
        connections.ALL[where](pooled_dsn, noop, plan)
    except ConnectionUnusable as error:
        assert not bouncer.prepares(pgbouncer_program)
        assert "statement_cache_size=0 (asyncpg) or prepare_threshold=None (psycopg)" in str(error)
    else:
        assert len(statuses(conn)) == len(plan)


async def test_the_callers_connection_works_without_prepared_statements(
    pooled_dsn: str, conn: psycopg.Connection
) -> None:
    app = App(pooled_dsn)

    @app.task
    def noop(number: int) -> None: ...

    count = 3 * POOL * 5
    a = await asyncpg.connect(asyncpg_uri(pooled_dsn), statement_cache_size=0)
    for number in range(count):
        await noop.on(a).aenqueue(number)
        async with a.transaction():
            await noop.on(a).aenqueue(number)
    await a.close()
    with psycopg.connect(pooled_dsn, prepare_threshold=None) as p:
        for number in range(count):
            with p.transaction():
                noop.on(p).enqueue(number)
    assert len(statuses(conn)) == 3 * count
    assert bouncer.sessions(pooled_dsn, POOL, LEFT_BEHIND) == []


async def test_an_unpooled_connection_is_not_taken_for_a_pooled_one(dsn: str) -> None:
    connection = await asyncpg.connect(asyncpg_uri(dsn))
    assert not await is_pooled_async(connection)
    await connection.close()
    with psycopg.connect(dsn, autocommit=True) as p:
        assert not is_pooled(p)
    database = Database(dsn, "pgqueue")
    await database.run(maintenance.stats())
    assert not database.pooled
    await database.close()


async def test_a_silent_pooler_is_given_up_and_met_again(pooled_dsn: str) -> None:
    port = conninfo_to_dict(pooled_dsn)["port"]
    with Proxy("127.0.0.1", int(port)) as proxy:
        database = Database(make_conninfo(pooled_dsn, port=proxy.port), "pgqueue", patience=1.0)
        await database.run(maintenance.stats())
        proxy.mode = "blackhole"
        with pytest.raises(DatabaseAway) as caught:
            await database.run(maintenance.stats())
        assert caught.value.sent
        assert str(caught.value) == "no answer in time"
        await eventually_async(lambda: proxy.connections == 0)
        proxy.mode = "pass"
        await database.run(maintenance.stats())
        proxy.reset()
        with pytest.raises(DatabaseAway):
            await database.run(maintenance.stats())
        await database.run(maintenance.stats())
        assert database.pooled
        await database.close()


async def test_a_refused_statement_leaves_the_connection_sound(pooled_dsn: str) -> None:
    values = {"status": "dead", "age": 0.0, "limit": -1, "not_ids": [], "only_ids": None}
    refused = Operation("prune", values, list)
    database = Database(pooled_dsn, "pgqueue")
    for _ in range(2 * POOL):
        with pytest.raises(StatementRefused):
            await database.run(refused)
        await database.run(maintenance.stats())
    assert database.session == 1
    await database.close()
    assert bouncer.sessions(pooled_dsn, POOL, LEFT_BEHIND) == []


async def test_finding_the_primary_leaves_nothing_behind(
    pooled_dsn: str, conn: psycopg.Connection
) -> None:
    """asyncpg asks a server that does not say by itself whether it takes writes."""
    await work(make_conninfo(pooled_dsn, target_session_attrs="read-write"), conn)
    assert set(statuses(conn).values()) == {"succeeded", "dead"}
    assert bouncer.sessions(pooled_dsn, POOL, LEFT_BEHIND) == []


async def test_migrations_go_through(pgbouncer_program: str, empty_dsn: str) -> None:
    with bouncer.pgbouncer(pgbouncer_program, empty_dsn) as through:
        schema.upgrade(through)
        with psycopg.connect(through, prepare_threshold=None) as connection:
            assert schema.version(connection) == schema.EXPECTED


def test_several_migrators_share_two_connections(pgbouncer_program: str, empty_dsn: str) -> None:
    with bouncer.pgbouncer(pgbouncer_program, empty_dsn, default_pool_size=2) as through:
        run = [sys.executable, "-m", "pgqueue", "migrate", "--dsn", through]
        migrators = [
            subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        for migrator in migrators:
            _, errors = migrator.communicate(timeout=60)
            assert migrator.returncode == 0, errors


def test_a_pooler_of_one_connection_is_refused(pgbouncer_program: str, empty_dsn: str) -> None:
    with bouncer.pgbouncer(pgbouncer_program, empty_dsn, default_pool_size=1) as through:
        with pytest.raises(PgQueueError, match="needs two connections to the server at once"):
            schema.upgrade(through)


async def test_the_sessions_of_others_are_not_reset(pooled_dsn: str) -> None:
    bouncer.sessions(pooled_dsn, POOL, "select set_config('work_mem', '77MB', false)")
    app = App(pooled_dsn)

    @app.task
    async def noop() -> None: ...

    for _ in range(2 * POOL):
        noop.enqueue()
        await noop.aenqueue()
    await app.aclose()
    assert {tuple(r) for r in bouncer.sessions(pooled_dsn, POOL, "show work_mem")} == {("77MB",)}
