"""The operations on jobs and queues, sync and async: one line each, kept equal by a test."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pgqueue.checks import MOST_ID, check_ids, shown, whole_number
from pgqueue.errors import JobNotFound, StepNotFound
from pgqueue.job import Attempt, JobRow, NewJob, Status
from pgqueue.operations import Operation, enqueue, steps
from pgqueue.operations import jobs as operations
from pgqueue.operations.jobs import Change, EncryptedJob, End, Filter
from pgqueue.queue_client import AsyncQueueClient, QueueClient

T = TypeVar("T")
BATCH = 1000
RETRIED = (Status.DEAD, Status.CANCELLED)


def batches(job_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """The ids in pieces of a thousand: as many jobs as a statement changes."""
    for start in range(0, len(job_ids), BATCH):
        yield job_ids[start : start + BATCH]


def found(job: JobRow | None, job_id: int) -> JobRow:
    if job is None:
        raise JobNotFound(f"no job {shown(job_id)}: it never existed or was pruned")
    return job


def warn_of_steps(job_id: int, names: list[str]) -> None:
    """Warn that a job with other arguments goes on with what its steps returned for the old ones."""
    if names:
        warnings.warn(
            f"job {job_id} runs with other arguments, and keeps what its steps returned for the old ones:"
            f" {listed(names)}. If they depend on the arguments, name the first that does with from_step",
            stacklevel=3,
        )


def check_has_step(job_id: int, name: str, names: list[str]) -> None:
    """Raise StepNotFound unless it is one of them, or may be: a hundred are looked at."""
    if name not in names and len(names) < 100:
        raise StepNotFound(f"job {job_id} has no step {name!r}; it has: {listed(names) or 'none'}")


def listed(names: Sequence[str]) -> str:
    """The first names, for people."""
    return ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")


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
        """The attempts of a job that did not succeed, oldest first: the latest thousand.

        Tracebacks and logs of the older ones are left out when those of the newer ones have 4 MB together.
        """
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
        """Jobs that match, newest first, and of a status that has ended the latest to end first.

        A list has only a part of what is long (see ``JobRow``); ``job(id)`` has all of one. ``before`` is the id
        of the last one seen, to go on from.
        """
        return self._run(operations.find(where, status=status, limit=limit, before=before), on)

    def retry(
        self,
        job_id: int,
        *,
        args: Mapping[str, Any] | None = None,
        from_step: str | None = None,
        on: object = None,
    ) -> bool:
        """Put a dead or cancelled job back, with edited arguments if given; False if it is neither.

        What its steps returned stays stored, and they are not done again; but those from ``from_step`` on.

        In a workflow what was cancelled because it failed comes back too; False if it waits for another that failed.

        An edited ``"[redacted]"`` keeps what is stored; what was encrypted is encrypted again.

        Args:
            from_step: the name of a step, sleep or wait that is to be done again, with all that began after it.

        Raises:
            ArgumentsError: the edited arguments cannot be stored.
            ConfigError: one is to be encrypted and there are no keys.
            StepNotFound: the job has no step ``from_step``.
            UserWarning: the arguments are others than those with which the steps were done that stay stored.
        """
        if args is not None:
            operations.check_edited(args)
            job = self._run(operations.get(job_id), on)
            if job is None:
                return False
            args = self._edited(job, args)
            if from_step is None and job.status in RETRIED and args != job.args:
                warn_of_steps(job_id, self._run(steps.names(job_id), on))
        if self._run(operations.retry([job_id], args=args, from_step=from_step), on):
            return True
        if from_step is not None:
            check_has_step(job_id, from_step, self._run(steps.names(job_id), on))
        return False

    def matching(self, where: Filter, *statuses: Status | str, on: object = None) -> list[int]:
        """The ids of all jobs of these statuses that match, oldest first."""
        return self._run(operations.matching(where, *statuses), on)

    def retry_many(
        self,
        job_ids: Sequence[int] | None = None,
        where: Filter = Filter(),
        *,
        status: Status | None = None,
        limit: int | None = None,
        from_step: str | None = None,
        on: object = None,
    ) -> list[int]:
        """Put dead and cancelled jobs back by ids, or all dead ones that match; returns their ids.

        Each that matches now is put back once, whatever becomes of it meanwhile; a thousand in a
        transaction, or all in that of ``on``.

        Args:
            status: of those given by ids only the ones of this status.
            limit: at most so many of those that match.
            from_step: only those that have a step of this name; it is done again, with all that began after it.
        """
        limit = operations.check_limit(limit)
        status = None if status is None else operations.check_status(status)
        from_step = None if from_step is None else operations.check_from_step(from_step)
        if job_ids is None:
            job_ids, status = (self.matching(where, Status.DEAD, on=on))[:limit], Status.DEAD
        done: list[int] = []
        for batch in batches(check_ids(job_ids)):
            changed = self._run(
                operations.retry(batch, where, status=status, from_step=from_step), on
            )
            done += changed
        return done

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
        self,
        where: Filter,
        *,
        job_ids: Sequence[int] | None = None,
        after: int = 0,
        limit: int | None = None,
        on: object = None,
    ) -> dict[int, Status]:
        """Cancel all pending and running jobs that match, in batches as ``retry_many``; the status by id.

        Args:
            job_ids: only among these.
            after: only ids above it. limit: at most so many.
        """
        limit, after = operations.check_limit(limit), whole_number(after, "after", most=MOST_ID)
        if job_ids is None:
            job_ids = self.matching(where, *operations.UNFINISHED, on=on)
        statuses: dict[int, Status] = {}
        for batch in batches([i for i in check_ids(job_ids) if i > after][:limit]):
            changed = self._run(operations.cancel(batch, where), on)
            statuses |= changed
        return statuses

    def change(
        self,
        job_ids: Sequence[int] | None = None,
        where: Filter = Filter(),
        *,
        to: Change,
        limit: int | None = None,
        on: object = None,
    ) -> list[int]:
        """Give pending jobs another queue, priority or time: by ids, or all that match.

        In batches as ``retry_many``; returns their ids.
        """
        operations.check_change(to)  # refuses what is wrong before a connection is opened
        limit = operations.check_limit(limit)
        if job_ids is None:
            job_ids = (self.matching(where, Status.PENDING, on=on))[:limit]
        done: list[int] = []
        for batch in batches(check_ids(job_ids)):
            changed = self._run(operations.change(batch, where, to), on)
            done += changed
        return done

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
        job_ids: Sequence[int] | None = None,
        limit: int | None = None,
        on: object = None,
    ) -> list[int]:
        """Delete all jobs of a status, not running ones, that match, in batches as ``retry_many``.

        Args:
            job_ids: only among these. limit: at most so many.

        Returns their ids.

        Raises:
            ConfigError: the status is running: cancel those.
        """
        status, limit = operations.cleared(status), operations.check_limit(limit)
        if job_ids is None:
            job_ids = (self.matching(where, status, on=on))[:limit]
        done: list[int] = []
        for batch in batches(check_ids(job_ids)):
            changed = self._run(operations.clear(batch, where, status=status), on)
            done += changed
        return done


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
        """The attempts of a job that did not succeed, oldest first: the latest thousand.

        Tracebacks and logs of the older ones are left out when those of the newer ones have 4 MB together.
        """
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
        """Jobs that match, newest first, and of a status that has ended the latest to end first.

        A list has only a part of what is long (see ``JobRow``); ``job(id)`` has all of one. ``before`` is the id
        of the last one seen, to go on from.
        """
        operation = operations.find(where, status=status, limit=limit, before=before)
        return await self._run(operation, on)

    async def retry(
        self,
        job_id: int,
        *,
        args: Mapping[str, Any] | None = None,
        from_step: str | None = None,
        on: object = None,
    ) -> bool:
        """Put a dead or cancelled job back, with edited arguments if given; False if it is neither.

        What its steps returned stays stored, and they are not done again; but those from ``from_step`` on.

        In a workflow what was cancelled because it failed comes back too; False if it waits for another that failed.

        An edited ``"[redacted]"`` keeps what is stored; what was encrypted is encrypted again.

        Args:
            from_step: the name of a step, sleep or wait that is to be done again, with all that began after it.

        Raises:
            ArgumentsError: the edited arguments cannot be stored.
            ConfigError: one is to be encrypted and there are no keys.
            StepNotFound: the job has no step ``from_step``.
            UserWarning: the arguments are others than those with which the steps were done that stay stored.
        """
        if args is not None:
            operations.check_edited(args)
            job = await self._run(operations.get(job_id), on)
            if job is None:
                return False
            args = self._edited(job, args)
            if from_step is None and job.status in RETRIED and args != job.args:
                warn_of_steps(job_id, await self._run(steps.names(job_id), on))
        if await self._run(operations.retry([job_id], args=args, from_step=from_step), on):
            return True
        if from_step is not None:
            check_has_step(job_id, from_step, await self._run(steps.names(job_id), on))
        return False

    async def matching(
        self, where: Filter, *statuses: Status | str, on: object = None
    ) -> list[int]:
        """The ids of all jobs of these statuses that match, oldest first."""
        return await self._run(operations.matching(where, *statuses), on)

    async def retry_many(
        self,
        job_ids: Sequence[int] | None = None,
        where: Filter = Filter(),
        *,
        status: Status | None = None,
        limit: int | None = None,
        from_step: str | None = None,
        on: object = None,
    ) -> list[int]:
        """Put dead and cancelled jobs back by ids, or all dead ones that match; returns their ids.

        Each that matches now is put back once, whatever becomes of it meanwhile; a thousand in a
        transaction, or all in that of ``on``.

        Args:
            status: of those given by ids only the ones of this status.
            limit: at most so many of those that match.
            from_step: only those that have a step of this name; it is done again, with all that began after it.
        """
        limit = operations.check_limit(limit)
        status = None if status is None else operations.check_status(status)
        from_step = None if from_step is None else operations.check_from_step(from_step)
        if job_ids is None:
            job_ids, status = (await self.matching(where, Status.DEAD, on=on))[:limit], Status.DEAD
        done: list[int] = []
        for batch in batches(check_ids(job_ids)):
            changed = await self._run(
                operations.retry(batch, where, status=status, from_step=from_step), on
            )
            done += changed
        return done

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
        self,
        where: Filter,
        *,
        job_ids: Sequence[int] | None = None,
        after: int = 0,
        limit: int | None = None,
        on: object = None,
    ) -> dict[int, Status]:
        """Cancel all pending and running jobs that match, in batches as ``retry_many``; the status by id.

        Args:
            job_ids: only among these.
            after: only ids above it. limit: at most so many.
        """
        limit, after = operations.check_limit(limit), whole_number(after, "after", most=MOST_ID)
        if job_ids is None:
            job_ids = await self.matching(where, *operations.UNFINISHED, on=on)
        statuses: dict[int, Status] = {}
        for batch in batches([i for i in check_ids(job_ids) if i > after][:limit]):
            changed = await self._run(operations.cancel(batch, where), on)
            statuses |= changed
        return statuses

    async def change(
        self,
        job_ids: Sequence[int] | None = None,
        where: Filter = Filter(),
        *,
        to: Change,
        limit: int | None = None,
        on: object = None,
    ) -> list[int]:
        """Give pending jobs another queue, priority or time: by ids, or all that match.

        In batches as ``retry_many``; returns their ids.
        """
        operations.check_change(to)  # refuses what is wrong before a connection is opened
        limit = operations.check_limit(limit)
        if job_ids is None:
            job_ids = (await self.matching(where, Status.PENDING, on=on))[:limit]
        done: list[int] = []
        for batch in batches(check_ids(job_ids)):
            changed = await self._run(operations.change(batch, where, to), on)
            done += changed
        return done

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
        job_ids: Sequence[int] | None = None,
        limit: int | None = None,
        on: object = None,
    ) -> list[int]:
        """Delete all jobs of a status, not running ones, that match, in batches as ``retry_many``.

        Args:
            job_ids: only among these. limit: at most so many.

        Returns their ids.

        Raises:
            ConfigError: the status is running: cancel those.
        """
        status, limit = operations.cleared(status), operations.check_limit(limit)
        if job_ids is None:
            job_ids = (await self.matching(where, status, on=on))[:limit]
        done: list[int] = []
        for batch in batches(check_ids(job_ids)):
            changed = await self._run(operations.clear(batch, where, status=status), on)
            done += changed
        return done
