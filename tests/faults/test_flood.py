"""Any role may notify any channel: what that costs is bounded, and what it says is not read."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from pgqueue import App
from pgqueue.operations import Operation
from pgqueue.worker.database import Database
from pgqueue.worker.exchange import REST
from tests.support import eventually_async, statuses, working

FLOOD = 5000


async def test_a_flood_of_notifications_is_one_claim_at_a_time(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, claims = 0, 0, 0
    original = Database.run

    async def counted(self: Database, operation: Operation[object], **more: Any) -> object:
        nonlocal running, most, claims
        if operation.statement not in ("claim", "sweep", "trade"):
            return await original(self, operation, **more)
        running, claims = running + 1, claims + 1
        most = max(most, running)
        try:
            return await original(self, operation, **more)
        finally:
            running -= 1

    monkeypatch.setattr(Database, "run", counted)

    @app.task(name="t")
    async def task() -> None: ...

    begun = time.monotonic()
    async with working(app) as runtime:
        await eventually_async(lambda: runtime.notifier and runtime.notifier.works)
        conn.execute(
            "select pg_notify(pgqueue.channel('default'), i || repeat('{\"', 3000))"
            " from generate_series(1, %s::int) i", [FLOOD],
        )  # fmt: skip
        await task.aenqueue()
        await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"])
        # Answered in order: once this one is heard, all before it have been.
        runtime.notifier._heard.clear()  # type: ignore[union-attr]
        conn.execute("select pg_notify(%s, '')", [runtime.notifier._own])  # type: ignore[union-attr]
        await eventually_async(lambda: runtime.notifier._heard.is_set())  # type: ignore[union-attr]
    assert most == 1
    assert claims <= (time.monotonic() - begun) / REST + 3
