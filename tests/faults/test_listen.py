"""Notifications are hints: whether they arrive is known, and without them polling goes on."""

from __future__ import annotations

import logging
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App
from pgqueue.worker import notifier as module
from pgqueue.worker.database import Database
from pgqueue.worker.notifier import Notifier
from tests.faults.test_half_open import serving
from tests.support import eventually_async, statuses, working


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test comes round at once."""
    monkeypatch.setattr(module, "TEST_PATIENCE", 1.0)
    monkeypatch.setattr(module, "TEST_EVERY", 0.0)
    monkeypatch.setattr(module, "CHECK_AFTER", 0.01)


def said(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.message for record in caplog.records)


async def test_it_is_said_once_when_notifications_do_not_arrive(
    dsn: str, server: str, often: None, caplog: pytest.LogCaptureFixture
) -> None:
    # Notifications do not cross databases, as they do not cross a pooler in transaction mode.
    listen, elsewhere, here = (
        Database(dsn, "pgqueue"),
        Database(server, "pgqueue"),
        Database(dsn, "pgqueue"),
    )
    notifier = Notifier(database=listen, control=elsewhere, on_wake=lambda: None)
    tests: list[bool | None] = []
    original = notifier._test

    async def counted() -> None:
        await original()
        tests.append(notifier.works)

    notifier._test = counted  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO, "pgqueue"):
        async with serving(notifier):
            await eventually_async(lambda: len(tests) >= 3)
            assert set(tests) == {False}
            assert said(caplog, "notifications do not arrive") == 1
            notifier._control = here
            await eventually_async(lambda: notifier.works)
            assert said(caplog, "notifications arrive now") == 1
            notifier._control = elsewhere
            session = listen.session
            await eventually_async(lambda: notifier.works is False)
            await eventually_async(lambda: listen.session > session)  # another one may do
    await elsewhere.close()
    await here.close()


async def test_polling_goes_on_without_notifications(
    app: App, often: None, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task
    async def noop() -> None: ...

    async with working(app, poll=0.1) as runtime:
        await eventually_async(lambda: runtime.notifier and runtime.notifier.works)
        notifier = runtime.notifier
        assert notifier is not None
        elsewhere = property(lambda self: f"pgqueue_{uuid4().hex}")  # never what it listens to
        monkeypatch.setattr(module.Notifier, "_own", elsewhere, raising=False)
        await eventually_async(lambda: notifier.works is False)
        await noop.aenqueue()
        await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"])


async def test_a_handler_that_blocks_the_loop_leaves_no_notification_unread(
    app: App, dsn: str, conn: psycopg.Connection
) -> None:
    """Unread, they would hold back vacuum in the whole database."""

    @app.task
    async def block() -> None:
        # Notifications of more than the buffers of both sockets hold.
        with psycopg.connect(dsn, autocommit=True) as own:
            channel = own.execute("select pgqueue.channel('default')").fetchone()
            for number in range(200):
                own.execute(
                    "select pg_notify(%s, rpad(i::text, 7000)) from generate_series(1, 100) i",
                    (channel[0],),  # type: ignore[index]
                )
                if number % 10 == 0 and unread(own):
                    seen.append(number)

    seen: list[int] = []
    async with working(app) as runtime:
        await eventually_async(lambda: runtime.notifier and runtime.notifier.works)
        await block.aenqueue()
        await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"])
    assert seen == []


def unread(conn: psycopg.Connection) -> bool:
    """Does a session wait for its client to read what it was sent?"""
    row = conn.execute(
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and wait_event = 'ClientWrite'"
    ).fetchone()
    return row != (0,)


async def test_a_killed_listen_connection_listens_again_and_polls(
    dsn: str, conn: psycopg.Connection
) -> None:
    woken: list[int] = []
    listen, control = Database(dsn, "pgqueue"), Database(dsn, "pgqueue")
    notifier = Notifier(database=listen, control=control, on_wake=lambda: woken.append(1))
    listen._lost = notifier.wake
    notifier.want({"default"})
    async with serving(notifier):
        for session in (1, 2, 3):
            await eventually_async(lambda session=session: listen.session == session)
            await eventually_async(lambda: woken)
            woken.clear()
            conn.execute("select pg_notify(pgqueue.channel('default'), '')")
            await eventually_async(lambda: woken)
            woken.clear()
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and query ~ 'LISTEN|channel'"
                " and pid <> pg_backend_pid()"
            )
    await control.close()
