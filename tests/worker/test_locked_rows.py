"""A job whose row another session has locked, its own handler perhaps: it holds up nothing but itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import App, Context, schema
from pgqueue.job import ClaimedJob, NewJob
from pgqueue.operations import Operation, claims
from pgqueue.operations.claims import Beat
from pgqueue.worker import recorder
from tests.support import alive, eventually, eventually_async, statuses, working
from tests.worker.test_fences import WORKER, claim, database, ended, lapse, rescue

__all__ = ["database"]

Connection = psycopg.Connection[Any]


def beat(jobs: list[ClaimedJob]) -> Operation[dict[int, Beat]]:
    pairs = [(job.id, job.claim_id) for job in jobs]
    return claims.heartbeat(pairs, worker_id=WORKER, lease=60)


def lapsed(conn: Connection, job_id: int) -> bool:
    row = conn.execute(
        "select lease_expires_at < clock_timestamp() from pgqueue.jobs where id = %s", (job_id,)
    ).fetchone()
    return bool(row and row[0])


async def test_a_foreign_key_to_a_job_holds_up_nothing(
    app: App, database: Any, conn: Connection, other: Connection
) -> None:
    conn.execute("create table lines (job_id bigint references pgqueue.jobs (id))")
    await app.aclient.insert([NewJob("t", "{}")] * 2)
    first, second = await claim(database)
    lapse(conn)
    other.execute("insert into lines values (%s), (%s)", (first.id, second.id))
    held = await database.run(beat([first, second]))
    assert held == dict.fromkeys((first.id, second.id), Beat(False, False, True))
    assert not lapsed(conn, first.id)
    assert await database.run(claims.fail(ended(first, recorder.Outcome("retry", 0.0)))) != {}
    assert await database.run(claims.complete(ended(second), delete=False)) == [second.id]
    assert [job.id for job in await claim(database)] == [first.id]
    lapse(conn)
    assert [each.id for each in await rescue(database)] == [first.id]
    await database.close()


async def test_the_lease_of_a_locked_row_is_held_by_its_worker(
    app: App, database: Any, conn: Connection, other: Connection
) -> None:
    await app.aclient.insert([NewJob("t", "{}")] * 2)
    first, second = await claim(database)
    await database.run(alive(WORKER))
    lapse(conn)
    other.execute("select from pgqueue.jobs where id = %s for update", (first.id,))
    held = await database.run(beat([first, second]))
    assert held == {first.id: Beat(False, True, True), second.id: Beat(False, False, True)}
    other.rollback()
    assert lapsed(conn, first.id)
    assert await rescue(database) == [], "its holder is alive, and said so"
    assert await database.run(beat([first])) == {first.id: Beat(False, False, True)}
    assert not lapsed(conn, first.id)
    assert conn.execute("select held_jobs from pgqueue.workers").fetchone() == ([],)
    await database.close()


async def test_a_locked_row_is_held_no_longer_than_a_lease(
    app: App, database: Any, conn: Connection, other: Connection
) -> None:
    await app.aclient.insert([NewJob("t", "{}")])
    (job,) = await claim(database)
    await database.run(alive(WORKER))
    lapse(conn)
    other.execute("select from pgqueue.jobs where id = %s for update", (job.id,))
    await database.run(beat([job]))
    other.rollback()
    conn.execute("update pgqueue.workers set held_until = clock_timestamp() - interval '1 s'")
    assert [each.id for each in await rescue(database)] == [job.id]
    await database.close()


async def test_what_another_worker_holds_is_none_of_this_one(
    app: App, database: Any, conn: Connection, other: Connection
) -> None:
    await app.aclient.insert([NewJob("t", "{}")])
    (job,) = await claim(database)
    await database.run(alive(WORKER))
    lapse(conn)
    other.execute("select from pgqueue.jobs where id = %s for update", (job.id,))
    await database.run(beat([job]))
    other.rollback()
    conn.execute("update pgqueue.jobs set worker_id = %s", (uuid4(),))
    assert [each.id for each in await rescue(database)] == [job.id]
    await database.close()


async def test_a_worker_that_cannot_say_so_keeps_nothing(
    app: App, database: Any, other: Connection
) -> None:
    """Its own row is gone: the renewal of a locked row is not noted as one."""
    await app.aclient.insert([NewJob("t", "{}")])
    (job,) = await claim(database)
    other.execute("select from pgqueue.jobs where id = %s for update", (job.id,))
    assert await database.run(beat([job])) == {job.id: Beat(False, True, False)}
    await database.close()


async def test_a_handler_may_lock_its_row_for_longer_than_its_lease(
    app: App, conn: Connection, dsn: str
) -> None:
    @app.task(name="t")
    def task(ctx: Context) -> None:
        with psycopg.connect(dsn) as mine:
            mine.execute("select from pgqueue.jobs where id = %s for update", (ctx.id,))
            eventually(lambda: lapsed(conn, ctx.id))

    job_id = (await task.aenqueue()).id
    async with working(app, concurrency=1, lease=1.0, notify=False):
        await eventually_async(lambda: statuses(conn)[job_id] not in ("pending", "running"))
    assert conn.execute("select status, attempt, crashes from pgqueue.jobs").fetchone() == (
        "succeeded", 1, 0,
    )  # fmt: skip


async def succeed(ctx: Context) -> None: ...


async def fail(ctx: Context) -> None:
    raise ValueError("why")


async def answer(ctx: Context) -> int:
    return 1


@pytest.mark.parametrize("keep", [0, 3600])
@pytest.mark.parametrize("function", [succeed, fail, answer])
async def test_a_locked_row_holds_up_only_itself(
    app: App, conn: Connection, other: Connection, function: Callable[..., Any], keep: int
) -> None:
    """While it is locked, others are recorded and claimed; then it is recorded as what it was."""
    locked, go = asyncio.Event(), asyncio.Event()

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> Any:
        if ctx.id == first:
            locked.set()
            await go.wait()
        return await function(ctx)

    first = (await task.aenqueue()).id

    def running() -> list[int]:
        return [
            job_id for job_id, status in statuses(conn).items() if status in ("pending", "running")
        ]

    async with working(app, concurrency=5, notify=False, keep_succeeded=keep) as runtime:
        await locked.wait()
        other.execute("select from pgqueue.jobs where id = %s for update", (first,))
        go.set()
        await app.aclient.insert([NewJob("t", "{}", max_retries=0)] * 30)
        await eventually_async(lambda: running() == [first])
        other.rollback()
        await eventually_async(lambda: running() == [])
        assert runtime.exchanges[0].recorder.lost == 0
    rows = conn.execute("select status, attempt, crashes from pgqueue.jobs where id = %s", (first,))
    assert rows.fetchall() in ([("dead" if function is fail else "succeeded", 1, 0)], [])


async def test_a_locked_row_whose_claim_is_lost_is_counted_as_lost(
    app: App, conn: Connection, other: Connection
) -> None:
    started = asyncio.Event()

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        if ctx.attempt == 1:
            other.execute("update pgqueue.jobs set claim_id = %s where id = %s", (uuid4(), ctx.id))
            started.set()

    await task.aenqueue()
    async with working(app, concurrency=1, notify=False) as runtime:
        await started.wait()
        executor = runtime.executors[0]
        await eventually_async(lambda: bool(executor.postponed))
        other.commit()
        await eventually_async(lambda: runtime.exchanges[0].recorder.lost == 1)
        assert not executor.postponed


FORBID = """
    create function public.forbid() returns trigger language plpgsql as $$
    begin
        if old.id % 7 = 3 and new.status <> old.status and {condition} then
            raise insufficient_privilege using message = 'not you';
        end if;
        return new;
    end $$;
    create trigger forbid before update on pgqueue.jobs for each row execute function public.forbid();
