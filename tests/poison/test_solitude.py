"""Jobs on their last chance run alone, and yet do not stop the queue behind them."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from pgqueue import App
from pgqueue.worker import solitude
from tests.support import eventually_async, statuses, working

OTHERS = 50


async def test_suspects_without_others_do_not_wait_for_them(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solitude, "LEAST_OPEN", 3600.0)

    @app.task(name="suspect")
    async def suspect() -> None: ...

    app.enqueue_many(suspect.call() for _ in range(5))
    conn.execute("update pgqueue.jobs set crashes = 2")
    async with working(app, concurrency=10):
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})


async def test_many_suspects_leave_time_for_the_others(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solitude, "ALONE", 0.1)
    ran: list[int] = []
    done = asyncio.Event()

    @app.task(name="suspect")
    async def suspect() -> None:
        await done.wait()

    @app.task(name="other")
    async def other(number: int) -> None:
        ran.append(number)

    app.enqueue_many(suspect.call() for _ in range(5))
    conn.execute("update pgqueue.jobs set crashes = 2")
    app.enqueue_many(other.call(number) for number in range(OTHERS))
    async with working(app, concurrency=10) as runtime:
        await eventually_async(lambda: len(ran) == OTHERS)
        waiting = [run.job.task for run in runtime.executors[0].held.values()]
        assert waiting.count("suspect") <= 1
        done.set()
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
    rows = conn.execute("select max(attempt), max(crashes) from pgqueue.jobs").fetchone()
    assert rows == (1, 2)


async def test_suspects_come_in_company(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many of them, more than the process may hold, and others: without a pause between two suspects."""
    for name in ("LEAST_OPEN", "STRETCH", "SEEK"):
        monkeypatch.setattr(solitude, name, 3600.0)
    # They keep their places, so that the others come after all of them on a slow machine too.
    monkeypatch.setattr(solitude, "BEHIND", 0.0)
    company: list[int] = []
    now: set[int] = set()

    @app.task(name="suspect")
    async def suspect() -> None:
        company.append(len(now))

    @app.task(name="other")
    async def other(number: int) -> None:
        now.add(number)
        await asyncio.sleep(0)
        now.remove(number)

    app.enqueue_many(suspect.call() for _ in range(100))
    conn.execute("update pgqueue.jobs set crashes = 2")
    app.enqueue_many(other.call(number) for number in range(OTHERS))
    async with working(app, concurrency=10):
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"}, timeout=60)
    assert company == [0] * 100
