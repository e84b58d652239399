"""What jobs get of their queue, where neither the task nor the call says it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import psycopg

from pgqueue import App, Backoff, Job
from tests.support import drain


def columns(conn: psycopg.Connection) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select priority, max_retries, (backoff ->> 'base')::float8, expires_at - run_at from pgqueue.jobs order by id"
    ).fetchall()


def mail(app: App) -> None:
    app.queue("mail", priority=5, max_retries=2, backoff=Backoff.constant("7s"), expires="1h")


async def test_jobs_get_them(app: App, conn: psycopg.Connection) -> None:
    mail(app)

    @app.task(queue="mail")
    def plain(n: int) -> None: ...

    @app.task(queue="mail", priority=0, max_retries=10, backoff=3, expires="2h")
    def says_it(n: int) -> None: ...

    class Of(Job):
        queue = "mail"

        def handle(self) -> None: ...

    plain.enqueue(1)
    await plain.aenqueue(1)
    app.enqueue_many([plain.call(n) for n in range(2)])
    app.dispatch(Of()).enqueue()
    app.chain(plain.call(1), plain.call(2)).enqueue()
    found = columns(conn)
    assert len(found) == 7
    assert {row[:3] for row in found} == {(5, 2, 7.0)}
    assert {str(row[3]) for row in found} == {"1:00:00"}
    says_it.enqueue(1)
    plain.with_priority(0).with_max_retries(0).with_backoff(1).with_expires("1m").enqueue(1)
    plain.with_queue("other").enqueue(1)
    rest = [(*row[:3], None if row[3] is None else str(row[3])) for row in columns(conn)[7:]]
    assert rest == [(0, 10, 3.0, "2:00:00"), (0, 0, 1.0, "0:01:00"), (0, 10, None, None)]


def test_many_by_copy_get_them(app: App, conn: psycopg.Connection) -> None:
    app.queue("mail", priority=5, max_retries=2)

    @app.task(queue="mail")
    def plain(n: int) -> None: ...

    app.enqueue_many([plain.call(n) for n in range(700)])
    assert {row[:2] for row in columns(conn)} == {(5, 2)}
    assert len(columns(conn)) == 700


def test_in_sql(conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into pgqueue.queues (name, priority, max_retries, backoff, expires)"
        " values ('mail', 5, 2, '{\"base\": 7}', '1 hour')"
    )
    conn.execute("select pgqueue.enqueue('t', queue => 'mail')")
    conn.execute("select pgqueue.enqueue('t')")
    jobs = [
        {"task": "t", "args": {}, "queue": "mail"},
        {"task": "t", "args": {"n": None}, "queue": "mail", "priority": 1},
    ]
    conn.execute("select pgqueue.enqueue_workflow(%s)", [json.dumps(jobs)])
    jobs[0]["unique_key"] = "a"
    conn.execute("select pgqueue.enqueue_jobs(%s)", [json.dumps(jobs)])
    found = [(*row[:3], None if row[3] is None else str(row[3])) for row in columns(conn)]
    own, high = (5, 2, 7.0, "1:00:00"), (1, 2, 7.0, "1:00:00")
    assert found[:4] == [own, (0, 10, None, None), own, high]
    assert sorted(found[4:]) == [high, own]
    args = conn.execute("select distinct args from pgqueue.jobs where priority = 1").fetchall()
    assert args == [({"n": None},)]


async def test_a_timeout_of_the_queue(app: App, conn: psycopg.Connection) -> None:
    app.queue("quick", timeout="50ms")

    @app.task(queue="quick", max_retries=0)
    async def long() -> None:
        await asyncio.Event().wait()

    @app.task(queue="quick", timeout=60)
    async def says_it() -> None:
        await asyncio.sleep(0.1)  # longer than the queue's timeout

    long.enqueue()
    says_it.enqueue()
    await drain(app)
    found = conn.execute("select status, last_error from pgqueue.jobs order by id").fetchall()
    assert [row[0] for row in found] == ["dead", "succeeded"]
    assert "0.05" in found[0][1]
