"""A job that was claimed and given back before it started holds its key as before."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App, Snooze
from pgqueue.operations import claims
from pgqueue.outcome import RELEASED
from pgqueue.task import Task
from pgqueue.worker.database import Database
from tests.model.machine import perform
from tests.support import drain, eventually_async, statuses, working


@pytest.fixture
def touch(app: App) -> Task[Any, Any]:
    @app.task(name="touch")
    async def touch(number: int) -> None: ...

    return touch.with_unique("k", until="started")


def claim(conn: psycopg.Connection) -> list[claims.Finished]:
    sweep = claims.sweep(None, limit=9, claim_id=uuid4(), worker_id=uuid4(), lease=60)
    return [
        claims.Finished(j.id, j.claim_id, RELEASED, 0.0, job=j) for j in perform(conn, sweep).jobs
    ]


async def test_a_worker_that_stops_gives_the_key_back(
    app: App, touch: Task[Any, Any], conn: psycopg.Connection
) -> None:
    go = asyncio.Event()

    @app.task(name="long")
    async def long() -> None:
        await go.wait()

    first, keyed = long.enqueue().id, touch.enqueue(1).id
    async with working(app, concurrency=1, prefetch=1):
        await eventually_async(lambda: set(statuses(conn).values()) == {"running"})
        await eventually_async(lambda: statuses(conn)[keyed] == "pending")  # it waited too long
        await eventually_async(lambda: not touch.enqueue(2).inserted)
        go.set()
        await eventually_async(lambda: statuses(conn)[first] == "succeeded")


def test_of_several_with_one_key_the_first_holds_it(
    touch: Task[Any, Any], conn: psycopg.Connection
) -> None:
    first = touch.enqueue(1)
    (one,) = claim(conn)
    second = touch.enqueue(2)
    assert second.inserted
    (two,) = claim(conn)
    perform(conn, claims.fail([one, two]))
    perform(conn, claims.hold_again([one.id, two.id]))
    assert touch.enqueue(3).id == first.id
    assert set(statuses(conn)) == {first.id, second.id}
    third = touch.with_unique("other", until="started").enqueue(4)
    perform(conn, claims.hold_again([two.id, third.id]))  # still without: no error
    assert touch.enqueue(5).id == first.id


def test_another_jobs_key_is_left_to_it(touch: Task[Any, Any], conn: psycopg.Connection) -> None:
    touch.enqueue(1)
    given_back = claim(conn)
    holder = touch.enqueue(2)
    perform(conn, claims.fail(given_back))
    perform(conn, claims.hold_again([f.id for f in given_back]))
    assert touch.enqueue(3).id == holder.id


def test_a_key_in_an_open_transaction_is_not_waited_for(
    touch: Task[Any, Any], conn: psycopg.Connection, dsn: str
) -> None:
    touch.enqueue(1)
    given_back = claim(conn)
    with psycopg.connect(dsn) as other:
        touch.on(other).enqueue(2)
        perform(conn, claims.fail(given_back))
        perform(conn, claims.hold_again([f.id for f in given_back]))
        other.commit()
    assert list(statuses(conn).values()) == ["pending", "pending"]


def test_a_row_in_hand_is_not_waited_for(
    touch: Task[Any, Any], conn: psycopg.Connection, dsn: str
) -> None:
    job = touch.enqueue(1)
    given_back = claim(conn)
    perform(conn, claims.fail(given_back))
    conn.execute("set statement_timeout = '5s'")
    with psycopg.connect(dsn) as other:
        other.execute("select from pgqueue.jobs where id = %s for update", [job.id])
        perform(conn, claims.hold_again([job.id]))


@pytest.mark.parametrize("before", ["crashes = 1", "run_seconds = 0.5", "attempt = 1"])
def test_what_has_started_before_does_not_hold_it(
    touch: Task[Any, Any], conn: psycopg.Connection, before: str
) -> None:
    touch.enqueue(1)
    given_back = claim(conn)
    perform(conn, claims.fail(given_back))
    conn.execute(f"update pgqueue.jobs set {before}".encode())
    perform(conn, claims.hold_again([f.id for f in given_back]))
    assert touch.enqueue(2).inserted


async def test_a_handler_that_snoozes_has_started(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="snoozes")
    async def snoozes() -> None:
        raise Snooze("1h")

    keyed = snoozes.with_unique("k", until="started")
    await keyed.aenqueue()
    await drain(app)
    assert (await keyed.aenqueue()).inserted


async def test_an_unanswered_claim_gives_the_key_back(
    app: App, touch: Task[Any, Any], conn: psycopg.Connection
) -> None:
    job = touch.enqueue(1)
    (held,) = claim(conn)
    database = Database(app.dsn, "pgqueue")
    released = await database.run(claims.release(held.claim_id))
    await database.run(claims.hold_again(released))
    await database.close()
    assert touch.enqueue(2).id == job.id
