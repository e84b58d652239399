"""The part of an app that waits for what jobs return."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import Any, TypeVar, cast

from pgqueue.checks import MOST_ID, NO_ID, check_id, shown
from pgqueue.definition import Definition
from pgqueue.errors import ConfigError, JobNotFound, ResultMissing
from pgqueue.gateway import Gateway
from pgqueue.instead import Instead
from pgqueue.job import Status, check_name
from pgqueue.operations.jobs import End, ends
from pgqueue.results import value_of
from pgqueue.task import Handle, NamedTask, Sender, Task
from pgqueue.waiting import AsyncWaiting, SyncWaiting

R = TypeVar("R")


class Awaits:
    """Handles by id, and their results; one look at the database serves all who wait."""

    instead: Instead | None

    def _way(self, on: object) -> Gateway:
        raise NotImplementedError

    def definition(self, name: str) -> Definition | None:
        """The task or job class of this name, if this process knows it."""
        raise NotImplementedError

    @cached_property
    def _waiting(self) -> SyncWaiting:
        return SyncWaiting(lambda operation: self._way(None).run(operation, None))

    @cached_property
    def _awaiting(self) -> dict[asyncio.AbstractEventLoop, AsyncWaiting]:
        return {}

    def handle(self, job_id: int, task: Task[Any, R] | NamedTask | str) -> Handle[R]:
        """The handle of a job by its id, for ``result()``.

        Raises:
            ConfigError: the id is no whole number, or the task is neither a task nor the name of one.
            JobNotFound: no job can have this id.
        """
        if (
            check_id(job_id) == NO_ID and self.instead is None
        ):  # jobs that run inline have ids of their own
            _possible(job_id)
        if not isinstance(task, str | Task | NamedTask):
            raise ConfigError(f"handle takes a task or the name of one, got {shown(task)}")
        name = check_name(task) if isinstance(task, str) else task.name
        return Handle(job_id, name, "existing", cast(Sender, self))

    def result_of(self, handle: Handle[Any], timeout: float | None) -> Any:
        if self.instead is not None and (end := self.instead.end_of(handle.id)) is not None:
            return self.value_of(handle, end)
        return self.value_of(handle, self._waiting.wait(_possible(handle.id), timeout))

    async def aresult_of(self, handle: Handle[Any], timeout: float | None) -> Any:
        if self.instead is not None and (end := await self.instead.aend_of(handle.id)) is not None:
            return self.value_of(handle, end)
        end = await self._awaiting_here().wait(_possible(handle.id), timeout)
        return self.value_of(handle, end)

    def peek_at(self, handle: Handle[Any], default: Any) -> Any:
        return self._peeked(handle, self._end_of(handle), default)

    async def apeek_at(self, handle: Handle[Any], default: Any) -> Any:
        return self._peeked(handle, await self._aend_of(handle), default)

    def status_of(self, handle: Handle[Any]) -> Status:
        return _status(handle, self._end_of(handle))

    async def astatus_of(self, handle: Handle[Any]) -> Status:
        return _status(handle, await self._aend_of(handle))

    def _end_of(self, handle: Handle[Any]) -> End | None:
        """Where the job stands now; None if there is no such row."""
        if self.instead is not None and (end := self.instead.end_of(handle.id)) is not None:
            return end
        return self._way(None).run(ends([_possible(handle.id)]), None).get(handle.id)

    async def _aend_of(self, handle: Handle[Any]) -> End | None:
        if self.instead is not None and (end := await self.instead.aend_of(handle.id)) is not None:
            return end
        found = await self._way(None).arun(ends([_possible(handle.id)]), None)
        return found.get(handle.id)

    def _peeked(self, handle: Handle[Any], end: End | None, default: Any) -> Any:
        if end is None:
            raise ResultMissing(_nowhere(handle.id))
        return self.value_of(handle, end) if end.over else default

    def _awaiting_here(self) -> AsyncWaiting:
        loop = asyncio.get_running_loop()
        if (waiting := self._awaiting.get(loop)) is None:
            for closed in [each for each in self._awaiting if each.is_closed()]:
                del self._awaiting[closed]
            waiting = self._awaiting[loop] = AsyncWaiting(lambda op: self._way(None).arun(op, None))
        return waiting

    def value_of(self, handle: Handle[Any], end: End) -> Any:
        known = self.definition(handle.task)
        return value_of(end, handle.task, Any if known is None else known.returns)


def _status(handle: Handle[Any], end: End | None) -> Status:
    if end is None:
        raise JobNotFound(_nowhere(handle.id))
    return end.status


def _nowhere(job_id: int) -> str:
    return (
        f"job {job_id} is not there: it was pruned, cleared, or deleted on success (keep_succeeded), or the transaction"
        " that enqueued it has not committed"
    )


def _possible(job_id: int) -> int:
    """Return the id; raises JobNotFound if no job can have it, for which one would wait for ever."""
    if check_id(job_id) == NO_ID:
        raise JobNotFound(f"no job {shown(job_id)}: ids are from 1 to {MOST_ID:,}")
    return job_id
