"""One tick gives at most one job: with many workers, steps of the clock, restarts."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from datetime import timedelta

import psycopg

from pgqueue import App
from pgqueue.operations import schedules
from pgqueue.schedule import Firing, fire
from pgqueue.worker.database import Database
from tests.model.machine import perform
from tests.schedules.firing import JOB, Passes, age, entry, one, ticks, until_idle
from tests.support import drain, eventually_async, statuses, working

DUE = "select exists (select from pgqueue.schedules where next_tick <= clock_timestamp())"


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


async def test_a_run_by_hand_between_the_look_and_the_firing_counts(
    dsn: str, conn: psycopg.Connection, app: App
) -> None:
    """The firing sees the jobs as of its beginning: what was committed while it waited is not among them."""
    app.client.add_schedule("s", "* * * * *", JOB, overlap="skip")
    age(conn, "5 minutes")
    database = Database(dsn, "pgqueue")
    look = await database.run(schedules.look(limit=10))
    firing = fire(look.due[0], look.now)  # type: ignore[arg-type]
    by_hand = app.client.run_schedule("s")
    assert await database.run(schedules.fire([firing])) == {}
    look = await database.run(schedules.look(limit=10))
    assert look.due[0].last_job_id == by_hand
    assert await database.run(schedules.fire([fire(look.due[0], look.now)])) == {"s": 0}  # type: ignore[arg-type]
    await database.close()
    assert app.client.schedule("s").skipped == 1


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
    bad = Firing("s", seen, None, [seen - day, seen, look.now + day], seen - day, look.now + day)
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
    # Else the last tick would meet a worker that ends.
    conn.execute("select pgqueue.pause_schedule('t')")
    await drain(apps[0])
    found = ticks(conn, "t")
    gaps = {b - a for a, b in itertools.pairwise(found)}
    assert gaps == {timedelta(seconds=1)}  # none twice, and with catch_up="all" none lost
    assert set(statuses(conn).values()) == {"succeeded"}
    for app in apps:
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
