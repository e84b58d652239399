"""The database goes away: for a moment and again, or for long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App, Context, schema
from pgqueue.worker import outage, service
from tests.chaos.server import running
from tests.faults.proxy import Proxy
from tests.support import eventually_async, statuses, working

RESTARTS = 3
JOBS = 600
LAPSED = "select status, lease_expires_at < clock_timestamp() from pgqueue.jobs"


async def test_nothing_is_lost_or_done_twice_over_immediate_restarts() -> None:
    with running({"shared_buffers": "64MB"}) as server:
        schema.upgrade(server.dsn)
        app = App(server.dsn)

        @app.task(name="pay", max_retries=20, backoff="100ms")
        async def pay(ctx: Context, number: int) -> None:
            async with ctx.transaction() as connection:
                await connection.execute("insert into effects values ($1)", number)

        with psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute("create table effects (number int)")
        with psycopg.connect(server.dsn) as conn:
            app.enqueue_many([pay.call(number) for number in range(JOBS)], on=conn)
        async with working(app, concurrency=5, lease=5, poll=0.1, max_crashes=100):
            for restart in range(1, RESTARTS + 1):
                await eventually_async(lambda restart=restart: _done(server.dsn) >= 60 * restart)
                await asyncio.to_thread(server.crash)
            await eventually_async(lambda: _done(server.dsn) == JOBS, timeout=60)
        with psycopg.connect(server.dsn) as conn:
            assert set(statuses(conn).values()) == {"succeeded"}
            effects = conn.execute("select count(*), count(distinct number) from effects")
            assert effects.fetchone() == (JOBS, JOBS)


def _done(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "select count(*) from pgqueue.jobs where status = 'succeeded'"
        ).fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
async def away(proxy: Proxy, through: str) -> AsyncIterator[App]:
    """An app whose database goes away with ``leave(proxy)``."""
    app = App(through)
    yield app
    await app.aclose()


def leave(proxy: Proxy) -> None:
    proxy.refuse = True
    proxy.reset()


async def test_jobs_in_flight_are_recorded_when_it_is_back(
    away: App, proxy: Proxy, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    go, ran = asyncio.Event(), []

    @away.task
    async def wait() -> None:
        ran.append(1)
        await go.wait()

    wait.on(conn).enqueue()
    async with working(away, poll=0.05) as runtime:
        await eventually_async(lambda: ran)
        leave(proxy)
        go.set()
        await eventually_async(lambda: runtime.executors[0].ended)
        await eventually_async(lambda: "control" in runtime._outage._away)
        assert list(statuses(conn).values()) == ["running"]
        proxy.refuse = False
        await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"])
        assert (runtime.exchanges[0].recorder.lost, ran) == (0, [1])
    assert conn.execute("select attempt from pgqueue.jobs").fetchone() == (1,)
    assert sum("no database" in r.message for r in caplog.records) == 1


async def test_jobs_beyond_their_lease_are_given_up_and_reported(
    away: App, proxy: Proxy, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []
    lapsed: list[object] = []

    @away.task(max_retries=3)
    async def wait(ctx: Context) -> None:
        ran.append(ctx.attempt)
        if len(ran) == 1:
            try:
                await asyncio.Event().wait()
            finally:
                lapsed.append(conn.execute(LAPSED).fetchone())

    wait.on(conn).enqueue()
    async with working(away, poll=0.05, lease=6):
        await eventually_async(lambda: ran)
        leave(proxy)
        await eventually_async(lambda: lapsed)
        assert lapsed == [("running", False)]  # stopped before another worker may start it
        proxy.refuse = False
        await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"])
    assert len(ran) == 2  # given back, or taken back by then
    dropped = "its lease could not be renewed in time: stopping it"
    assert sum(dropped in r.message for r in caplog.records) == 1


async def test_results_that_wait_too_long_are_dropped_and_reported(
    away: App, proxy: Proxy, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Ended in time, but taken back by others before the database could be reached again."""
    go, ran = asyncio.Event(), []

    @away.task
    async def wait() -> None:
        ran.append(1)
        await go.wait()

    wait.on(conn).enqueue()
    async with working(away, poll=0.05) as runtime:
        await eventually_async(lambda: ran)
        leave(proxy)
        await eventually_async(lambda: "control" in runtime._outage._away)
        go.set()
        await eventually_async(lambda: runtime.executors[0].ended)
        conn.execute("update pgqueue.jobs set claim_id = %s", (uuid4(),))
        proxy.refuse = False
        await eventually_async(
            lambda: runtime.exchanges[0].recorder.lost + runtime.exchanges[0].recorder.unknown
        )
        assert runtime.exchanges[0].recorder.lost + runtime.exchanges[0].recorder.unknown == 1
    assert list(statuses(conn).values()) == ["running"]


async def test_a_worker_may_start_before_its_database(
    away: App, proxy: Proxy, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    @away.task
    async def noop() -> None: ...

    noop.on(conn).enqueue()
    proxy.refuse = True
    tries: list[object] = []
    with caplog.at_level(logging.INFO, "pgqueue"):
        async with working(away, poll=0.05) as runtime:
            original = runtime._outage.away
            runtime._outage.away = lambda *a: (tries.append(a), original(*a))  # type: ignore[method-assign,assignment]
            await eventually_async(lambda: len(tries) > 2)
            proxy.refuse = False
            await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"])
    assert sum("no database" in r.message for r in caplog.records) == 1


async def test_one_connection_that_gets_through_wakes_all_others(
    away: App, proxy: Proxy, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here all but one would wait for an hour."""

    @away.task
    async def noop() -> None: ...

    async def failed(self: service.Service, error: Exception, failures: int) -> None:
        monkeypatch.setattr(service, "AWAY_BACKOFF", 0.1 if self.name == "presence" else 3600.0)
        self.most_backoff = 3600.0
        await original(self, error, 1 if self.name == "presence" else 20)

    original = service.Service._failed
    noop.on(conn).enqueue()
    async with working(away, poll=0.05, lease=3) as runtime:
        await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"])
        await eventually_async(lambda: runtime.notifier and runtime.notifier.works)
        monkeypatch.setattr(service.Service, "_failed", failed)
        leave(proxy)
        await eventually_async(lambda: runtime._outage._away == {"control", "heartbeat", "listen"})
        noop.on(conn).enqueue()
        proxy.refuse = False
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
        await eventually_async(lambda: not runtime._outage._away)
        monkeypatch.setattr(service.Service, "_failed", original)


def test_attempts_take_turns_while_nothing_gets_through(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(outage.time, "monotonic", lambda: now)
    told = outage.Outage(dsn)
    assert told.may_try()
    assert told.may_try()  # nothing is known to be away
    for connection in ("control", "heartbeat", "listen"):
        told.away(connection, "refused")
    tries = 0
    for _ in range(10_000):  # ten seconds in which ten services try a hundred times a second
        now += 0.001
        tries += told.may_try()
    assert 20 <= tries <= 40
    woken: list[int] = []
    with told.waking(lambda: woken.append(1)):
        told.back("control")
        assert woken == [1]
        assert [told.may_try() for _ in range(5)] == [True] * 5
        told.back("control")  # it was not away: nothing to tell
        assert woken == [1]
    told.back("heartbeat")
    assert woken == [1]
