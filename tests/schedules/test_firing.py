"""One tick gives at most one job: with many workers, steps of the clock, restarts; missed ticks by policy."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, schema
from pgqueue.job import NewJob
from pgqueue.operations import schedules
from pgqueue.schedule import Firing, NewSchedule, fire, new_schedule
from pgqueue.worker.database import Database
from pgqueue.worker.scheduler import Scheduler
from tests.model.machine import perform
from tests.support import drain, eventually_async, statuses, working

JOB = NewJob("t", "{}")


def entry(name: str = "s", cron: str = "* * * * *", **when: Any) -> NewSchedule:
    return new_schedule(name, JOB, {"cron": cron, **when})


def age(conn: psycopg.Connection, length: str, name: str = "s") -> None:
    """Move a schedule and its runs back in time, as if that much had passed since."""
    conn.execute(
        "update pgqueue.schedules set last_tick = last_tick - %s::interval,"
        " next_tick = next_tick - %s::interval where name = %s",
        [length, length, name],
    )
    conn.execute(
        "update pgqueue.jobs set tick = tick - %s::interval where schedule = %s", [length, name]
    )


def ticks(conn: psycopg.Connection, name: str = "s") -> list[Any]:
    rows = conn.execute(
        "select tick from pgqueue.jobs where schedule = %s order by tick", [name]
    ).fetchall()
    return [row[0] for row in rows]


def one(conn: psycopg.Connection, query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


class Passes:
    """A worker's scheduler, one pass at a time."""

    def __init__(self, dsn: str, *declared: NewSchedule) -> None:
        self.database = Database(dsn, "pgqueue")
        self.scheduler = Scheduler(database=self.database, declared=declared)

    async def __aenter__(self) -> Scheduler:
        return self.scheduler

    async def __aexit__(self, *_: object) -> None:
        await self.database.close()


async def until_idle(scheduler: Scheduler) -> float:
    while (wait := await scheduler.run_once()) == 0:
        pass
    return wait


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


async def test_a_pause_between_the_look_and_the_firing_holds(
    dsn: str, conn: psycopg.Connection, app: App
) -> None:
    app.client.add_schedule("s", "* * * * *", JOB)
    age(conn, "5 minutes")
    database = Database(dsn, "pgqueue")
    look = await database.run(schedules.look(limit=10))
    app.client.pause_schedule("s")
    firing = fire(look.due[0], look.now)  # type: ignore[arg-type]
    assert firing.ticks
    assert await database.run(schedules.fire([firing])) == {}
    await database.close()
    assert ticks(conn) == []


async def test_a_laggard_fires_no_old_tick(dsn: str, conn: psycopg.Connection, app: App) -> None:
    app.client.add_schedule("s", "* * * * *", JOB, catch_up="all")
    age(conn, "5 minutes")
    database = Database(dsn, "pgqueue")
    look = await database.run(schedules.look(limit=10))
    old = fire(look.due[0], look.now)  # type: ignore[arg-type]
    assert await database.run(schedules.fire([old])) == {"s": 5}
    assert await database.run(schedules.fire([old])) == {}
    age(conn, "2 minutes")
    assert await database.run(schedules.fire([old])) == {}
    await database.close()
    assert len(ticks(conn)) == 5


async def test_two_at_the_same_moment(dsn: str, conn: psycopg.Connection, app: App) -> None:
    """The second neither waits for the first nor fires as well."""
    app.client.add_schedule("s", "* * * * *", JOB)
    age(conn, "5 minutes")
    database = Database(dsn, "pgqueue")
    look = await database.run(schedules.look(limit=10))
    firing = fire(look.due[0], look.now)  # type: ignore[arg-type]
    with psycopg.connect(dsn) as first:
        assert perform(first, schedules.fire([firing])) == {"s": 1}
        assert await database.run(schedules.fire([firing])) == {}
    assert await database.run(schedules.fire([firing])) == {}
    await database.close()
    assert len(ticks(conn)) == 1


