"""A bug in one service of the worker costs a log line, not the worker."""

from __future__ import annotations

import asyncio
import logging

import psycopg
import pytest

from pgqueue import App
from pgqueue.job import NewJob
from pgqueue.worker.exchange import Exchange
from pgqueue.worker.heartbeat import Abandoner, Presence, Renewer
from pgqueue.worker.maintenance import Pruner, Rescuer
from pgqueue.worker.notifier import Notifier
from pgqueue.worker.outage import Outage
from pgqueue.worker.scheduler import Scheduler
from pgqueue.worker.service import Keeper, Service, backoff
from tests.support import eventually_async, statuses, working

SERVICES = [Exchange, Rescuer, Pruner, Scheduler, Notifier, Keeper, Renewer, Abandoner, Presence]


@pytest.mark.parametrize("kind", SERVICES, ids=lambda kind: kind.name)
async def test_a_bug_is_logged_once_and_tried_again(
    kind: type[Service], app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    calls: list[Service] = []
    original = kind.run_once

    async def buggy(self: Service) -> float:
        calls.append(self)
        if len(calls) <= 3:
            raise ZeroDivisionError("injected")
        return await original(self)

    monkeypatch.setattr(kind, "run_once", buggy)

    @app.task
    async def noop() -> None: ...

    await noop.aenqueue()
    async with working(app, poll=0.05):
        await eventually_async(lambda: len(calls) > 3)
        await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"])
    reports = [r for r in caplog.records if "will keep trying" in r.message]
    # Some run more than once in a worker: each says it for itself.
    failed = dict.fromkeys(calls[:3])
    assert sorted(r.name for r in reports if r.exc_info) == sorted(
        f"pgqueue.{each.name}" for each in failed
    )


def test_the_backoff_is_capped() -> None:
    assert [backoff(n, 15.0) for n in (1, 2, 3, 7, 8, 10_000)] == [0.2, 0.4, 0.8, 12.8, 15.0, 15.0]


def test_an_outage_is_reported_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("postgresql://user:secret@db.example/shop")
    with caplog.at_level(logging.INFO, "pgqueue.database"):
        for _ in range(1000):
            for connection in ("control", "heartbeat", "listen"):
                outage.away(connection, "refused")
        assert len(caplog.records) == 1
        outage._seldom._last["away"] -= 61.0
        outage.away("control", "refused")
        assert len(caplog.records) == 2
        outage.back("control")
        outage.back("heartbeat")
        assert len(caplog.records) == 2  # one is still away
        outage.back("listen")
        assert caplog.records[-1].message.startswith("database is back after")
        for _ in range(1000):  # a flapping connection
            outage.away("control", "refused")
            outage.back("control")
        assert len(caplog.records) == 3
    assert "secret" not in caplog.text


async def test_work_that_arrives_does_not_turn_the_backoff_into_a_spin() -> None:
    class Broken(Service):
        name = "broken"
        passes = 0

        async def run_once(self) -> float:
            self.passes += 1
            raise ZeroDivisionError

    service = Broken()
    task = asyncio.create_task(service.run())
    for _ in range(2000):
        service.wake()
        await asyncio.sleep(0)
    assert service.passes == 1
    service.stop()
    await task


async def test_a_cancelled_worker_gives_back_and_records_what_it_can(
    app: App, conn: psycopg.Connection
) -> None:
    from pgqueue import Worker

    started = asyncio.Event()

    @app.task(name="wait")
    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    await app.aclient.insert([NewJob("wait", "{}") for _ in range(3)])
    worker = Worker(app, concurrency=1, prefetch=2)
    task = asyncio.create_task(worker.arun())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(statuses(conn).values()) == ["pending", "pending", "running"]
    assert worker._runtime is not None
    await eventually_async(lambda: not list(worker._runtime._held()))  # type: ignore[union-attr]
