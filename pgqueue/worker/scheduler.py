"""Turns ticks of schedules into jobs. Any worker does it, none is the leader."""

from __future__ import annotations

import random
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import ClassVar

from pgqueue.errors import ConfigError
from pgqueue.operations import schedules
from pgqueue.operations.schedules import Declared, Reviewed
from pgqueue.schedule import DueSchedule, Firing, NewSchedule, ahead, fire
from pgqueue.worker.database import Database, StatementRefused
from pgqueue.worker.later import Later
from pgqueue.worker.outage import Seldom
from pgqueue.worker.parts import in_parts, may_divide
from pgqueue.worker.service import Service

BATCH = 100
LOOK_EVERY = 5.0
REVIEW_EVERY = 10.0
UNDECLARED_FOR = 10.0
LOOK_AGAIN = timedelta(seconds=60)
LEFT_ALONE = (10.0, 300.0)  # seconds, at first and at most
SHORTEST = 0.01
SPREAD = 0.05
KEPT = {
    "hand": "was changed by hand and stays so",
    "newer": "is declared otherwise by a newer version, and stays so while a worker of that is alive",
}


class Scheduler(Service):
    """Writes the schedules of the code, then looks for what is due and sleeps until the next is.

    Now and then it also looks for schedules of code that no live worker declares any more: they would give jobs that nobody
    knows. One is paused when a second look, ten seconds later or more, finds it so still: a worker may be starting. In the
    same way it writes those that a newer version had declared otherwise, and no live worker declares so any more.

    Args:
        declared: the schedules of the app.
        fired: called when there are new jobs.
    """

    name: ClassVar[str] = "scheduler"

    def __init__(
        self,
        *,
        database: Database,
        declared: Sequence[NewSchedule],
        fired: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._database = database
        self._declared, self._unwritten = list(declared), list(declared)
        self._older: set[str] = set()
        self._own = [schedule.name for schedule in declared]
        self._review_at = self._declare_at = 0.0
        self._fired = fired
        self._refused: Later[str] = Later(*LEFT_ALONE)
        self._seldom_broken = Seldom()

    async def run_once(self) -> float:
        reviewing = time.monotonic() >= self._review_at
        if reviewing:
            await self._see_what_changed()
        await self._declare()
        if reviewing:
            await self._review()
        resting = set(self._refused.resting())
        look = await self._database.run(schedules.look(limit=BATCH + len(resting)))
        if look.now is None:
            return LOOK_EVERY
        due = [schedule for schedule in look.due if schedule.name not in resting]
        if not due:
            return _sleep(look.wait)
        made = await self._fire([self._decide(schedule, look.now) for schedule in due], look.now)
        if any(made.values()):
            self._fired()
        # Nothing made: others are at these schedules.
        return 0.0 if made else random.uniform(SHORTEST, SPREAD)

    async def _fire(self, firings: list[Firing], now: datetime) -> dict[str, int]:
        """Insert the jobs; a schedule whose jobs the database refuses stops no other, and is looked at again later."""
        made: dict[str, int] = {}

        async def act(some: Sequence[Firing]) -> None:
            fired = await self._database.run(schedules.fire(some))
            made.update(fired)

        async def refused(firing: Firing, error: StatementRefused) -> None:
            if self._seldom_broken(firing.name):
                self.log.error("schedule %r does not tick, for the database refuses its job: %s", firing.name, error)  # fmt: skip
            later = _without_ticks(firing, now, f"the database refuses its job: {error}")
            try:
                fired = await self._database.run(schedules.fire([later]))
                made.update(fired)
            except StatementRefused:  # the row of the schedule itself may not change
                self._refused.add([firing.name])

        await in_parts(firings, act, refused, divide=may_divide)
        return made

    async def _see_what_changed(self) -> None:
        """Also those of a newer version, which may have been rolled back, are to be written again."""
        if not self._declared:
            return
        changed = await self._database.run(schedules.changed(self._declared))
        waiting = [each.name for each in self._unwritten]
        self._unwritten += [
            each for each in self._declared if each.name in changed and each.name not in waiting
        ]

    async def _declare(self) -> None:
        if not self._unwritten or time.monotonic() < self._declare_at:
            return
        refused: list[NewSchedule] = []

        async def act(some: Sequence[NewSchedule]) -> None:
            declared = await self._database.run(schedules.declare(some, patience=UNDECLARED_FOR))
            for each in declared:
                self._say_of_declared(each)

        async def leave(schedule: NewSchedule, error: StatementRefused) -> None:
            refused.append(schedule)
            if self._seldom_broken(schedule.name):
                self.log.error("schedule %r of the code cannot be written, will keep trying: %s", schedule.name, error)  # fmt: skip

        try:
            await in_parts(self._unwritten, act, leave, divide=may_divide)
        finally:
            self._unwritten += refused
        self._declare_at = time.monotonic() + REVIEW_EVERY

    def _say_of_declared(self, each: Declared) -> None:
        if each.written and each.name in self._older:
            self.log.info("schedule %r is as this code declares it again: no live worker declares it otherwise", each.name)  # fmt: skip
        elif each.kept is not None and each.name not in self._older:
            self.log.warning("schedule %r %s; this code's is written by: pgqueue cron sync",
                             each.name, KEPT[each.kept])  # fmt: skip
        (self._older.add if each.kept == "newer" else self._older.discard)(each.name)

    async def review(self) -> None:
        """Pause the schedules of code that no live worker declares; resume those that one declares again."""
        for each in await self._database.run(schedules.review(self._own, patience=UNDECLARED_FOR)):
            self._say(each)

    async def _review(self) -> None:
        try:
            await self.review()
        except StatementRefused as error:  # reported; schedules tick all the same
            if not may_divide(error):
                raise
        self._review_at = time.monotonic() + REVIEW_EVERY

    def _say(self, each: Reviewed) -> None:
        name = each.name
        if each.became == "paused":
            self.log.warning(
                "schedule %r is paused: no live worker has declared it since %s; remove it: pgqueue cron remove %s,"
                " or keep it: pgqueue cron resume %s",
                name, f"{each.undeclared_at:%Y-%m-%d %H:%M:%S %Z}", shlex.quote(name), shlex.quote(name),
            )  # fmt: skip
        elif each.became == "resumed":
            self.log.info("schedule %r goes on: a worker declares it again", name)
        else:
            self.log.debug("schedule %r: %s by live workers", name, each.became)

    def _decide(self, schedule: DueSchedule, now: datetime) -> Firing:
        try:
            reason = ahead(schedule, now)
            if reason is None:
                return fire(schedule, now)
        except (ConfigError, ArithmeticError, ValueError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
        if self._seldom_broken(schedule.name):
            self.log.error("schedule %r does not tick: %s", schedule.name, reason)
        seen = schedule.last_tick
        return Firing(schedule.name, seen, schedule.last_job_id, [], seen, now + LOOK_AGAIN, reason)


def _without_ticks(firing: Firing, now: datetime, reason: str) -> Firing:
    """Nothing is dealt with yet; looked at again later, with the reason for people."""
    return replace(
        firing, ticks=[], last_tick=firing.seen, next_tick=now + LOOK_AGAIN, error=reason
    )


def _sleep(wait: float | None) -> float:
    """Seconds until the next look: at the next tick, or early for a schedule that is new by then."""
    return LOOK_EVERY if wait is None else min(max(wait, SHORTEST), LOOK_EVERY)