async def test_no_tick_of_the_future_or_the_past_is_inserted(
    dsn: str, conn: psycopg.Connection, app: App
) -> None:
    """Whatever a worker with a bug would ask for."""
    app.client.add_schedule("s", "* * * * *", JOB)
    database = Database(dsn, "pgqueue")
    look = await database.run(schedules.look(limit=10))
    assert look.now is not None
    seen = look.due[0].last_tick
    day = timedelta(days=1)
    bad = Firing("s", seen, [seen - day, seen, look.now + day], seen - day, look.now + day)
    assert await database.run(schedules.fire([bad])) == {"s": 0}
    assert one(conn, "select last_tick from pgqueue.schedules") == seen
    await database.close()


async def test_eight_workers_and_steps_of_the_clock(dsn: str, conn: psycopg.Connection) -> None:
    names = [f"s{i}" for i in range(20)]
    declared = [entry(name, "* * * * *", catch_up="all") for name in names]
    workers = [Passes(dsn, *declared) for _ in range(8)]
    for worker in workers:
        await until_idle(worker.scheduler)
    for step in ("1 minute", "3 minutes", "-2 minutes", "1 minute", "-10 minutes", "15 minutes"):
        for name in names:
            age(conn, step, name)
        await asyncio.gather(*(until_idle(worker.scheduler) for worker in workers))
        await eventually_async(lambda: not one(conn, DUE))
    for worker in workers:
        await worker.database.close()
    for name in names:
        found = ticks(conn, name)
        assert found
        assert max(Counter(found).values()) == 1
        in_order = conn.execute(
            "select tick from pgqueue.jobs where schedule = %s order by id", [name]
        ).fetchall()
        assert [row[0] for row in in_order] == found


DUE = "select exists (select from pgqueue.schedules where next_tick <= clock_timestamp())"


async def test_whole_workers_that_stop_and_start(dsn: str, conn: psycopg.Connection) -> None:
    def make() -> App:
        app = App(dsn)

        @app.task(name="t", every="1s", catch_up="all")
        async def tick() -> None: ...

        return app

    apps = [make() for _ in range(4)]
    for wanted in (2, 4):
        async with working(apps[0]), working(apps[1]), working(apps[2]), working(apps[3]):
            await eventually_async(lambda wanted=wanted: len(ticks(conn, "t")) >= wanted)
        for app in apps:
            await app.aclose()
    await drain(apps[0])
    found = ticks(conn, "t")
    gaps = {b - a for a, b in itertools.pairwise(found)}
    assert gaps == {timedelta(seconds=1)}  # none twice, and with catch_up="all" none lost
    assert set(statuses(conn).values()) == {"succeeded"}
    for app in apps:
        await app.aclose()


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


async def test_a_worker_on_an_older_schema_does_without(empty_dsn: str) -> None:
    schema.upgrade(empty_dsn, to="2")
    app = App(empty_dsn)
    ran: list[int] = []

    @app.task(name="t", every="1s")
    async def task() -> None:
        ran.append(1)

    await task.aenqueue()
    await drain(app)
    assert ran == [1]
    await app.aclose()


async def test_a_thousand_schedules_at_once(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into pgqueue.schedules (name, expression, task, next_tick)"
        " select 's' || i, '0 0 * * *', 't', clock_timestamp() + interval '1 hour'"
        " from generate_series(1, 1000) i"
    )
    async with Passes(dsn) as scheduler:
        assert await scheduler.run_once() > 1
        conn.execute(
            "update pgqueue.schedules set last_tick = now() - interval '25 hours', next_tick = now()"
        )
        await until_idle(scheduler)
    assert one(conn, "select count(*) from pgqueue.jobs") == 1000
    assert one(conn, "select count(distinct schedule) from pgqueue.jobs") == 1000
    assert one(conn, "select min(next_tick) > now() from pgqueue.schedules")
