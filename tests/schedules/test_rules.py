"""The tables of docs/rules/schedules.md, row by row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App
from pgqueue.cron import parse
from pgqueue.operations import schedules
from pgqueue.schedule import DueSchedule, fire
from tests.model.machine import perform
from tests.schedules.firing import JOB, Passes, age, entry, one, ticks, until_idle

HOUR = timedelta(hours=1)
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SIX = NOON - 6 * HOUR
EACH = [NOON - n * HOUR for n in range(5, -1, -1)]
YEAR = "366 days"


@pytest.mark.parametrize(
    ("catch_up", "overlap", "soon", "later"),
    [
        ("none", "allow", [NOON], []),
        ("none", "skip", [NOON], []),
        ("latest", "allow", [NOON], [NOON]),
        ("latest", "skip", [NOON], [NOON]),
        ("all", "allow", EACH, EACH),
        ("all", "skip", [NOON], [NOON]),
    ],
)
def test_ticks_after_an_absence(
    catch_up: Any, overlap: Any, soon: list[datetime], later: list[datetime]
) -> None:
    due = DueSchedule("s", "0 * * * *", "UTC", catch_up, overlap, SIX, None)
    for now, expected in ((NOON + timedelta(seconds=30), soon), (NOON + HOUR / 12, later)):
        firing = fire(due, now)
        assert firing.ticks == expected
        assert (firing.last_tick, firing.next_tick) == (NOON, NOON + HOUR)


def test_all_is_a_hundred_at_most() -> None:
    due = DueSchedule("s", "0 * * * *", "UTC", "all", "allow", NOON - 1000 * HOUR, None)
    assert fire(due, NOON).ticks == [NOON - n * HOUR for n in range(99, -1, -1)]


def nobody(app: App, conn: psycopg.Connection) -> Callable[[], object]:
    return lambda: None


def by_hand(app: App, conn: psycopg.Connection) -> Callable[[], object]:
    app.client.pause_schedule("s")
    return lambda: app.client.resume_schedule("s")


def undeclared(app: App, conn: psycopg.Connection) -> Callable[[], object]:
    for _ in range(2):
        perform(conn, schedules.review([], patience=0.0))
    assert app.client.schedule("s").pause_reason == "undeclared"
    return lambda: perform(conn, schedules.review(["s"], patience=0.0))


@pytest.mark.parametrize("why", [nobody, by_hand, undeclared])
@pytest.mark.parametrize(
    ("catch_up", "least", "most"), [("none", 0, 0), ("latest", 1, 1), ("all", 3, 4)]
)
async def test_it_makes_no_difference_why_nobody_saw_them(
    app: App, dsn: str, conn: psycopg.Connection, why: Any, catch_up: Any, least: int, most: int
) -> None:
    perform(conn, schedules.declare([entry("s", "@yearly", catch_up=catch_up)]))
    async with Passes(dsn) as passes:
        passes._review_at = float("inf")
        await until_idle(passes)
        go_on = why(app, conn)
        age(conn, "1100 days")
        if why is not nobody:
            await until_idle(passes)
            assert ticks(conn) == []
        go_on()
        await until_idle(passes)
    assert least <= len(ticks(conn)) <= most


@pytest.mark.parametrize(
    ("status", "fires"),
    [
        ("pending", False),
        ("blocked", False),
        ("running", False),
        ("succeeded", True),
        ("dead", True),
        ("cancelled", True),
        ("deleted", True),
    ],
)
@pytest.mark.parametrize("tick", [None, NOON])
async def test_what_skip_looks_at(
    app: App, dsn: str, conn: psycopg.Connection, status: str, fires: bool, tick: datetime | None
) -> None:
    app.client.add_schedule("s", "@yearly", JOB, overlap="skip")
    if status != "deleted":
        conn.execute(
            "insert into pgqueue.jobs (task, schedule, tick, status) values ('t', 's', %s, %s)",
            [tick, status],
        )
    conn.execute("insert into pgqueue.jobs (task) values ('t')")
    age(conn, YEAR)
    async with Passes(dsn) as passes:
        await until_idle(passes)
    ours = one(conn, "select count(*) from pgqueue.jobs where schedule = 's'")
    assert ours == (0 if status == "deleted" else 1) + (1 if fires else 0)
    assert app.client.schedule("s").skipped == (0 if fires else 1)


def of_day(text: str, start: str, end: str, tz: str = "Europe/Berlin") -> list[str]:
    found = []
    for tick in parse(text, tz).after(datetime.fromisoformat(start) - timedelta(seconds=1)):
        if tick >= datetime.fromisoformat(end):
            return found
        found.append(f"{tick:%d %H:%M}")
    raise AssertionError


@pytest.mark.parametrize(
    ("text", "gap", "twice"),
    [
        ("30 1 * * *", ["29 00:30"], ["24 23:30"]),
        ("30 2 * * *", ["29 01:00"], ["25 00:30"]),
        ("0,30 2 * * *", ["29 01:00"], ["25 00:00", "25 00:30"]),
        ("30 3 * * *", ["29 01:30"], ["25 02:30"]),
        ("30 * * * *", ["29 00:30", "29 01:30"], ["24 23:30", "25 00:30", "25 01:30", "25 02:30"]),
        ("every 1h", ["29 00:00", "29 01:00"], ["24 23:00", "25 00:00", "25 01:00", "25 02:00"]),
    ],
)
def test_when_the_clock_changes(text: str, gap: list[str], twice: list[str]) -> None:
    """From 01:00 to 04:00 on the wall."""
    assert of_day(text, "2026-03-29T01:00+01:00", "2026-03-29T04:00+02:00") == gap
    assert of_day(text, "2026-10-25T01:00+02:00", "2026-10-25T04:00+01:00") == twice


@pytest.mark.parametrize(
    "change",
    [
        {"task": "'u'"}, {"args": "'{\"a\": 1}'"}, {"queue": "'mail'"}, {"priority": "5"}, {"max_retries": "1"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
async def test_a_change_of_the_job_holds_from_the_next_tick_on(
    app: App, dsn: str, conn: psycopg.Connection, change: dict[str, str]
) -> None:
    app.client.add_schedule("s", "@yearly", JOB)
    (column, value), *_ = change.items()
    async with Passes(dsn) as passes:
        age(conn, YEAR)
        await until_idle(passes)
        conn.execute(f"update pgqueue.schedules set {column} = {value}".encode())
        age(conn, YEAR)
        await until_idle(passes)
    rows = conn.execute(
        f"select {column} = {value} from pgqueue.jobs order by id".encode()
    ).fetchall()
    assert rows == [(False,), (True,)]


@pytest.mark.parametrize("column", ["expression", "tz"])
async def test_a_change_of_the_times_makes_up_for_nothing(
    app: App, dsn: str, conn: psycopg.Connection, column: str
) -> None:
    app.client.add_schedule("s", "@yearly", JOB, catch_up="all")
    age(conn, YEAR)
    value = {"expression": "0 0 2 1 *", "tz": "Europe/Oslo"}[column]
    conn.execute(f"update pgqueue.schedules set {column} = %s".encode(), [value])
    async with Passes(dsn) as passes:
        await until_idle(passes)
        assert ticks(conn) == []
        age(conn, YEAR)
        await until_idle(passes)
    assert len(ticks(conn)) == 1


async def test_removed_and_added_again(app: App, dsn: str, conn: psycopg.Connection) -> None:
    app.client.add_schedule("s", "@yearly", JOB, overlap="skip")
    left = app.client.run_schedule("s")
    age(conn, YEAR)
    app.client.remove_schedule("s")
    app.client.add_schedule("s", "@yearly", JOB, overlap="skip", catch_up="all")
    async with Passes(dsn) as passes:
        await until_idle(passes)
        assert app.client.schedule("s").skipped == 0  # nothing was due
        age(conn, YEAR)
        await until_idle(passes)
        assert app.client.schedule("s").skipped == 1
        app.client.cancel(left)
        age(conn, YEAR)
        await until_idle(passes)
    assert len([tick for tick in ticks(conn) if tick]) == 1


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("overlap", ["allow", "skip"])
async def test_a_run_by_hand(
    app: App, dsn: str, conn: psycopg.Connection, paused: bool, overlap: Any
) -> None:
    app.client.add_schedule("s", "@yearly", JOB, overlap=overlap)
    if paused:
        app.client.pause_schedule("s")
    before = app.client.schedule("s")
    runs = [app.client.run_schedule("s") for _ in range(2)]
    after = app.client.schedule("s")
    assert (after.last_tick, after.next_tick) == (before.last_tick, before.next_tick)
    assert [(run.job_id, run.tick) for run in app.client.schedule_runs("s")] == [
        (runs[1], None),
        (runs[0], None),
    ]
    age(conn, YEAR)
    async with Passes(dsn) as passes:
        await until_idle(passes)
    fired = [tick for tick in ticks(conn) if tick is not None]
    assert len(fired) == (0 if paused or overlap == "skip" else 1)


async def test_a_run_by_hand_in_an_open_transaction(
    app: App, dsn: str, conn: psycopg.Connection
) -> None:
    app.client.add_schedule("s", "@yearly", JOB, overlap="skip")
    age(conn, YEAR)
    async with Passes(dsn) as passes:
        with psycopg.connect(dsn) as other:
            app.client.run_schedule("s", on=other)
            assert 0 < await passes.run_once() < 1
            assert ticks(conn) == []
        await until_idle(passes)
    assert [tick for tick in ticks(conn) if tick] == []
    assert app.client.schedule("s").skipped == 1