"""


async def test_a_refusal_harms_no_neighbour_whatever_its_code(
    app: App, conn: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A trigger of the user's that the worker's role may not run; what it refuses is dead, with the reason."""
    monkeypatch.setattr(recorder, "KEEP_TRYING", 0.0)
    conn.execute(FORBID.format(condition="new.status = 'succeeded'").encode())
    runs: list[int] = []

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        runs.append(ctx.id)

    ids = await app.aclient.insert([NewJob("t", "{}")] * 20)
    bad = {job_id for job_id in ids if job_id % 7 == 3}
    async with working(app, concurrency=20, notify=False):
        await eventually_async(lambda: {"pending", "running"}.isdisjoint(statuses(conn).values()))
    assert {i for i, status in statuses(conn).items() if status == "dead"} == bad
    assert sorted(runs) == ids, "each ran once"
    reason = (await app.aclient.job(min(bad))).last_error or ""
    assert "not you" in reason
    assert any("not you" in record.getMessage() for record in caplog.records)


async def test_a_refusal_that_passes_costs_nothing(app: App, conn: Connection) -> None:
    conn.execute(FORBID.format(condition="new.status = 'succeeded'").encode())

    @app.task(name="t")
    async def task() -> None: ...

    ids = await app.aclient.insert([NewJob("t", "{}")] * 10)
    bad = sorted(job_id for job_id in ids if job_id % 7 == 3)
    async with working(app, concurrency=10, notify=False) as runtime:
        await eventually_async(
            lambda: list(statuses(conn).values()).count("succeeded") == 10 - len(bad)
        )
        await eventually_async(lambda: bool(runtime.executors[0].postponed))
        # Not on the worker's loop: it may hold the lock that this waits for.
        await asyncio.to_thread(conn.execute, "drop trigger forbid on pgqueue.jobs")
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
    assert conn.execute("select max(attempt), max(crashes) from pgqueue.jobs").fetchone() == (1, 0)


