"""Keeps an app on the test's connection: what is enqueued without ``.on()`` must not stay in a real database."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar, cast

from pgqueue.app import App
from pgqueue.errors import ConnectionUnusable
from pgqueue.gateway import Gateway
from pgqueue.job import Added, NewJob
from pgqueue.operations import Operation
from pgqueue.operations.jobs import End, ends
from pgqueue.operations.workflows import Added as Entered
from pgqueue.operations.workflows import Deadline, Member

T = TypeVar("T")
FORGOTTEN = (
    "this would go to the database on a connection of the app's own and outlive the test: give it the"
    " test's, .on(connection) or on=connection; or let the tester take such jobs with join=True"
)


class _Joined:
    """Runs operations on the test's connection."""

    def __init__(self, kept: Kept, gateway: Gateway, connection: object) -> None:
        self._kept, self._gateway, self._connection = kept, gateway, connection


class _JoinedSync(_Joined):
    def run(self, operation: Operation[T], on: object) -> T:
        return self._gateway.run(operation, self._connection)

    async def arun(self, operation: Operation[T], on: object) -> T:
        return self.run(operation, on)


class _JoinedAsync(_Joined):
    def run(self, operation: Operation[T], on: object) -> T:
        assert isinstance(self._kept, KeptAsync)
        return self._kept.wait(self.arun(operation, on))

    async def arun(self, operation: Operation[T], on: object) -> T:
        return await self._gateway.arun(operation, self._connection)


class Kept:
    """While a tester is active.

    Args:
        connection: the test's.
        join: enqueue on it what comes without a connection; else that is refused. What handlers enqueue
            while they are drained always joins: a worker's have no other connection.
    """

    def __init__(self, app: App, connection: object, *, join: bool) -> None:
        self._app, self._connection, self.join = app, connection, join

    def way(self, gateway: Gateway) -> Gateway:
        if not self.join:
            raise ConnectionUnusable(FORGOTTEN)
        return cast(Gateway, self._joined(gateway))

    def _joined(self, gateway: Gateway) -> _Joined:
        raise NotImplementedError

    def _joins(self, on: object) -> bool:
        if on is None and not self.join:
            raise ConnectionUnusable(FORGOTTEN)
        return on is None


class KeptSync(Kept):
    """On a sync connection."""

    def _joined(self, gateway: Gateway) -> _Joined:
        return _JoinedSync(self, gateway, self._connection)

    def send_jobs(self, jobs: Sequence[NewJob], on: object) -> Sequence[Added] | None:
        return self._app.send_jobs(jobs, self._connection) if self._joins(on) else None

    async def asend_jobs(self, jobs: Sequence[NewJob], on: object) -> Sequence[Added] | None:
        return self.send_jobs(jobs, on)

    def send_workflow(
        self, members: Sequence[Member], name: str, on: object, deadline: Deadline = None
    ) -> Entered | None:
        return (
            self._app.send_workflow(members, name, self._connection, deadline)
            if self._joins(on)
            else None
        )

    async def asend_workflow(
        self, members: Sequence[Member], name: str, on: object, deadline: Deadline = None
    ) -> Entered | None:
        return self.send_workflow(members, name, on, deadline)

    def end_of(self, job_id: int) -> End:
        found = self._app._way(self._connection).run(ends([job_id]), self._connection)
        return _over(found.get(job_id), job_id)

    async def aend_of(self, job_id: int) -> End:
        return self.end_of(job_id)


class KeptAsync(Kept):
    """On an async connection; sync handlers, which run in threads, reach it through its loop."""

    def __init__(self, app: App, connection: object, *, join: bool) -> None:
        super().__init__(app, connection, join=join)
        self._loop: asyncio.AbstractEventLoop | None = None

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it on the loop of the connection, from a thread."""
        if self._loop is None or asyncio._get_running_loop() is not None:
            coroutine.close()
            raise ConnectionUnusable(
                "the test's connection is async: await aenqueue(), or enqueue in a sync handler"
            )
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _joined(self, gateway: Gateway) -> _Joined:
        return _JoinedAsync(self, gateway, self._connection)

    def begin(self) -> None:
        self._loop = asyncio.get_running_loop()

    def send_jobs(self, jobs: Sequence[NewJob], on: object) -> Sequence[Added] | None:
        if not self._joins(on):
            return None
        return self.wait(self._app.asend_jobs(jobs, self._connection))

    async def asend_jobs(self, jobs: Sequence[NewJob], on: object) -> Sequence[Added] | None:
        return await self._app.asend_jobs(jobs, self._connection) if self._joins(on) else None

    def send_workflow(
        self, members: Sequence[Member], name: str, on: object, deadline: Deadline = None
    ) -> Entered | None:
        if not self._joins(on):
            return None
        return self.wait(self._app.asend_workflow(members, name, self._connection, deadline))

    async def asend_workflow(
        self, members: Sequence[Member], name: str, on: object, deadline: Deadline = None
    ) -> Entered | None:
        if not self._joins(on):
            return None
        return await self._app.asend_workflow(members, name, self._connection, deadline)

    def end_of(self, job_id: int) -> End:
        return self.wait(self.aend_of(job_id))

    async def aend_of(self, job_id: int) -> End:
        found = await self._app._way(self._connection).arun(ends([job_id]), self._connection)
        return _over(found.get(job_id), job_id)


def _over(end: End | None, job_id: int) -> End:
    if end is None or not end.over:
        raise TimeoutError(f"job {job_id} has not ended: drain() runs it")
    return end
