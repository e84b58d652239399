"""Passes of a scheduler, and schedules that age."""

from __future__ import annotations

from typing import Any

import psycopg

from pgqueue.job import NewJob
from pgqueue.schedule import NewSchedule, new_schedule
from pgqueue.worker.database import Database
from pgqueue.worker.scheduler import Scheduler

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
