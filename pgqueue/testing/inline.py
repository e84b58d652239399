"""Runs jobs where they are enqueued: for tests that want to see the effect and not the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from pgqueue.app import App
from pgqueue.context import Context
from pgqueue.durations import Duration
from pgqueue.errors import ConfigError
from pgqueue.job import Added, ClaimedJob, NewJob
from pgqueue.testing.running import acaught, caught, prepared


class _InlineContext(Context):
    """Its transaction is one; there is no row to complete, and no step to be stored."""

    def complete(self, connection: object) -> None:
        self.completed = True

    async def acomplete(self, connection: object) -> None:
        self.completed = True

    def step(self, name: str, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._meet(name)
        return function(*args, **kwargs)

    def sleep(self, duration: Duration, *, name: str = "sleep") -> Any:
        self._meet(name)
        return _Over()

    def wait_for_event(
        self, event: str, timeout: Duration | None = None, *, name: str | None = None
    ) -> Any:
        raise ConfigError("inline() has no events: use QueueTester.drain()")

    def transaction_step(self, name: str, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        raise ConfigError("inline() has no steps in transactions: use QueueTester.drain()")


class _Over:
    """A sleep that is over: awaited by async handlers, ignored by sync ones."""

    def __await__(self) -> Iterator[None]:
        return iter(())


class Inline:
    """Takes the place of the insert. Ids are negative: no such row exists."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._last = 0

    def send(self, jobs: Sequence[NewJob]) -> list[Added]:
        added = []
        for job in jobs:
            call, added_job = self._call(job)
            _, raised = caught(call)
            if raised is not None:
                raise raised
            added.append(added_job)
        return added

    async def asend(self, jobs: Sequence[NewJob]) -> list[Added]:
        added = []
        for job in jobs:
            call, added_job = self._call(job)
            _, raised = await acaught(call)
            if raised is not None:
                raise raised
            added.append(added_job)
        return added

    def _call(self, new: NewJob) -> tuple[Callable[[], Any], Added]:
        self._last -= 1
        job = ClaimedJob(
            self._last, new.task, new.args, new.queue, new.priority_or_usual, 1, new.retries_or_usual, 0,
            new.run_at or datetime.fromtimestamp(0, UTC), None, None, uuid4(),
        )  # fmt: skip
        definition, arguments = prepared(self._app, job)
        connections = self._app.connections
        context = _InlineContext(
            job, schema=self._app.schema, connect=connections.sync, aconnect=connections.aio
        )
        return lambda: definition.invoke(context, arguments), Added(self._last)


@contextmanager
def inline(app: App) -> Iterator[None]:
    """Run each job of ``app`` at once, where it is enqueued, whatever its time; its error comes out there.

    Nothing is inserted, so nothing is retried, unique or limited.
    """
    before, app.instead = app.instead, Inline(app)
    try:
        yield
    finally:
        app.instead = before
