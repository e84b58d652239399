"""The schedules that an app declares in code; a worker writes them when it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pgqueue.client import AsyncClient, Client
from pgqueue.durations import Duration
from pgqueue.errors import TaskError
from pgqueue.gateway import Gateway
from pgqueue.job import NewJob
from pgqueue.operations import schedules
from pgqueue.privacy import Privacy
from pgqueue.schedule import (
    CatchUp,
    NewSchedule,
    Overlap,
    Schedule,
    When,
    checked_job,
    new_schedule,
)
from pgqueue.task import Task


class Declares:
    """The part of an app that has to do with schedules."""

    client: Client
    aclient: AsyncClient

    @property
    def privacy(self) -> Privacy:
        """What is masked, and the keys."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self._declared: dict[str, Callable[[], NewSchedule]] = {}

    def _way(self, on: object) -> Gateway:
        """The way to the database; to any, if the caller gave a connection ``on`` one."""
        raise NotImplementedError

    @property
    def schedules(self) -> list[NewSchedule]:
        """The schedules declared in code, by name."""
        made = [make() for _, make in sorted(self._declared.items())]
        return [
            replace(each, identity=self.privacy.identity(each.job.task, each.job.args))
            for each in made
        ]

    @property
    def schedule_names(self) -> list[str]:
        """The names of the schedules declared in code, in order."""
        return sorted(self._declared)

    def cron(
        self,
        expression: str,
        job: NewJob,
        *,
        name: str | None = None,
        tz: str = "UTC",
        catch_up: CatchUp = "latest",
        overlap: Overlap = "allow",
    ) -> None:
        """Declare a schedule of a job: ``app.cron("0 9 * * 1-5", report.call("sales"))``.

        Args:
            expression: five cron fields, six with seconds first, ``@daily`` and the like, or
                ``every 30s``.
            job: made by ``task.call(...)`` or ``app.dispatch(job).call()``.
            name: default the task's name; needed for the second schedule of a task.
            tz: the time zone of the fields, such as ``Europe/Oslo``.
            catch_up: ticks that no worker saw: "none" (those unseen for a minute are skipped), "latest"
                (one run for all of them), "all" (each, the latest 100 at most).
            overlap: "skip" gives no job while the run before is pending or running.

        Raises:
            ConfigError: one of them cannot be used; names the field that is wrong.
            TaskError: the name is taken.
        """
        when: When = {"cron": expression, "tz": tz, "catch_up": catch_up, "overlap": overlap}
        self._add_schedule(name, job, when)

    def every(
        self,
        interval: Duration,
        job: NewJob,
        *,
        name: str | None = None,
        catch_up: CatchUp = "latest",
        overlap: Overlap = "allow",
    ) -> None:
        """Declare a schedule of a job at an interval from 1 s on: ``app.every("30s", poll.call())``."""
        when: When = {"every": interval, "catch_up": catch_up, "overlap": overlap}
        self._add_schedule(name, job, when)

    def _add_schedule(self, name: str | None, job: NewJob, when: When) -> None:
        schedule = new_schedule(checked_job(job).task if name is None else name, job, when)
        self._add(schedule.name, schedule)

    def _add(
        self, name: str, schedule: NewSchedule, job: Callable[[], NewJob] | None = None
    ) -> None:
        if name in self._declared:
            raise TaskError(f"two schedules are named {name}: give one of them another name=")
        self._declared[name] = (
            (lambda: schedule) if job is None else lambda: replace(schedule, job=job())
        )

    def _declare_task(self, task: Task[Any, Any], when: When) -> None:
        """The schedule of ``@app.task(cron=...)``."""
        needed = task.definition.required
        if needed:
            raise TaskError(
                f"{task.name} needs {', '.join(needed)}: declare its schedule with app.cron(...,"
                f" {task.__name__}.call(...))"
            )
        stub = NewJob(task.name, "{}")
        # Called later: its annotations may name what is defined below it.
        self._add(task.name, new_schedule(task.name, stub, when), task.call)

    def write_schedules(self) -> list[str]:
        """Write the declared schedules now, also over changes by hand; the names of those changed.

        They tick from now on, whether or not a worker declares them yet; those paused by hand stay paused.
        """
        written = self._way(None).run(schedules.declare(self.schedules, force=True), None)
        self._way(None).run(schedules.keep(self.schedule_names), None)
        return [each.name for each in written if each.written]

    def put_schedule(self, schedule: NewSchedule, on: object) -> Schedule:
        self._way(on).run(schedules.add(schedule), on)
        return self.client.schedule(schedule.name, on=on)

    async def aput_schedule(self, schedule: NewSchedule, on: object) -> Schedule:
        await self._way(on).arun(schedules.add(schedule), on)
        return await self.aclient.schedule(schedule.name, on=on)
