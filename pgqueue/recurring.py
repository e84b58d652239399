"""A job class instance that is to run by a schedule."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from typing import Protocol

from pgqueue.job import NewJob
from pgqueue.options import Options, Verbs
from pgqueue.schedule import NewSchedule, Schedule, When, new_schedule
from pgqueue.task import given


class Scheduling(Protocol):
    """What it needs of its app."""

    def put_schedule(self, schedule: NewSchedule, on: object) -> Schedule: ...

    async def aput_schedule(self, schedule: NewSchedule, on: object) -> Schedule: ...


class Recurring(Verbs["Recurring"]):
    """A schedule on its way: verbs, then ``enqueue()``, ``await ...aenqueue()`` or ``await``."""

    def __init__(
        self,
        app: Scheduling,
        make: Callable[[Options], NewJob],
        options: Options,
        *,
        name: str,
        when: When,
        connection: object = None,
    ) -> None:
        self.options = options
        self._app, self._make, self._connection = app, make, connection
        self._name, self._when = name, when
        self._sent = False

    def _changed(self, options: Options, connection: object = None) -> Recurring:
        self._sent = True  # the copy is the one to be sent
        return Recurring(
            self._app,
            self._make,
            options,
            name=self._name,
            when=self._when,
            connection=connection or self._connection,
        )

    def on(self, connection: object) -> Recurring:
        """Write the schedule on the caller's connection, in its transaction."""
        return self._changed(self.options, given(connection))

    def schedule(self) -> NewSchedule:
        """The schedule, checked; nothing is sent yet."""
        self._sent = True
        return new_schedule(self._name, self._make(self.options), self._when)

    def enqueue(self) -> Schedule:
        """Make the schedule, or change the one of its name.

        Raises:
            ArgumentsError: the job's fields cannot be stored.
            ConfigError: the schedule cannot be read; names the field that is wrong.
        """
        return self._app.put_schedule(self.schedule(), self._connection)

    async def aenqueue(self) -> Schedule:
        """The same, awaited."""
        return await self._app.aput_schedule(self.schedule(), self._connection)

    def __await__(self) -> Generator[object, None, Schedule]:
        return self.aenqueue().__await__()

    def __del__(self) -> None:
        if not getattr(self, "_sent", True):
            warnings.warn(
                f"the schedule {self._name} was never written: end with .enqueue() or await it",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
