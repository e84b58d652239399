"""A schedule and many workers, some of them late: one tick gives at most one job, and ticks go forward."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgqueue.job import NewJob
from pgqueue.operations import schedules
from pgqueue.schedule import Firing, fire, new_schedule
from tests.model.machine import perform, pick

TICK = timedelta(hours=1)


class Clockwork(RuleBasedStateMachine):
    """Workers look and fire in any order; people pause, resume, change; the clock steps both ways."""

    def __init__(self, conn: psycopg.Connection[Any], catch_up: str, overlap: str) -> None:
        super().__init__()
        self.conn = conn
        conn.execute("delete from pgqueue.jobs")
        conn.execute("delete from pgqueue.schedules")
        schedule = new_schedule(
            "s", NewJob("t", "{}"), {"every": TICK, "catch_up": catch_up, "overlap": overlap}
        )
        perform(conn, schedules.add(schedule))
        self.overlap = overlap
        self.looked: list[Firing] = []
        self.paused = False
        self.fired: list[datetime] = []

    @property
    def last_tick(self) -> datetime:
        row = self.conn.execute("select last_tick from pgqueue.schedules").fetchone()
        assert row is not None
        return row[0]  # type: ignore[no-any-return]

    @rule()
    def look(self) -> None:
        found = perform(self.conn, schedules.look(limit=10))
        assert not (self.paused and found.due)
        if found.now is not None:
            self.looked += [fire(due, found.now) for due in found.due]

    @precondition(lambda self: self.looked)
    @rule(which=pick)
    def fire(self, which: int) -> None:
        """By a worker that looked at any time before."""
        firing = self.looked[which % len(self.looked)]
        due = self.conn.execute(
            "select next_tick <= clock_timestamp() from pgqueue.schedules"
        ).fetchone() == (True,)
        live = self.conn.execute("select from pgqueue.jobs where status = 'pending'").fetchone()
        latest = self.conn.execute("select max(id) from pgqueue.jobs").fetchone()
        same = firing.seen == self.last_tick and latest == (firing.last_job_id,)
        current = due and not self.paused and same
        busy = self.overlap == "skip" and live is not None
        ticks = firing.ticks if current and not busy else []
        expected = {"s": len(ticks)} if current else {}
        assert perform(self.conn, schedules.fire([firing])) == expected
        self.fired += ticks

    @rule()
    def end_runs(self) -> None:
        self.conn.execute("update pgqueue.jobs set status = 'cancelled', finished_at = now()"
                          " where status = 'pending'")  # fmt: skip

    @rule()
    def run_by_hand(self) -> None:
        assert perform(self.conn, schedules.run("s"))

    @rule()
    def retry_the_oldest(self) -> None:
        self.conn.execute(
            "update pgqueue.jobs set status = 'pending', finished_at = null"
            " where id = (select min(id) from pgqueue.jobs where status = 'cancelled')"
        )

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        assert perform(self.conn, schedules.pause("s") if paused else schedules.resume("s"))
        self.paused = paused

    @rule(ticks=st.integers(-3, 5))
    def clock_steps(self, ticks: int) -> None:
        """Everything else moves, what workers remember as well."""
        by = ticks * TICK
        self.conn.execute(
            "update pgqueue.schedules set last_tick = last_tick - %s, next_tick = next_tick - %s",
            [by, by],
        )
        self.conn.execute("update pgqueue.jobs set tick = tick - %s", [by])
        self.fired = [tick - by for tick in self.fired]
        self.looked = [
            replace(f, seen=f.seen - by, ticks=[t - by for t in f.ticks],
                    last_tick=f.last_tick - by, next_tick=f.next_tick - by)
            for f in self.looked
            if f.seen is not None and f.last_tick is not None
        ]  # fmt: skip

    @invariant()
    def each_tick_once_and_forward(self) -> None:
        rows = self.conn.execute(
            "select tick from pgqueue.jobs where tick is not null order by id"
        ).fetchall()
        found = [row[0] for row in rows]
        assert found == self.fired == sorted(set(found))
        assert not found or found[-1] <= self.last_tick
