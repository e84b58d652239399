"""A schedule fires at its ticks; missed ones by policy; what is broken stops no other."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context
from pgqueue.job import NewJob
from pgqueue.schedule import new_schedule
from tests.schedules.firing import JOB, Passes, age, entry, one, ticks, until_idle
from tests.support import drain, eventually_async, working


async def test_a_new_schedule_fires_first_at_its_next_tick(
    dsn: str, conn: psycopg.Connection
) -> None:
    async with Passes(dsn, entry(catch_up="all")) as scheduler:
        await until_idle(scheduler)
        assert ticks(conn) == []
        age(conn, "1 minute")
        await until_idle(scheduler)
        assert len(ticks(conn)) == 1


async def test_a_run_is_a_job_with_the_schedules_options(
    dsn: str, conn: psycopg.Connection
) -> None:
    job = NewJob("t", '{"a": 1}', "mail", 7, 3, {"base": 5.0})
    async with Passes(dsn, new_schedule("s", job, {"cron": "* * * * *"})) as scheduler:
        await until_idle(scheduler)
        age(conn, "1 minute")
        await until_idle(scheduler)
    row = conn.execute(
        "select task, args, queue, priority, max_retries, backoff, schedule, status,"
        " run_at >= tick, tick = date_trunc('minute', tick) from pgqueue.jobs"
    ).fetchone()
    assert row == ("t", {"a": 1}, "mail", 7, 3, {"base": 5.0}, "s", "pending", True, True)


@pytest.mark.parametrize(
    ("catch_up", "away", "expected"),
    [
        ("none", "10 minutes", 1),  # the tick of this minute is not missed
        ("latest", "10 minutes", 1),
        ("all", "10 minutes", 10),
        ("all", "3 days", 100),
        ("latest", "3 years", 1),
    ],
)
async def test_missed_ticks(
    dsn: str, conn: psycopg.Connection, catch_up: str, away: str, expected: int
) -> None:
    async with Passes(dsn, entry(catch_up=catch_up)) as scheduler:
        await until_idle(scheduler)
        age(conn, away)
        await until_idle(scheduler)
    found = ticks(conn)
    assert len(found) == len(set(found)) == expected
    assert one(conn, "select clock_timestamp()") - found[-1] < timedelta(minutes=2)
    assert one(conn, "select next_tick > clock_timestamp() from pgqueue.schedules")


async def test_none_skips_what_nobody_saw(dsn: str, conn: psycopg.Connection) -> None:
    async with Passes(dsn, entry(cron="0 0 1 1 *", catch_up="none")) as scheduler:
        await until_idle(scheduler)
        age(conn, "400 days")
        await until_idle(scheduler)
        assert ticks(conn) == []
        assert await scheduler.run_once() > 1


@pytest.mark.parametrize("catch_up", ["none", "latest", "all"])
async def test_on_resume_catch_up_decides(
    dsn: str, conn: psycopg.Connection, app: App, catch_up: Any
) -> None:
    app.client.add_schedule("s", "0 */2 * * *", JOB, catch_up=catch_up)
    async with Passes(dsn) as scheduler:
        await until_idle(scheduler)
        app.client.pause_schedule("s")
        age(conn, "24 hours")
        await until_idle(scheduler)
        assert ticks(conn) == []
        app.client.resume_schedule("s")
        await until_idle(scheduler)
    expected = {"none": (0, 1), "latest": (1,), "all": (12,)}[catch_up]
    assert len(ticks(conn)) in expected  # one tick may be less than a minute old


async def test_overlap(dsn: str, conn: psycopg.Connection) -> None:
    declared = [entry("skip", overlap="skip", catch_up="all"), entry("allow")]
    async with Passes(dsn, *declared) as scheduler:

        async def tick() -> tuple[int, int]:
            age(conn, "1 minute", "skip")
            age(conn, "1 minute", "allow")
            await until_idle(scheduler)
            return len(ticks(conn, "skip")), len(ticks(conn, "allow"))

        await until_idle(scheduler)
        assert await tick() == (1, 1)
        assert await tick() == (1, 2)  # pending
        conn.execute("update pgqueue.jobs set status = 'running', worker_id = gen_random_uuid()")
        assert await tick() == (1, 3)
        conn.execute("update pgqueue.jobs set status = 'succeeded', worker_id = null,"
                     " finished_at = now() where status = 'running'")  # fmt: skip
        assert await tick() == (2, 4)
        conn.execute("delete from pgqueue.jobs where schedule = 'skip'")
        assert await tick() == (1, 5)
        age(conn, "5 minutes", "skip")
        conn.execute("update pgqueue.jobs set status = 'cancelled' where status = 'pending'")
        await until_idle(scheduler)
        assert len(ticks(conn, "skip")) == 2  # "all" makes up for one: more would overlap
    assert one(conn, "select skipped from pgqueue.schedules where name = 'skip'") == 2


@pytest.mark.parametrize("status", ["blocked", "pending", "running"])
@pytest.mark.parametrize("which", ["by hand", "retried", "of long ago"])
async def test_overlap_looks_at_every_run(
    dsn: str, conn: psycopg.Connection, app: App, which: str, status: str
) -> None:
    """Not only at the newest: one by hand, one that was retried, one that has left the history."""
    app.client.add_schedule("s", "@yearly", JOB, overlap="skip")
    async with Passes(dsn) as scheduler:
        for _ in range(3):
            age(conn, "366 days")
            await until_idle(scheduler)
            conn.execute("update pgqueue.jobs set status = 'running' where status = 'pending'")
            conn.execute("update pgqueue.jobs set status = 'dead', finished_at = now()"
                         " where status = 'running'")  # fmt: skip
        first = one(conn, "select min(id) from pgqueue.jobs")
        if which == "by hand":
            first = app.client.run_schedule("s")
        else:
            app.client.retry(first)
        if which == "of long ago":
            conn.execute("update pgqueue.schedules set recent_job_ids = recent_job_ids[1:2]")
        conn.execute("alter table pgqueue.jobs disable trigger transition")
        conn.execute("update pgqueue.jobs set status = %s where id = %s", [status, first])
        age(conn, "366 days")
        await until_idle(scheduler)
        assert len(ticks(conn)) == (4 if which == "by hand" else 3)
        assert app.client.schedule("s").skipped == 1
        conn.execute(
            "update pgqueue.jobs set status = 'cancelled', finished_at = now() where id = %s",
            [first],
        )
        age(conn, "366 days")
        await until_idle(scheduler)
        assert len(ticks(conn)) == (5 if which == "by hand" else 4)


async def test_overlap_beside_other_schedules(dsn: str, conn: psycopg.Connection, app: App) -> None:
    for name in ("s", "other"):
        app.client.add_schedule(name, "@yearly", JOB, overlap="skip")
    app.client.run_schedule("other")
    app.enqueue_many([JOB])
    async with Passes(dsn) as scheduler:
        age(conn, "366 days", "s")
        age(conn, "366 days", "other")
        await until_idle(scheduler)
    assert (len(ticks(conn, "s")), len(ticks(conn, "other"))) == (1, 1)
    assert app.client.schedule("other").skipped == 1


async def test_a_changed_expression_counts_from_now(
    dsn: str, conn: psycopg.Connection, app: App
) -> None:
    app.client.add_schedule("s", "0 0 1 1 *", JOB, catch_up="all")
    async with Passes(dsn) as scheduler:
        await until_idle(scheduler)
        age(conn, "5 hours")
        app.client.add_schedule("s", "* * * * *", JOB, catch_up="all")
        await until_idle(scheduler)
        assert ticks(conn) == []
        assert app.client.schedule("s").next_tick is not None
        age(conn, "1 minute")
        await until_idle(scheduler)
        assert len(ticks(conn)) == 1
        conn.execute("update pgqueue.schedules set tz = 'Asia/Kathmandu'")  # plain SQL as well
        assert app.client.schedule("s").next_tick is None


async def test_a_broken_schedule_stops_no_other(
    dsn: str, conn: psycopg.Connection, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    app.client.add_schedule("good", "* * * * *", JOB)
    for name, expression, tz in (
        ("field", "99 * * * *", "UTC"), ("never", "0 0 31 2 *", "UTC"),
        ("zone", "* * * * *", "Mars/Base"), ("nonsense", "\u2603", "UTC"),
    ):  # fmt: skip
        conn.execute(
            "insert into pgqueue.schedules (name, expression, tz, task) values (%s, %s, %s, 't')",
            [name, expression, tz],
        )
    async with Passes(dsn) as scheduler:
        with caplog.at_level(logging.ERROR, "pgqueue.scheduler"):
            for _ in range(3):
                age(conn, "1 minute", "good")
                for name in ("field", "never", "zone", "nonsense"):
                    age(conn, "1 minute", name)
                await until_idle(scheduler)
        assert len(ticks(conn, "good")) == 3
        assert len(caplog.records) == 4
        assert "the minute '99' is not usable" in caplog.text
        errors = {s.name: s.error for s in app.client.schedules() if s.error}
        assert set(errors) == {"field", "never", "zone", "nonsense"}
        assert "no time zone 'Mars/Base'" in errors["zone"]
        conn.execute("update pgqueue.schedules set expression = '* * * * *', tz = 'UTC'")
        await until_idle(scheduler)
        assert not [s for s in app.client.schedules() if s.error]


NO_TIMES = ["infinity", "-infinity", "0044-03-15 BC", "10000-01-01", "294276-12-31"]


@pytest.mark.parametrize("time", [*NO_TIMES, "2999-01-01", "9999-12-31"])
async def test_a_last_tick_that_is_no_time_stops_no_other(
    dsn: str, conn: psycopg.Connection, app: App, caplog: pytest.LogCaptureFixture, time: str
) -> None:
    for name in ("bad", "good"):
        app.client.add_schedule(name, "@yearly", JOB)
    conn.execute("update pgqueue.schedules set last_tick = %s where name = 'bad'", [time])
    async with Passes(dsn) as scheduler:
        with caplog.at_level(logging.ERROR, "pgqueue.scheduler"):
            for _ in range(3):
                age(conn, "366 days", "good")
                conn.execute("update pgqueue.schedules set next_tick = '-infinity'")
                await until_idle(scheduler)
        assert len(ticks(conn, "good")) == 3
        (said,) = caplog.records
        assert said.getMessage().startswith("schedule 'bad' does not tick: its last")
        assert said.getMessage().endswith("to start over, remove the schedule and add it again")
        assert [s.name for s in app.client.schedules() if s.error] == ["bad"]
        app.client.remove_schedule("bad")
        app.client.add_schedule("bad", "@yearly", JOB)
        age(conn, "366 days", "bad")
        await until_idle(scheduler)
        assert len(ticks(conn, "bad")) == 1
        assert not [s for s in app.client.schedules() if s.error]


@pytest.mark.parametrize("time", NO_TIMES)
async def test_a_change_of_the_times_begins_anew_after_no_time(
    dsn: str, conn: psycopg.Connection, app: App, time: str
) -> None:
    app.client.add_schedule("s", "@monthly", JOB)
    conn.execute("update pgqueue.schedules set last_tick = %s", [time])
    app.client.add_schedule("s", "@yearly", JOB)
    age(conn, "366 days")
    async with Passes(dsn) as scheduler:
        await until_idle(scheduler)
    assert len(ticks(conn)) == 1


@pytest.mark.parametrize("time", [*NO_TIMES, "9999-12-31"])
async def test_a_next_tick_that_is_no_time_is_computed_again(
    dsn: str, conn: psycopg.Connection, app: App, time: str
) -> None:
    for name in ("bad", "good"):
        app.client.add_schedule(name, "@yearly", JOB)
    async with Passes(dsn) as scheduler:
        await until_idle(scheduler)
        for name in ("bad", "good"):
            age(conn, "366 days", name)
        conn.execute("update pgqueue.schedules set next_tick = %s where name = 'bad'", [time])
        await until_idle(scheduler)
        assert (len(ticks(conn, "good")), len(ticks(conn, "bad"))) == (1, 1)
        assert 0 < await scheduler.run_once() < 6


async def test_a_fired_job_wakes_the_worker_and_keeps_its_history(
    app: App, conn: psycopg.Connection
) -> None:
    ran: list[int] = []

    @app.task(name="t")
    async def task() -> None:
        ran.append(1)

    app.client.add_schedule("s", "every 1s", JOB)
    async with working(app, poll=60):
        await eventually_async(lambda: len(ran) >= 2)
    app.client.pause_schedule("s")  # else the next tick would meet a worker that ends
    await drain(app)
    runs = app.client.schedule_runs("s")
    assert {run.status.value for run in runs} == {"succeeded"}
    assert [run.tick for run in runs] == sorted((run.tick for run in runs), reverse=True)  # type: ignore[type-var]
    found = app.client.schedule("s")
    assert (found.last_job_id, found.last_status) == (runs[0].job_id, "succeeded")


async def test_the_history_is_bounded(dsn: str, conn: psycopg.Connection, app: App) -> None:
    app.client.add_schedule("s", "* * * * *", JOB, catch_up="all")
    age(conn, "90 minutes")
    async with Passes(dsn) as scheduler:
        await until_idle(scheduler)
    newest = ticks(conn)[-50:]
    assert [run.tick for run in app.client.schedule_runs("s")] == newest[::-1]


@pytest.mark.parametrize("limited", [False, True])
async def test_a_job_knows_its_tick(
    app: App, conn: psycopg.Connection, dsn: str, limited: bool
) -> None:
    seen: list[Any] = []

    @app.task(name="t")
    async def t(ctx: Context) -> None:
        seen.append(ctx.tick)

    if limited:
        app.queue("default", limit=1)
    async with Passes(dsn, entry(catch_up="all")) as scheduler:
        await until_idle(scheduler)
        age(conn, "3 minutes")
        await until_idle(scheduler)
    assert len(ticks(conn)) == 3
    await t.aenqueue()
    await drain(app, concurrency=1)
    expected = ticks(conn)  # its scheduler may have met the next minute
    assert sorted(each for each in seen if each is not None) == expected
    assert seen.count(None) == 1
