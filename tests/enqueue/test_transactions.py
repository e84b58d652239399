"""On every connection: rolled back is never run, committed is run once."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from pgqueue import App
from tests.enqueue.connections import ALL
from tests.support import drain


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


async def test_many_in_one_round_trip_keep_their_order(app: App, conn: psycopg.Connection) -> None:
    @app.task
    def note(number: int) -> None: ...

    handles = app.enqueue_many([note.call(i) for i in range(5000)])
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


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("select pgqueue.enqueue('t', '[1]')", "must be a JSON object"),
        ("select pgqueue.enqueue('t', '{}', queue => 'a b')", "jobs_queue"),
        ("select pgqueue.enqueue('', '{}')", "jobs_task"),
        ("select pgqueue.enqueue('t', '{}', max_retries => -1)", "from 0 to 1000"),
        ("select pgqueue.enqueue('t', jsonb_build_object('x', repeat('x', 1048577)))", "over 1 MB"),
    ],
)
def test_plain_sql_refuses_bad_input(conn: psycopg.Connection, call: str, says: str) -> None:
    with pytest.raises(psycopg.Error, match=says):
        conn.execute(call.encode())
    assert conn.execute("select count(*) from pgqueue.jobs").fetchone() == (0,)