@pytest.mark.parametrize("kind", ["succeeded", "dead", "retry"])
async def test_text_that_the_database_cannot_store_is_escaped(
    server: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In a LATIN1 database: the outcome is kept, and nobody beside it runs twice."""
    name = f"latin_{uuid4().hex[:8]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(
            f"create database {name} encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0".encode()
        )
    dsn = make_conninfo(server, dbname=name)
    try:
        schema.upgrade(dsn)
        app = App(dsn)
        runs: list[int] = []

        @app.task(name="t", result=True, max_retries=1 if kind == "retry" else 0, backoff=3600)
        async def task(ctx: Context) -> str:
            runs.append(ctx.id)
            if ctx.id == 3 and kind != "succeeded":
                raise ValueError("a snowman: \u2603")
            return "\u2603" if ctx.id == 3 else "fine"

        ids = [(await task.aenqueue()).id for _ in range(5)]
        with psycopg.connect(dsn, autocommit=True) as conn:
            async with working(app, concurrency=5, notify=False):
                await eventually_async(
                    lambda: (
                        conn.execute(
                            "select count(*) from pgqueue.jobs where finished_at is not null or attempt = 1 and status = 'pending'"
                        ).fetchone()
                        == (5,)
                    )
                )
            assert sorted(runs) == ids
            expected = "pending" if kind == "retry" else kind
            assert statuses(conn) == dict.fromkeys(ids, "succeeded") | {3: expected}
            job = await app.aclient.job(3)
            text = job.last_error or ""
            assert ("result was refused" if kind == "succeeded" else "a snowman: \\u2603") in text
        await app.aclose()
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(f"drop database {name} with (force)".encode())


async def test_a_foreign_key_without_delete_costs_no_success(
    app: App, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """With keep_succeeded=0 the row would go; it stays, as succeeded, and its neighbours go."""
    conn.execute("create table lines (job_id bigint references pgqueue.jobs (id))")
    runs: list[int] = []

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        runs.append(ctx.id)
        if ctx.id == 2:
            conn.execute("insert into lines values (2)")

    ids = await app.aclient.insert([NewJob("t", "{}")] * 5)
    with caplog.at_level(logging.ERROR):
        async with working(app, concurrency=5, notify=False, keep_succeeded=0):
            await eventually_async(lambda: statuses(conn) == {2: "succeeded"})
    assert sorted(runs) == ids


PUBLISHED = """
    select c.relname from pg_class c
     where c.relnamespace = 'pgqueue'::regnamespace and c.relkind = 'r'
       and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)
"""


async def test_a_publication_of_all_tables_is_in_nobodys_way(app: App, conn: Connection) -> None:
    """Each table has a primary key: else PostgreSQL refuses updates and deletes of what is published."""
    assert conn.execute(PUBLISHED.encode()).fetchall() == []
    conn.execute("create publication everything for all tables")

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> None:
        raise ValueError

    job_id = (await task.aenqueue()).id
    async with working(app, concurrency=5, notify=False, keep_dead=0):
        await eventually_async(lambda: statuses(conn) == {})
    assert await app.aclient.attempts(job_id) == []


@pytest.mark.parametrize("table", ["tasks", "queues"])
async def test_a_locked_setting_keeps_no_worker_from_its_work(
    app: App, conn: Connection, other: Connection, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="limited", queue="q", limit=1)
    async def limited() -> None: ...

    @app.task(name="free")
    async def free() -> None: ...

    app.queue("q", limit=3)
    conn.execute("insert into pgqueue.tasks (name) values ('limited')")
    conn.execute("insert into pgqueue.queues (name) values ('q')")
    other.execute(f"select from pgqueue.{table} for update".encode())
    job = (await free.aenqueue()).id
    async with working(app):
        await eventually_async(lambda: statuses(conn)[job] == "succeeded")
        assert "another session has locked rows of the settings" in caplog.text
        other.rollback()
        await eventually_async(lambda: declared(conn) == (1, 3))


def declared(conn: Connection) -> Any:
    return conn.execute(
        "select t.max_running, q.max_running from pgqueue.tasks t, pgqueue.queues q"
        " where t.name = 'limited' and q.name = 'q'"
    ).fetchone()


@pytest.mark.parametrize("act", ["retry", "clear", "cancel"])
async def test_a_command_waits_for_a_row_that_others_have_locked(
    app: App, conn: Connection, other: Connection, act: str
) -> None:
    """It would not be true that it did what it says."""
    (job,) = await app.aclient.insert([NewJob("t", "{}")])
    if act == "retry":
        conn.execute("update pgqueue.jobs set status = 'cancelled', finished_at = now()")
    other.execute("select from pgqueue.jobs for update")
    client = app.aclient
    acting = asyncio.create_task(
        client.retry(job)
        if act == "retry"
        else client.cancel(job)
        if act == "cancel"
        else client.clear()
    )
    await eventually_async(lambda: waiting(conn))
    other.rollback()
    assert await acting
    status = {"retry": {job: "pending"}, "cancel": {job: "cancelled"}, "clear": {}}
    assert statuses(conn) == status[act]


def waiting(conn: Connection) -> bool:
    return bool(
        conn.execute(
            "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        ).fetchall()
    )
