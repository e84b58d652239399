"""Idempotency keys: the same for each attempt of a job, wherever its row goes, and no other job's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import App, Context, schema
from pgqueue.testing import QueueTester, inline
from tests.deploys import process_tasks
from tests.support import drain, make_due


def keyed(app: App, keys: dict[int, list[str]]) -> None:
    @app.task(name="t")
    async def t(ctx: Context) -> None:
        keys.setdefault(ctx.id, []).append(ctx.idempotency_key)
        if len(keys[ctx.id]) == 1:
            raise ValueError


async def keys_in(dsn: str, **options: str) -> dict[int, list[str]]:
    """The keys that the jobs there get, in two attempts each."""
    keys: dict[int, list[str]] = {}
    async with App(dsn, **options) as app:
        keyed(app, keys)
        for _ in range(2):
            await drain(app)
            with psycopg.connect(dsn, autocommit=True) as conn:
                name = options.get("schema", "pgqueue")
                conn.execute(
                    f"update {name}.jobs set run_at = now() where status = 'pending'".encode()
                )
    return keys


@pytest.fixture
def copied(dsn: str, server: str) -> Iterator[str]:
    """The name of a copy of the test's database, to be made by the test; as a restored dump has it."""
    name = f"pgqueue_copy_{uuid4().hex[:8]}"
    yield name
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"drop database if exists {name} with (force)".encode())


def copy(dsn: str, server: str, name: str) -> str:
    source = conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (source,)
        )
        conn.execute(f"create database {name} template {source}".encode())
    return make_conninfo(server, dbname=name)


async def test_two_databases(dsn: str, empty_dsn: str) -> None:
    """What the keys of one application with several databases must be: different for equal ids."""
    await asyncio.to_thread(schema.upgrade, empty_dsn)
    for each in (dsn, empty_dsn):
        with psycopg.connect(each, autocommit=True) as conn:
            conn.execute(
                "update pgqueue.identity set id = gen_random_uuid()"
            )  # the template has one
            conn.execute("select pgqueue.enqueue('t')")
    first, second = await keys_in(dsn), await keys_in(empty_dsn)
    assert first.keys() == second.keys() == {1}
    assert len(first[1]) == len(second[1]) == 2
    assert len({*first[1], *second[1]}) == 2


async def test_two_schemas_of_a_database(dsn: str) -> None:
    await asyncio.to_thread(schema.upgrade, dsn, schema="other")
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pgqueue.enqueue('t'), other.enqueue('t')")
    first, second = await keys_in(dsn), await keys_in(dsn, schema="other")
    assert len({*first[1], *second[1]}) == 2


async def test_a_restored_copy(dsn: str, server: str, copied: str) -> None:
    """A job that was copied keeps its key, for it is the same; one that gets the same id afterwards has its own."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pgqueue.enqueue('t')")
    restored = copy(dsn, server, copied)
    for each in (dsn, restored):
        with psycopg.connect(each, autocommit=True) as conn:
            conn.execute("select pgqueue.enqueue('t')")
    first, second = await keys_in(dsn), await keys_in(restored)
    assert first.keys() == second.keys() == {1, 2}
    assert {*first[1], *second[1]} == {first[1][0]}
    assert first[2][0] == first[2][1] != second[2][0] == second[2][1]


async def test_every_place_gives_the_same_key(app: App, conn: psycopg.Connection, dsn: str) -> None:
    keys: dict[int, list[str]] = {}
    keyed(app, keys)
    with psycopg.connect(dsn) as own:
        own.execute("select pgqueue.enqueue('t')")
        drained = QueueTester(app, own).drain()
        assert drained.retried == [1]
        own.rollback()
    await drain(app)
    make_due(conn)
    conn.execute("update pgqueue.jobs set limit_key = 't:*'")
    await drain(app)
    assert len(set(keys[1])) == 1
    assert keys[1][0].startswith("pgqueue-1-")
    assert len(keys[1][0]) <= 64


async def test_in_a_process(dsn: str, conn: psycopg.Connection) -> None:
    process_tasks.app.use(dsn=dsn)
    conn.execute("create table keys (id bigint, key text)")
    conn.execute("select pgqueue.enqueue('note_key'), pgqueue.enqueue('note_key_here')")
    conn.execute("update pgqueue.jobs set created_at = '2026-01-01'")
    await drain(process_tasks.app)
    one, two = (row[0] for row in conn.execute("select key from keys order by id"))
    assert one.startswith("pgqueue-1-")
    assert two.startswith("pgqueue-2-")
    conn.execute("delete from pgqueue.jobs")
    conn.execute(
        "insert into pgqueue.jobs (id, task, created_at) overriding system value"
        " values (1, 'note_key_here', '2026-01-01')"
    )
    await drain(process_tasks.app)
    assert conn.execute(
        "select count(*), count(distinct key) from keys where id = 1"
    ).fetchone() == (2, 1)


def test_inline(app: App) -> None:
    keys: list[str] = []

    @app.task(name="t")
    def t(ctx: Context) -> None:
        keys.append(ctx.idempotency_key)

    with inline(app):
        t.enqueue()
        t.enqueue()
    assert len(set(keys)) == 2


async def test_a_row_that_is_gone_is_made_anew(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute("delete from pgqueue.identity")
    conn.execute("select pgqueue.enqueue('t')")
    keys = await keys_in(dsn)
    assert len(set(keys[1])) == 1
    assert conn.execute("select count(*) from pgqueue.identity").fetchone() == (1,)
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute("insert into pgqueue.identity default values")
