"""``max_pending``: enqueuing to a full queue raises or waits, and loses nothing."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import asyncpg
import psycopg
import pytest

from pgqueue import App, ConfigError, QueueFull, Task
from pgqueue.connect import asyncpg_uri
from tests.support import drain, eventually, eventually_async


def full_at(app: App, most: int, **options: Any) -> Task[[int], None]:
    app.queue("mail", max_pending=most, **options)

    @app.task(name="send", queue="mail")
    async def send(n: int) -> None: ...

    return send


def waiting(conn: psycopg.Connection) -> int:
    row = conn.execute("select count(*) from pgqueue.jobs where status = 'pending'").fetchone()
    assert row is not None
    return int(row[0])


async def test_a_full_queue_raises_and_nothing_is_enqueued(
    app: App, conn: psycopg.Connection
) -> None:
    send = full_at(app, 3)
    for n in range(3):
        send.enqueue(n)
    with pytest.raises(
        QueueFull, match="queue mail has no room for 1 more: its max_pending is 3"
    ) as caught:
        send.enqueue(3)
    assert (caught.value.queue, caught.value.max_pending) == ("mail", 3)
    with pytest.raises(QueueFull):
        await send.aenqueue(3)
    assert waiting(conn) == 3
    await drain(app)
    await send.aenqueue(3)
    send.enqueue(4)
    assert waiting(conn) == 2


def test_a_batch_fits_whole_or_not_at_all(app: App, conn: psycopg.Connection) -> None:
    send = full_at(app, 5, when_full="wait", max_wait=600)
    app.enqueue_many([send.call(n) for n in range(4)])
    with pytest.raises(
        QueueFull, match="6 jobs at once never fit into queue mail, whose max_pending is 5"
    ):
        app.enqueue_many([send.call(n) for n in range(6)])
    app.enqueue_many([send.call(4), send.with_queue("other").call(5)])
    assert waiting(conn) == 6


def test_the_caller_s_transaction_can_go_on(app: App, dsn: str, conn: psycopg.Connection) -> None:
    send = full_at(app, 1)
    with psycopg.connect(dsn) as caller:
        caller.execute("create table orders (id int)")
        send.on(caller).enqueue(1)
        caller.execute("insert into orders values (1)")
        with pytest.raises(QueueFull):
            send.on(caller).enqueue(2)
    assert waiting(conn) == 1
    assert conn.execute("select count(*) from orders").fetchone() == (1,)


def test_it_waits_until_a_worker_has_made_room(app: App, conn: psycopg.Connection) -> None:
    send = full_at(app, 2, when_full="wait", max_wait=600)
    app.enqueue_many([send.call(0), send.call(1)])
    waiter = threading.Thread(target=send.enqueue, args=(2,))
    waiter.start()
    eventually(lambda: has_looked(conn))
    assert waiting(conn) == 2
    assert waiter.is_alive()
    conn.execute("delete from pgqueue.jobs where args = '{\"n\": 0}'")
    waiter.join(20)
    assert not waiter.is_alive()
    assert waiting(conn) == 2


def has_looked(conn: psycopg.Connection) -> bool:
    """Was the last that another session did to look for room?"""
    found = conn.execute(
        "select 1 from pg_stat_activity where datname = current_database() and state = 'idle'"
        " and query like '%is_now%' and pid <> pg_backend_pid()"
    )
    return found.fetchone() is not None


async def test_the_event_loop_goes_on_while_it_waits(app: App, conn: psycopg.Connection) -> None:
    send = full_at(app, 1, when_full="wait", max_wait=600)
    await send.aenqueue(0)
    waiter = asyncio.ensure_future(send.aenqueue(1))
    await eventually_async(lambda: has_looked(conn))  # on this loop
    assert not waiter.done()
    await drain(app)
    await waiter
    assert conn.execute("select count(*) from pgqueue.jobs").fetchone() == (2,)


def test_waiting_has_an_end(app: App) -> None:
    send = full_at(app, 1, when_full="wait", max_wait=0.05)
    send.enqueue(0)
    with pytest.raises(QueueFull):
        send.enqueue(1)


def test_a_snapshot_that_will_never_show_room_is_not_waited_on(app: App, dsn: str) -> None:
    send = full_at(app, 1, when_full="wait", max_wait=600)
    send.enqueue(0)
    with psycopg.connect(dsn) as caller:
        caller.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with pytest.raises(QueueFull):
            send.on(caller).enqueue(1)


async def test_jobs_of_the_caller_s_own_transaction_count(app: App, dsn: str) -> None:
    send = full_at(app, 3)
    caller = await asyncpg.connect(asyncpg_uri(dsn))
    try:
        transaction = caller.transaction()
        await transaction.start()
        for n in range(3):
            await send.on(caller).aenqueue(n)
        with pytest.raises(QueueFull):
            await send.on(caller).aenqueue(3)
        await transaction.rollback()
        await send.on(caller).aenqueue(4)
    finally:
        await caller.close()


async def test_changed_at_run_time(app: App, conn: psycopg.Connection) -> None:
    send = full_at(app, 1)
    await drain(app)
    send.enqueue(0)
    app.client.set_queue("mail", max_pending=2)
    send.enqueue(1)
    with pytest.raises(QueueFull, match="max_pending is 2"):
        send.enqueue(2)
    conn.execute("update pgqueue.queues set max_pending = null where name = 'mail'")
    send.enqueue(2)
    assert waiting(conn) == 3


def test_many_producers_go_little_over_it(app: App, dsn: str, conn: psycopg.Connection) -> None:
    """Eight processes' worth of apps, each with a view of its own."""
    refused: list[int] = []

    def produce() -> None:
        with App(dsn) as mine:
            send = full_at(mine, 400)
            for n in range(100):
                try:
                    send.enqueue(n)
                except QueueFull:
                    refused.append(n)

    threads = [threading.Thread(target=produce) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    # Seven others may each live off a 64th of the room, or have one insert on its way.
    assert 400 <= waiting(conn) <= 400 + 7 * (400 // 64 + 1)
    assert waiting(conn) + len(refused) == 800


def test_what_waits_for_others_takes_no_room_yet(app: App, conn: psycopg.Connection) -> None:
    send = full_at(app, 2)
    app.chain(send.call(1), send.call(2), send.call(3), send.call(4)).enqueue()
    with pytest.raises(QueueFull):
        app.batch([send.call(5), send.call(6)]).enqueue()
    assert waiting(conn) == 1


def test_in_sql(app: App, conn: psycopg.Connection) -> None:
    app.client.set_queue("mail", max_pending=3)
    conn.execute(
        "insert into pgqueue.jobs (id, task, queue, status, finished_at) overriding system value"
        " values (1000, 't', 'mail', 'succeeded', now())"
    )
    assert conn.execute("select pgqueue.room('mail'), pgqueue.room('other')").fetchone() == (
        3,
        None,
    )
    conn.execute("select pgqueue.enqueue('send', queue => 'mail') from generate_series(1, 3)")
    assert conn.execute("select pgqueue.room('mail')").fetchone() == (0,)
    with pytest.raises(psycopg.Error, match="queue mail is full: 3 jobs wait in it") as caught:
        conn.execute("select pgqueue.enqueue('send', queue => 'mail')")
    assert caught.value.sqlstate == "PQ003"
    conn.execute(
        "update pgqueue.jobs set unique_key = 'send:a', unique_until = 'finished' where id = 1"
    )
    again = "select pgqueue.enqueue('send', queue => 'mail', unique_key => 'a')"
    assert conn.execute(again.encode()).fetchone() == (1,)


def test_refused(app: App) -> None:
    with pytest.raises(
        ConfigError, match="max_pending must be a whole number from 1 to 100,000,000, got 0"
    ):
        app.queue("mail", max_pending=0)
    with pytest.raises(ConfigError, match='when_full must be "raise" or "wait"'):
        app.queue("mail", max_pending=1, when_full="drop")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="queue name 'e mail' is not usable"):
        app.queue("e mail", max_pending=1)
    with pytest.raises(TypeError, match="no setting 'pending'"):
        app.queue("mail", pending=1)  # type: ignore[call-arg]
