"""On every connection: rolled back is never run, committed is run once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgqueue import App
from tests.enqueue.connections import ALL
from tests.support import drain, statuses


@pytest.mark.parametrize("name", ALL)
def test_the_job_shares_the_fate_of_the_transaction(name: str, dsn: str) -> None:
    app = App(dsn)
    ran: list[int] = []

    @app.task(name="note")
    async def note(number: int) -> None:
        ran.append(number)

    ALL[name](dsn, note, [("rollback", 1), ("commit", 2), ("savepoint", 3), ("commit", 4)])
    asyncio.run(drain(app))
    assert sorted(ran) == [2, 4]
    with psycopg.connect(dsn) as conn:
        rows = conn.execute("select args, status from pgqueue.jobs order by id").fetchall()
    assert rows == [({"number": 2}, "succeeded"), ({"number": 4}, "succeeded")]
    app.close()


async def test_own_transaction_sync_and_async(app: App, conn: psycopg.Connection) -> None:
    ran: list[int] = []

    @app.task
    async def note(number: int) -> None:
        ran.append(number)

    first = await asyncio.to_thread(note.enqueue, 1)
    second = await note.aenqueue(number=2)
    assert first.id < second.id
    await drain(app)
    assert sorted(ran) == [1, 2]


@pytest.mark.parametrize("count", [1500, 5000], ids=["insert", "copy"])
@pytest.mark.parametrize("face", ["sync", "async"])
async def test_many_keep_their_order(
    app: App, conn: psycopg.Connection, count: int, face: str
) -> None:
    @app.task
    def note(number: int) -> None: ...

    jobs = [note.call(i) for i in range(count)]
    handles = app.enqueue_many(jobs) if face == "sync" else await app.aenqueue_many(jobs)
    rows = conn.execute(
        "select id, (args->>'number')::int from pgqueue.jobs order by id"
    ).fetchall()
    assert rows == [(handle.id, i) for i, handle in enumerate(handles)]
    assert app.enqueue_many([]) == []


async def test_many_share_one_transaction(app: App, dsn: str, conn: psycopg.Connection) -> None:
    @app.task
    def note(number: int) -> None: ...

    with psycopg.connect(dsn) as other:
        app.enqueue_many([note.call(i) for i in range(10)], on=other)
        other.rollback()
    assert conn.execute("select count(*) from pgqueue.jobs").fetchone() == (0,)


@pytest.mark.parametrize("count", [3, 3000], ids=["insert", "copy"])
async def test_many_carry_all_their_options(app: App, conn: psycopg.Connection, count: int) -> None:
    @app.task(name="note")
    def note(text: str) -> None: ...

    odd = 'tab\t newline\n return\r back\\slash "quoted" \\N \\. ünïcödé'
    request = note.with_queue("mail").with_priority(-3).with_max_retries(2).with_backoff(7)
    app.enqueue_many([request.with_delay("1h").call(odd)] * count)
    rows = conn.execute(
        "select distinct args->>'text', queue, priority, max_retries, backoff->'base', status,"
        " run_at > clock_timestamp() + interval '59 minutes' from pgqueue.jobs"
    ).fetchall()
    assert rows == [(odd, "mail", -3, 2, 7.0, "pending", True)]


async def test_many_on_every_connection_roll_back(dsn: str, conn: psycopg.Connection) -> None:
    app = App(dsn)

    @app.task(name="note")
    def note(number: int) -> None: ...

    class Many:
        """Enqueues three thousand where the plans of the connections enqueue one."""

        def __init__(self, on: object = None) -> None:
            self._on = on

        def on(self, connection: object) -> Many:
            return Many(connection)

        def enqueue(self, number: int) -> None:
            app.enqueue_many([note.call(number)] * 3000, on=self._on)

        async def aenqueue(self, number: int) -> None:
            await app.aenqueue_many([note.call(number)] * 3000, on=self._on)

    for run in ALL.values():
        plan = [("rollback", 1), ("commit", 2), ("savepoint", 3)]
        await asyncio.to_thread(run, dsn, Many(), plan)
    counts = conn.execute("select args, count(*) from pgqueue.jobs group by 1").fetchall()
    assert counts == [({"number": 2}, 3000 * len(ALL))]
    app.close()


async def test_plain_sql(app: App, conn: psycopg.Connection) -> None:
    ran: list[int] = []

    @app.task(name="note")
    async def note(number: int) -> None:
        ran.append(number)

    conn.execute(
        "select pgqueue.enqueue('note', '{\"number\": 7}', queue => 'mail', priority => 3)"
    )
    conn.execute("select pgqueue.enqueue('note', '{\"number\": 8}', delay => '1 hour')")
    await drain(app)
    assert ran == [7]


def test_a_sync_session_needs_no_greenlet(dsn: str, conn: psycopg.Connection) -> None:
    """SQLAlchemy brings it along for its asyncio part only."""
    script = """
import sys
sys.modules["greenlet"] = None
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from pgqueue import App
app = App()
@app.task(name="t")
def task() -> None: ...
engine = create_engine(sys.argv[1], connect_args={"password": sys.argv[2]})
with Session(engine) as session, session.begin():
    task.on(session).enqueue()
with engine.begin() as connection:
    task.on(connection).enqueue()
"""
    given = conninfo_to_dict(dsn)
    url = f"postgresql+psycopg://{given['user']}@{given['host']}:{given['port']}/{given['dbname']}"
    subprocess.run(
        [sys.executable, "-c", script, url, given["password"]],
        check=True, capture_output=True, env={**os.environ, "PGQUEUE_DSN": dsn},
    )  # fmt: skip
    assert set(statuses(conn).values()) == {"pending"}
    assert len(statuses(conn)) == 2
