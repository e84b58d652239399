"""A schedule that the database refuses, its job or its row, stops no other, and goes on when it may."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

import psycopg
import pytest

from pgqueue import App
from pgqueue.worker import scheduler
from tests.schedules.firing import JOB, age
from tests.support import eventually_async, working

Connection = psycopg.Connection[Any]
NAMES = [f"s{i}" for i in range(9)]
FORBID = """
    create table public.forbidden as select unnest('{names}'::text[]) as name;
    create function public.forbid() returns trigger language plpgsql as $$
    begin
        if new.{column} in (select f.name from public.forbidden f) then raise exception 'not you'; end if;
        return new;
    end $$;
    create trigger forbid before {event} on pgqueue.{table} for each row execute function public.forbid();
"""


def forbid(conn: Connection, *names: str, event: str, table: str) -> None:
    column = "schedule" if table == "jobs" else "name"
    listed = "{" + ",".join(names) + "}"
    conn.execute(FORBID.format(column=column, names=listed, event=event, table=table).encode())


def allow(conn: Connection) -> None:
    conn.execute("delete from public.forbidden")


def fired(conn: Connection) -> Counter[str]:
    rows = conn.execute("select schedule from pgqueue.jobs where schedule is not null").fetchall()
    return Counter(row[0] for row in rows)


@pytest.fixture
def task(app: App) -> None:
    @app.task(name="t")
    async def task() -> None: ...


@pytest.mark.usefixtures("task")
async def test_its_job(app: App, conn: Connection, caplog: pytest.LogCaptureFixture) -> None:
    """It says why, and what it missed is caught up with as it was declared."""
    for name in NAMES:
        app.client.add_schedule(name, "0 0 1 * *", JOB, catch_up="all")
    for name in NAMES:
        age(conn, "400 days", name)
    forbid(conn, "s0", "s4", event="insert", table="jobs")
    others = {name: 1 for name in NAMES if name not in ("s0", "s4")}
    with caplog.at_level(logging.ERROR):
        async with working(app, notify=False):
            await eventually_async(lambda: set(fired(conn)) == set(others))
            why = "select name from pgqueue.schedules where error like '%refuses its job: not you%' order by name"
            await eventually_async(
                lambda: conn.execute(why.encode()).fetchall() == [("s0",), ("s4",)]
            )
            assert any("'s0' does not tick" in r.getMessage() and "not you" in r.getMessage() for r in caplog.records)  # fmt: skip
            allow(conn)
            again = "update pgqueue.schedules set next_tick = now() where error is not null"
            await asyncio.to_thread(conn.execute, again.encode())  # the worker may hold their rows
            await eventually_async(lambda: set(fired(conn)) == set(NAMES))
            assert conn.execute("select count(error) from pgqueue.schedules").fetchone() == (0,)
    assert set(fired(conn).values()) == {fired(conn)["s1"]}


@pytest.mark.usefixtures("task")
async def test_its_row(app: App, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are before the others."""
    monkeypatch.setattr(scheduler, "LEFT_ALONE", (0.5, 1.0))
    monkeypatch.setattr(scheduler, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(scheduler, "BATCH", 2)
    for name in NAMES:
        app.client.add_schedule(name, "0 0 1 1 *", JOB)
    for name in NAMES:
        age(conn, "400 days", name)
    forbid(conn, *NAMES[:4], event="update", table="schedules")
    async with working(app, notify=False):
        await eventually_async(lambda: sorted(fired(conn)) == NAMES[4:])
        allow(conn)
        await eventually_async(lambda: sorted(fired(conn)) == NAMES)
    assert set(fired(conn).values()) == {1}


async def test_its_declaration(
    app: App, conn: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scheduler, "REVIEW_EVERY", 0.1)
    monkeypatch.setattr(scheduler, "LOOK_EVERY", 0.1)

    @app.task(name="t")
    async def task() -> None: ...

    for name in NAMES:
        app.cron("0 0 1 1 *", task.call(), name=name)
    forbid(conn, "s3", event="insert or update", table="schedules")

    def declared() -> list[str]:
        rows = conn.execute("select name from pgqueue.schedules order by name").fetchall()
        return [row[0] for row in rows]

    async with working(app, notify=False):
        await eventually_async(lambda: declared() == [n for n in NAMES if n != "s3"])
        await eventually_async(lambda: any("'s3' of the code" in r.getMessage() for r in caplog.records))  # fmt: skip
        allow(conn)
        await eventually_async(lambda: declared() == NAMES)


@pytest.mark.usefixtures("task")
async def test_a_refused_review_stops_no_tick(app: App, conn: Connection) -> None:
    """One whose row may not change is to be marked as undeclared."""
    app.client.add_schedule("s0", "0 0 1 1 *", JOB)
    app.client.add_schedule("s1", "0 0 1 1 *", JOB)
    conn.execute("update pgqueue.schedules set source = 'code' where name = 's0'")
    conn.execute(
        "update pgqueue.schedules set last_tick = now() - interval '400 days', next_tick = now()"
    )
    conn.execute(
        "update pgqueue.schedules set next_tick = now() + interval '1 day' where name = 's0'"
    )
    forbid(conn, "s0", event="update", table="schedules")
    async with working(app, notify=False):
        await eventually_async(lambda: fired(conn) == {"s1": 1})
