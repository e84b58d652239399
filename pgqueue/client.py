"""The operations on jobs and queues, sync and async: one line each, kept equal by a test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pgqueue.errors import JobNotFound
from pgqueue.job import Attempt, JobRow, NewJob, Status
from pgqueue.operations import Operation, enqueue
from pgqueue.operations import jobs as operations
from pgqueue.operations.jobs import Change, EncryptedJob, End, Filter
from pgqueue.queue_client import AsyncQueueClient, QueueClient

T = TypeVar("T")


def found(job: JobRow | None, job_id: int) -> JobRow:
    if job is None:
        raise JobNotFound(f"no job {job_id}: it never existed or was pruned")
    return job


class Client(QueueClient):
    """Sync operations. ``on`` is the caller's connection; without it each is its own transaction."""

    def __init__(
        self,
        run: Callable[[Operation[Any], object], Any],
        edited: Callable[[JobRow, Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        self._run_any, self._edited = run, edited

    def _run(self, operation: Operation[T], on: object) -> T:
        result: T = self._run_any(operation, on)
        return result

    def insert(
        self, jobs: Sequence[NewJob], *, notify: bool = True, on: object = None
    ) -> list[int]:
        """Insert prepared jobs in one round trip; returns their ids in order."""
        return [added.id for added in self._run(enqueue.enqueue(jobs, notify=notify), on)]

    def notify(self, queues: Iterable[str], *, on: object = None) -> None:
        """Wake the workers of these queues."""
        return self._run(enqueue.notify(queues), on)

    def job(self, job_id: int, *, on: object = None) -> JobRow:
        """One job; raises JobNotFound."""
        return found(self._run(operations.get(job_id), on), job_id)

    def ends(self, job_ids: Sequence[int], *, on: object = None) -> dict[int, End]:
        """Where jobs stand and what they returned, by id; without those that are not there."""
        return self._run(operations.ends(job_ids), on)

    def attempts(self, job_id: int, *, on: object = None) -> list[Attempt]:
        """The attempts of a job that did not succeed, oldest first."""
        return self._run(operations.attempts(job_id), on)

    def jobs(
        self,
        where: Filter = Filter(),
        *,
        status: Status | str | None = None,
        limit: int = 50,
        before: int | None = None,
        on: object = None,
    ) -> list[JobRow]:
        """Jobs that match, newest first; ``before`` is the id to go on from."""
        return self._run(operations.find(where, status=status, limit=limit, before=before), on)

    def retry(
        self, job_id: int, *, args: Mapping[str, Any] | None = None, on: object = None
    ) -> bool:
        """Put a dead or cancelled job back, with edited arguments if given; False if it is neither.

        An edited ``"[redacted]"`` keeps what is stored; what was encrypted is encrypted again.

        Raises:
            ArgumentsError: the edited arguments cannot be stored.
            ConfigError: one is to be encrypted and there are no keys.
        """
        if args is not None:
            job = self._run(operations.get(job_id), on)
            if job is None:
                return False
            args = self._edited(job, args)
        return bool(self._run(operations.retry([job_id], Filter(), args=args), on))

    def retry_many(
        self,
        job_ids: Sequence[int] | None = None,
        where: Filter = Filter(),
        *,
        limit: int = 1000,
        on: object = None,
    ) -> list[int]:
        """Put jobs back by ids, or dead ones that match; at most ``limit``; returns their ids."""
        return self._run(operations.retry(job_ids, where, limit=limit), on)

    def encrypted(
        self, *, after: int = 0, limit: int = 500, on: object = None
    ) -> list[EncryptedJob]:
        """Jobs that may run again and have encrypted arguments, from an id on."""
        return self._run(operations.encrypted(after=after, limit=limit), on)

    def replace_args(
        self, changes: Sequence[tuple[int, str, str]], *, on: object = None
    ) -> list[int]:
        """Other arguments (id, old text, new) for jobs that do not run; returns the ids changed."""
        return self._run(operations.replace_args(changes), on)

    def cancel(self, *job_ids: int, on: object = None) -> dict[int, Status]:
        """Cancel pending jobs, ask running ones to stop; returns the status by id."""
        return self._run(operations.cancel(job_ids), on)

    def cancel_many(
        self, where: Filter, *, after: int = 0, limit: int = 1000, on: object = None
    ) -> dict[int, Status]:
        """Cancel pending and running jobs that match, from an id on; at most ``limit`` of them."""
        return self._run(operations.cancel(None, where, after=after, limit=limit), on)

    def change(
        self,
        job_ids: Sequence[int] | None = None,
        where: Filter = Filter(),
        *,
        to: Change,
        after: int = 0,
        limit: int = 1000,
        on: object = None,
    ) -> list[int]:
        """Give pending jobs another queue, priority or time, by ids or, from an id on, those that match."""
        operation = operations.change(job_ids, where, to, after=after, limit=limit)
        return self._run(operation, on)

    def count(
        self,
        where: Filter = Filter(),
        *,
        status: Status | str = Status.PENDING,
        on: object = None,
    ) -> int:
        """How many jobs of a status match."""
        return self._run(operations.count(where, status=status), on)

    def clear(
        self,
        where: Filter = Filter(),
        *,
        status: Status | str = Status.PENDING,
        limit: int = 1000,
        on: object = None,
    ) -> list[int]:
        """Delete up to ``limit`` jobs of a status, not running ones, that match; returns their ids."""
        return self._run(operations.clear(where, status=status, limit=limit), on)


class AsyncClient(AsyncQueueClient):
    """Async operations. ``on`` is the caller's connection; without it each is its own transaction."""

    def __init__(
        self,
        run: Callable[[Operation[Any], object], Awaitable[Any]],
        edited: Callable[[JobRow, Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        self._run_any, self._edited = run, edited

    async def _run(self, operation: Operation[T], on: object) -> T:
        result: T = await self._run_any(operation, on)
        return result

    async def insert(
        self, jobs: Sequence[NewJob], *, notify: bool = True, on: object = None
    ) -> list[int]:
        """Insert prepared jobs in one round trip; returns their ids in order."""
        return [added.id for added in await self._run(enqueue.enqueue(jobs, notify=notify), on)]

    async def notify(self, queues: Iterable[str], *, on: object = None) -> None:
        """Wake the workers of these queues."""
        return await self._run(enqueue.notify(queues), on)

    async def job(self, job_id: int, *, on: object = None) -> JobRow:
        """One job; raises JobNotFound."""
        return found(await self._run(operations.get(job_id), on), job_id)

    async def ends(self, job_ids: Sequence[int], *, on: object = None) -> dict[int, End]:
        """Where jobs stand and what they returned, by id; without those that are not there."""
        return await self._run(operations.ends(job_ids), on)

    async def attempts(self, job_id: int, *, on: object = None) -> list[Attempt]:
        """The attempts of a job that did not succeed, oldest first."""
        return await self._run(operations.attempts(job_id), on)

    async def jobs(
        self,
        where: Filter = Filter(),
        *,
        status: Status | str | None = None,
        limit: int = 50,
        before: int | None = None,
        on: object = None,
    ) -> list[JobRow]:
        """Jobs that match, newest first; ``before`` is the id to go on from."""
        operation = operations.find(where, status=status, limit=limit, before=before)
        return await self._run(operation, on)

    async def retry(
        self, job_id: int, *, args: Mapping[str, Any] | None = None, on: object = None
    ) -> bool:
        """Put a dead or cancelled job back, with edited arguments if given; False if it is neither.

        An edited ``"[redacted]"`` keeps what is stored; what was encrypted is encrypted again.

        Raises:
            ArgumentsError: the edited arguments cannot be stored.
            ConfigError: one is to be encrypted and there are no keys.
        """
        if args is not None:
            job = await self._run(operations.get(job_id), on)
            if job is None:
                return False
            args = self._edited(job, args)
        retried = await self._run(operations.retry([job_id], Filter(), args=args), on)
        return bool(retried)

    async def retry_many(
        self,
        job_ids: Sequence[int] | None = None,
        where: Filter = Filter(),
        *,
        limit: int = 1000,
        on: object = None,
    ) -> list[int]:
        """Put jobs back by ids, or dead ones that match; at most ``limit``; returns their ids."""
        return await self._run(operations.retry(job_ids, where, limit=limit), on)

    async def encrypted(
        self, *, after: int = 0, limit: int = 500, on: object = None
    ) -> list[EncryptedJob]:
        """Jobs that may run again and have encrypted arguments, from an id on."""
        return await self._run(operations.encrypted(after=after, limit=limit), on)

    async def replace_args(
        self, changes: Sequence[tuple[int, str, str]], *, on: object = None
    ) -> list[int]:
        """Other arguments (id, old text, new) for jobs that do not run; returns the ids changed."""
        return await self._run(operations.replace_args(changes), on)

    async def cancel(self, *job_ids: int, on: object = None) -> dict[int, Status]:
        """Cancel pending jobs, ask running ones to stop; returns the status by id."""
        return await self._run(operations.cancel(job_ids), on)

    async def cancel_many(
        self, where: Filter, *, after: int = 0, limit: int = 1000, on: object = None
    ) -> dict[int, Status]:
        """Cancel pending and running jobs that match, from an id on; at most ``limit`` of them."""
        return await self._run(operations.cancel(None, where, after=after, limit=limit), on)

    async def change(
        self,
        job_ids: Sequence[int] | None = None,
        where: Filter = Filter(),
        *,
        to: Change,
        after: int = 0,
        limit: int = 1000,
        on: object = None,
    ) -> list[int]:
        """Give pending jobs another queue, priority or time, by ids or, from an id on, those that match."""
        operation = operations.change(job_ids, where, to, after=after, limit=limit)
        return await self._run(operation, on)

    async def count(
        self,
        where: Filter = Filter(),
        *,
        status: Status | str = Status.PENDING,
        on: object = None,
    ) -> int:
        """How many jobs of a status match."""
        return await self._run(operations.count(where, status=status), on)

    async def clear(
        self,
        where: Filter = Filter(),
        *,
        status: Status | str = Status.PENDING,
        limit: int = 1000,
        on: object = None,
    ) -> list[int]:
        """Delete up to ``limit`` jobs of a status, not running ones, that match; returns their ids."""
        return await self._run(operations.clear(where, status=status, limit=limit), on)
