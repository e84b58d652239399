"""A connection whose other end is gone without a word is noticed, whatever it was doing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App
from pgqueue.job import ClaimedJob, NewJob
from pgqueue.operations import claims, maintenance
from pgqueue.sql import compile_statement
from pgqueue.worker import clock, heartbeat
from pgqueue.worker import database as module
from pgqueue.worker.database import Database, DatabaseAway
from pgqueue.worker.heartbeat import Heartbeat
from pgqueue.worker.notifier import Notifier
from pgqueue.worker.outage import Outage
from pgqueue.worker.run import Run
from pgqueue.worker.service import Keeper, Service
from tests.faults.proxy import Proxy
from tests.support import alive, eventually_async, statuses, working

STATS = maintenance.stats()
ALIVE = alive(uuid4())


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[None]:
    task = asyncio.create_task(service.run())
    try:
        yield
    finally:
        service.stop()
        async with asyncio.timeout(30):
            await task


@asynccontextmanager
async def beating(dsn: str, run: Run | None, lease: float) -> AsyncIterator[None]:
    beats = Heartbeat(
        dsn=dsn,
        schema="pgqueue",
        outage=Outage(dsn),
        worker_id=uuid4(),
        lease=lease,
        held=lambda: [] if run is None else [run],
        give_up=lambda run: None,
        alive=lambda: ALIVE,
        loop=asyncio.get_running_loop(),
    )
    beats.start()
    try:
        yield
    finally:
        await asyncio.to_thread(beats.stop)
    assert not beats._thread.is_alive()


async def claimed(app: App, database: Database, lease: float) -> ClaimedJob:
    await app.aclient.insert([NewJob("t", "{}")])
    sweep = claims.sweep(None, limit=1, claim_id=uuid4(), worker_id=uuid4(), lease=lease)
    (job,) = (await database.run(sweep)).jobs
    return job


LIMIT = compile_statement(
    "limit", "select extract(epoch from current_setting('statement_timeout')::interval)"
)


def noticed(caplog: pytest.LogCaptureFixture, connection: str) -> bool:
    return any(f"{connection} connection (no answer in time)" in r.message for r in caplog.records)


def test_silence_is_noticed_within_ten_seconds() -> None:
    assert module.CHECK_AFTER + module.PATIENCE < 10
    assert heartbeat.patience(3600) <= module.PATIENCE


@pytest.mark.parametrize("lease", [1.0, 60.0])
async def test_the_client_waits_longer_than_the_server(dsn: str, lease: float) -> None:
    """Else the client gives up what the server is still going to carry out."""
    patience = heartbeat.patience(lease)
    database = Database(dsn, "pgqueue", patience=patience)
    await database.run(STATS)
    assert database._link is not None
    ((limit,),) = await database._link.fetch(LIMIT, {})
    assert 0 < limit < patience
    await database.close()


@pytest.mark.parametrize("mode", ["drop_replies", "blackhole"])
async def test_a_statement_ends_when_nobody_answers(
    proxy: Proxy, through: str, impatient: None, mode: str
) -> None:
    database = Database(through, "pgqueue")
    await database.run(STATS)
    proxy.mode = mode  # type: ignore[assignment]
    with pytest.raises(DatabaseAway) as caught:
        await database.run(STATS)
    assert caught.value.sent
    with pytest.raises(DatabaseAway) as caught:
        await database.run(STATS)
    assert not caught.value.sent  # it did not even get a connection
    proxy.mode = "pass"
    await database.run(STATS)
    assert database.session == 2
    await database.close()


async def test_an_idle_control_connection(
    proxy: Proxy, through: str, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(through, "pgqueue")
    async with serving(Keeper(database)):
        await eventually_async(lambda: database.session == 1)
        proxy.mode = "blackhole"
        await eventually_async(lambda: noticed(caplog, "control"))
        proxy.mode = "pass"
        await eventually_async(lambda: database.session == 2)
    await database.close()


async def test_an_idle_listen_connection_listens_again_and_polls(
    dsn: str,
    proxy: Proxy,
    through: str,
    conn: psycopg.Connection,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    woken: list[int] = []
    control, listen = Database(dsn, "pgqueue"), Database(through, "pgqueue", name="listen")
    notifier = Notifier(database=listen, control=control, on_wake=lambda: woken.append(1))
    notifier.want({"default"})
    async with serving(notifier):
        await eventually_async(lambda: notifier.works)
        proxy.mode = "blackhole"
        woken.clear()
        await eventually_async(lambda: noticed(caplog, "listen"))
        assert woken == []
        proxy.mode = "pass"
        await eventually_async(lambda: woken)  # what came meanwhile gave no notification
        woken.clear()
        conn.execute("select pg_notify(pgqueue.channel('default'), '')")
        await eventually_async(lambda: woken)
    await control.close()


async def test_an_idle_heartbeat_connection(
    proxy: Proxy, through: str, impatient: None, caplog: pytest.LogCaptureFixture,
    conn: psycopg.Connection,
) -> None:  # fmt: skip
    async with beating(through, None, lease=600):
        await eventually_async(lambda: conn.execute("select 1 from pgqueue.workers").fetchone())
        proxy.mode = "blackhole"
        await eventually_async(lambda: noticed(caplog, "heartbeat"))
        proxy.mode = "pass"
        with caplog.at_level(logging.INFO, "pgqueue.database"):
            await eventually_async(lambda: any("is back" in r.message for r in caplog.records))


async def test_leases_are_given_up_while_a_beat_hangs(
    app: App,
    proxy: Proxy,
    through: str,
    conn: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "patience", lambda lease: 600.0)
    database = Database(app.dsn, "pgqueue")
    job = await claimed(app, database, lease=3)
    run = Run(job, clock.seconds())
    async with beating(through, run, lease=3):
        await eventually_async(lambda: conn.execute("select 1 from pgqueue.workers").fetchone())
        proxy.mode = "blackhole"
        await eventually_async(lambda: run.reason == "lost")
    await database.close()


async def test_beats_go_on_after_the_silence(
    app: App, proxy: Proxy, through: str, impatient: None
) -> None:
    database = Database(app.dsn, "pgqueue")
    job = await claimed(app, database, lease=600)
    run = Run(job, clock.seconds() - 300)
    proxy.mode = "blackhole"
    async with beating(through, run, lease=600):
        await eventually_async(lambda: proxy.connections)
        before = run.renewed_at
        proxy.mode = "pass"
        await eventually_async(lambda: run.renewed_at > before)
        assert run.reason is None
    await database.close()


async def test_a_worker_goes_on_after_the_silence(
    proxy: Proxy, through: str, conn: psycopg.Connection, impatient: None
) -> None:
    app = App(through)

    @app.task
    async def noop() -> None: ...

    with psycopg.connect(conn.info.dsn, password=conn.info.password, autocommit=True) as direct:
        async with working(app, poll=60) as runtime:
            noop.on(direct).enqueue()
            await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"])
            proxy.mode = "blackhole"
            noop.on(direct).enqueue()
            await eventually_async(lambda: runtime._outage._away >= {"control", "listen"})
            proxy.mode = "pass"
            await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"] * 2)
