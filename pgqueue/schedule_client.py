"""The operations on schedules, sync and async: one line each, part of the clients."""

from __future__ import annotations

from typing import TypeVar

from pgqueue.errors import ScheduleNotFound
from pgqueue.job import NewJob
from pgqueue.operations import Operation, schedules
from pgqueue.operations.schedules import EncryptedSchedule
from pgqueue.schedule import (
    CatchUp,
    Overlap,
    Schedule,
    ScheduleRun,
    When,
    check_schedule,
    new_schedule,
)

T = TypeVar("T")


def the_one(found: list[Schedule], name: str) -> Schedule:
    return exists(found[0] if found else None, name)


def exists(found: T | None, name: str) -> T:
    if found is None:
        raise ScheduleNotFound(f"no schedule {name!r}; pgqueue cron list shows those there are")
    return found


class ScheduleClient:
    """The part of ``Client`` for schedules."""

    def _run(self, operation: Operation[T], on: object) -> T:
        raise NotImplementedError

    def schedules(self, *, on: object = None) -> list[Schedule]:
        """Every schedule with its last run, by name."""
        return self._run(schedules.find(), on)

    def schedule(self, name: str, *, on: object = None) -> Schedule:
        """One schedule; raises ScheduleNotFound."""
        return the_one(self._run(schedules.find(check_schedule(name)), on), name)

    def schedule_runs(self, name: str, *, limit: int = 50, on: object = None) -> list[ScheduleRun]:
        """The latest runs of a schedule, at most 50, newest first."""
        return self._run(schedules.runs(name, limit=limit), on)

    def add_schedule(
        self,
        name: str,
        expression: str,
        job: NewJob,
        *,
        tz: str = "UTC",
        catch_up: CatchUp = "latest",
        overlap: Overlap = "allow",
        on: object = None,
    ) -> None:
        """Add a schedule, or change the one of this name, as ``app.cron``; raises ConfigError."""
        when: When = {"cron": expression, "tz": tz, "catch_up": catch_up, "overlap": overlap}
        return self._run(schedules.add(new_schedule(name, job, when)), on)

    def remove_schedule(self, name: str, *, on: object = None) -> None:
        """Remove a schedule; its runs stay. Raises ScheduleNotFound."""
        exists(self._run(schedules.remove(name), on), name)

    def pause_schedule(self, name: str, *, on: object = None) -> None:
        """Let a schedule give no jobs; raises ScheduleNotFound."""
        exists(self._run(schedules.pause(name), on), name)

    def resume_schedule(self, name: str, *, on: object = None) -> None:
        """Let it tick again; its catch_up decides about the ticks missed. Raises ScheduleNotFound.

        One that was paused because no live worker declares it goes on without one.
        """
        exists(self._run(schedules.resume(name), on), name)

    def run_schedule(self, name: str, *, on: object = None) -> int:
        """Enqueue a run now, besides its ticks; returns the job's id. Raises ScheduleNotFound."""
        return exists(self._run(schedules.run(name), on), name)

    def encrypted_schedules(self, *, on: object = None) -> list[EncryptedSchedule]:
        """The schedules with encrypted arguments."""
        return self._run(schedules.encrypted(), on)

    def replace_schedule_args(self, name: str, old: str, new: str, *, on: object = None) -> bool:
        """Other arguments, JSON text, for a schedule that still has the old ones; False if it has not."""
        return self._run(schedules.replace_args(name, old, new), on)


class AsyncScheduleClient:
    """The part of ``AsyncClient`` for schedules."""

    async def _run(self, operation: Operation[T], on: object) -> T:
        raise NotImplementedError

    async def schedules(self, *, on: object = None) -> list[Schedule]:
        """Every schedule with its last run, by name."""
        return await self._run(schedules.find(), on)

    async def schedule(self, name: str, *, on: object = None) -> Schedule:
        """One schedule; raises ScheduleNotFound."""
        return the_one(await self._run(schedules.find(check_schedule(name)), on), name)

    async def schedule_runs(
        self, name: str, *, limit: int = 50, on: object = None
    ) -> list[ScheduleRun]:
        """The latest runs of a schedule, at most 50, newest first."""
        return await self._run(schedules.runs(name, limit=limit), on)

    async def add_schedule(
        self,
        name: str,
        expression: str,
        job: NewJob,
        *,
        tz: str = "UTC",
        catch_up: CatchUp = "latest",
        overlap: Overlap = "allow",
        on: object = None,
    ) -> None:
        """Add a schedule, or change the one of this name, as ``app.cron``; raises ConfigError."""
        when: When = {"cron": expression, "tz": tz, "catch_up": catch_up, "overlap": overlap}
        return await self._run(schedules.add(new_schedule(name, job, when)), on)

    async def remove_schedule(self, name: str, *, on: object = None) -> None:
        """Remove a schedule; its runs stay. Raises ScheduleNotFound."""
        exists(await self._run(schedules.remove(name), on), name)

    async def pause_schedule(self, name: str, *, on: object = None) -> None:
        """Let a schedule give no jobs; raises ScheduleNotFound."""
        exists(await self._run(schedules.pause(name), on), name)

    async def resume_schedule(self, name: str, *, on: object = None) -> None:
        """Let it tick again; its catch_up decides about the ticks missed. Raises ScheduleNotFound.

        One that was paused because no live worker declares it goes on without one.
        """
        exists(await self._run(schedules.resume(name), on), name)

    async def run_schedule(self, name: str, *, on: object = None) -> int:
        """Enqueue a run now, besides its ticks; returns the job's id. Raises ScheduleNotFound."""
        return exists(await self._run(schedules.run(name), on), name)

    async def encrypted_schedules(self, *, on: object = None) -> list[EncryptedSchedule]:
        """The schedules with encrypted arguments."""
        return await self._run(schedules.encrypted(), on)

    async def replace_schedule_args(
        self, name: str, old: str, new: str, *, on: object = None
    ) -> bool:
        """Other arguments, JSON text, for a schedule that still has the old ones; False if it has not."""
        return await self._run(schedules.replace_args(name, old, new), on)
