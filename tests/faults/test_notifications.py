"""The server has no room for notifications: a session listens and never reads. Everything goes on, by polling."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from pgqueue import App, schema
from pgqueue.embedded import embedded_postgres
from tests.support import eventually_async, statuses, working

PAGES = "64"  # the least that PostgreSQL takes


@pytest.fixture(scope="module")
def full() -> Iterator[str]:
    """A server whose queue of notifications is full."""
    settings = {"fsync": "off", "max_notify_queue_pages": PAGES}
    with embedded_postgres(settings=settings) as dsn:
        schema.upgrade(dsn)
        with (
            psycopg.connect(dsn, autocommit=True) as asleep,
            psycopg.connect(dsn, autocommit=True) as conn,
        ):
            asleep.execute("listen anything")
            asleep.execute("begin")
            asleep.execute("select 1")  # in a transaction it reads none
            with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="too many notifications"):
                for _ in range(200):
                    conn.execute("select pg_notify('anything', repeat('x', 7900))")
            yield dsn


async def test_everything_goes_on(full: str, caplog: pytest.LogCaptureFixture) -> None:
    app = App(full)

    @app.task(name="t")
    async def t() -> None: ...

    flow = app.workflow("flow")
    first = flow.add(t.call())
    flow.add(t.call(), after=[first])
    with psycopg.connect(full, autocommit=True) as conn:
        await t.aenqueue()
        t.enqueue()
        t.on(conn).enqueue()
        app.enqueue_many([t.call() for _ in range(500)], on=conn)
        await app.aenqueue_many([t.call() for _ in range(500)])
        conn.execute("select pgqueue.enqueue('t')")
        flow.enqueue()
        app.client.pause("default")
        app.client.resume("default")
        app.client.set_queue("default", max_pending=5000)
        dead = t.on(conn).enqueue()
        conn.execute(
            "update pgqueue.jobs set status = 'cancelled', finished_at = now() where id = %s",
            [dead.id],
        )
        assert app.client.retry(dead.id)
        async with working(app, poll=0.05) as runtime:
            await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
            await eventually_async(lambda: runtime.notifier and runtime.notifier.works is False)
    await app.aclose()
    assert sum("queue of notifications is half full" in r.message for r in caplog.records) == 1
    assert "refuses" not in caplog.text


async def test_schedules_fire(full: str) -> None:
    app = App(full)

    @app.task(name="tick", every="1s")
    async def tick() -> None: ...

    with psycopg.connect(full, autocommit=True) as conn:
        async with working(app, poll=0.05):
            await eventually_async(
                lambda: conn.execute(
                    "select 1 from pgqueue.jobs where task = 'tick' and status = 'succeeded'"
                ).fetchone()
            )
    await app.aclose()
