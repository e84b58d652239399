"""Looks at what a test enqueued and runs it, on the test's own connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar, cast
from uuid import uuid4

from pgqueue.app import App
from pgqueue.context import Context
from pgqueue.durations import Duration, seconds
from pgqueue.errors import ArgumentsError
from pgqueue.instead import Instead
from pgqueue.job import ClaimedJob, JobRow, Status
from pgqueue.operations import Operation, limits, maintenance, schedules, testing, workflows
from pgqueue.operations.claims import Taking
from pgqueue.operations.testing import Beginning, OwnJob
from pgqueue.outcome import Outcome
from pgqueue.schedule import NewSchedule
from pgqueue.task import Task
from pgqueue.testing.kept import Kept, KeptAsync, KeptSync
from pgqueue.testing.running import (
    LEASE,
    Drained,
    acaught,
    caught,
    check_arguments,
    complaint,
    definition_of,
    matches,
    of_task,
    prepared,
    recording,
    unreadable,
)
from pgqueue.testing.sharing import asyncpg_of, no_async, no_sync, psycopg_of

T = TypeVar("T")
MOST = 1000
TaskLike = Task[Any, Any] | type | str


def _pending(jobs: Sequence[OwnJob]) -> list[int]:
    return [job.id for job in jobs if job.status == Status.PENDING]


def _taking() -> Taking:
    return {"limit": 100, "claim_id": uuid4(), "worker_id": uuid4(), "lease": LEASE}


class _Tester:
    """What both faces share."""

    _keeper: type[Kept]

    def __init__(
        self,
        app: App,
        connection: object,
        resources: Mapping[type, Any] | None = None,
        *,
        join: bool = False,
    ) -> None:
        self.app, self.connection = app, connection
        self.resources = resources or {}
        self._join = join
        self._beginning: Beginning | None = None
        self._before: list[Instead | None] = []

    def _keep(self, join: bool) -> Any:
        """Keep the app on the test's connection until ``_let_go``."""
        kept = self._keeper(self.app, self.connection, join=join)
        self._before.append(self.app.instead)
        self.app.instead = cast(Instead, kept)
        return kept

    def _let_go(self) -> None:
        self.app.instead = self._before.pop()

    def _of(self, task: TaskLike | None, jobs: list[JobRow]) -> list[JobRow]:
        """Those of the task, or all, oldest first."""
        return jobs[::-1] if task is None else of_task(self.app, task, jobs)[::-1]

    def _declared(self, name: str) -> list[NewSchedule]:
        return [each for each in self.app.schedules if each.name == name]

    def _asserted(
        self,
        jobs: list[JobRow],
        task: TaskLike,
        count: int | None,
        queue: str | None,
        arguments: dict[str, Any],
    ) -> list[JobRow]:
        definition = definition_of(self.app, task)
        check_arguments(definition, arguments)
        of_this = of_task(self.app, task, jobs)
        found = [job for job in of_this if matches(job, arguments, queue, self.app)]
        if not found if count is None else len(found) != count:
            want = "no job" if count is None else f"{len(found)} jobs instead of {count}"
            name = str(task) if definition is None else definition.name
            raise AssertionError(complaint(name, arguments, jobs, want))
        return found


class QueueTester(_Tester):
    """On a sync connection of the test: psycopg, SQLAlchemy, Django.

    It looks at the jobs of the test and runs them: those that the transaction open on the connection has written, in its
    savepoints too. Where the test commits, these are the jobs enqueued since the ``with`` block began, by
    whomever. Other jobs of the database are neither counted nor run.

    Inside of ``with QueueTester(app, connection) as pgq`` nothing of the app leaves the test's connection:
    what is enqueued without ``.on()`` is refused, or joins. Handlers run as in a worker, but for hooks,
    ``around_run``, timeouts and process pools.

    Args:
        app: whose tasks run.
        connection: as for ``on()``; everything happens in its transaction, which is left open.
        resources: by type, what handlers get in place of the app's.
        join: enqueue on the connection what comes without one, in place of refusing it.
    """

    _keeper = KeptSync

    def __enter__(self) -> Self:
        self._beginning = self._run(testing.begins())
        self._keep(self._join)
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()

    def _run(self, operation: Operation[T]) -> T:
        return self.app._way(self.connection).run(operation, self.connection)

    def _jobs(self) -> list[OwnJob]:
        """The jobs of this test."""
        if self._beginning is None:
            # Not told when the test began: what a test that commits has committed counts, whenever that was.
            self._beginning = (self._run(testing.begins()))._replace(newest=0)
        return self._run(testing.of_test(self._beginning))

    def enqueued(self, task: TaskLike | None = None) -> list[JobRow]:
        """The jobs of this test that wait, oldest first; of one task, if given."""
        waiting = _pending(self._jobs())
        return self._of(task, self._run(testing.listed(waiting)))

    def assert_enqueued(
        self,
        task: TaskLike,
        *,
        count: int | None = None,
        queue: str | None = None,
        **arguments: Any,
    ) -> list[JobRow]:
        """Some job of this test (or ``count``) of the task with these arguments, among others, waits; returns them.

        Raises:
            TaskError: neither the app nor any job of the test has a task of this name.
            ArgumentsError: the task takes no argument of such a name.
        """
        return self._asserted(self.enqueued(), task, count, queue, arguments)

    def assert_not_enqueued(
        self, task: TaskLike, *, queue: str | None = None, **arguments: Any
    ) -> None:
        """No job of this test of the task with these arguments waits; raises as ``assert_enqueued`` does."""
        self._asserted(self.enqueued(), task, 0, queue, arguments)

    def travel(self, duration: Duration) -> None:
        """Let time pass: for the jobs of this test, not for the clock of the database."""
        passed = seconds(duration, name="duration")
        self._run(testing.travel([job.id for job in self._jobs()], passed))

    def drain(self, *, limit: int = MOST) -> Drained:
        """Run what is due of this test, and what that enqueues, at most ``limit`` runs.

        Raises:
            TaskError: a job's task is not in the app.
        """
        drained, runs = Drained(), 0
        self._keep(join=True)
        try:
            while runs < limit and (jobs := self._claim()):
                for job in jobs:
                    self._work(job, drained)
                runs += len(jobs)
        finally:
            self._let_go()
        return drained

    def run_schedule(self, name: str) -> int:
        """Enqueue a run of a schedule that the app declares, or that is there, as of now; the job's id.

        Raises:
            ScheduleNotFound: there is none of this name.
        """
        if declared := self._declared(name):
            self._run(schedules.declare(declared, force=False))
        return self.app.client.run_schedule(name, on=self.connection)

    def _claim(self) -> list[ClaimedJob]:
        mine = self._jobs()
        pending = _pending(mine)
        queues = sorted({job.queue for job in mine if job.status == Status.PENDING})
        self._run(testing.due(pending))
        jobs = self._run(testing.claim(pending, queues, _taking()))
        among = [job.id for job in mine]
        for queue in self._run(limits.queues_at_work(queues)):
            if queue.limited:
                limited = self._run(limits.claim(queue.name, among=among, **_taking()))
                jobs += limited.jobs
        return jobs

    def _work(self, job: ClaimedJob, drained: Drained) -> None:
        began = time.monotonic()
        try:
            job = self._filled(job)
            definition, arguments = prepared(self.app, job)
        except ArgumentsError as error:
            self._record(job, unreadable(error), began, drained)
            return
        identity = self._run(maintenance.schema_id())
        context = Context(
            job,
            schema=self.app.schema,
            resources=self.resources,
            identity=lambda: identity,
            conceals=lambda job: definition.concealer(self.app.privacy, job, arguments),
            connect=lambda **_: psycopg_of(self.connection),
            aconnect=no_async,
        )
        value, raised = caught(context, lambda: definition.invoke(context, arguments))
        outcome = definition.judge(
            value, raised, job=job, arguments=arguments, context=context, privacy=self.app.privacy
        )
        self._record(job, outcome, began, drained)

    def _record(self, job: ClaimedJob, outcome: Outcome, began: float, drained: Drained) -> None:
        statements = recording(job, outcome, began)
        try:
            statement = next(statements)
            while True:
                statement = statements.send(self._run(statement))
        except StopIteration as done:
            drained.note(job, *done.value)
        self._settle(job)

    def _filled(self, job: ClaimedJob) -> ClaimedJob:
        if not (wanted := job.wants):
            return job
        return job.filled(self._run(workflows.results(job.workflow_id, wanted)))

    def _settle(self, job: ClaimedJob) -> None:
        ended = [] if job.workflow_id is None else [job.id]
        while ended:
            ended = self._run(workflows.settle(ended)).again


class AsyncQueueTester(_Tester):
    """The same on an async connection of the test: asyncpg, psycopg, SQLAlchemy's; each verb is awaited."""

    _keeper = KeptAsync

    async def __aenter__(self) -> Self:
        self._beginning = await self._run(testing.begins())
        self._keep(self._join).begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._let_go()

    async def _run(self, operation: Operation[T]) -> T:
        return await self.app._way(self.connection).arun(operation, self.connection)

    async def _jobs(self) -> list[OwnJob]:
        """The jobs of this test."""
        if self._beginning is None:
            # Not told when the test began: what a test that commits has committed counts, whenever that was.
            self._beginning = (await self._run(testing.begins()))._replace(newest=0)
        return await self._run(testing.of_test(self._beginning))

    async def enqueued(self, task: TaskLike | None = None) -> list[JobRow]:
        """The jobs of this test that wait, oldest first; of one task, if given."""
        waiting = _pending(await self._jobs())
        return self._of(task, await self._run(testing.listed(waiting)))

    async def assert_enqueued(
        self,
        task: TaskLike,
        *,
        count: int | None = None,
        queue: str | None = None,
        **arguments: Any,
    ) -> list[JobRow]:
        """Some job of this test (or ``count``) of the task with these arguments, among others, waits; returns them."""
        return self._asserted(await self.enqueued(), task, count, queue, arguments)

    async def assert_not_enqueued(
        self, task: TaskLike, *, queue: str | None = None, **arguments: Any
    ) -> None:
        """No job of this test of the task with these arguments waits."""
        self._asserted(await self.enqueued(), task, 0, queue, arguments)

    async def travel(self, duration: Duration) -> None:
        """Let time pass: for the jobs of this test, not for the clock of the database."""
        passed = seconds(duration, name="duration")
        await self._run(testing.travel([job.id for job in await self._jobs()], passed))

    async def drain(self, *, limit: int = MOST) -> Drained:
        """Run what is due, and what that enqueues; raises as ``QueueTester.drain`` does."""
        drained, runs = Drained(), 0
        self._keep(join=True).begin()
        try:
            while runs < limit and (jobs := await self._claim()):
                for job in jobs:
                    await self._work(job, drained)
                runs += len(jobs)
        finally:
            self._let_go()
        return drained

    async def run_schedule(self, name: str) -> int:
        """Enqueue a run of a schedule, as ``QueueTester.run_schedule``."""
        if declared := self._declared(name):
            await self._run(schedules.declare(declared, force=False))
        return await self.app.aclient.run_schedule(name, on=self.connection)

    async def _claim(self) -> list[ClaimedJob]:
        mine = await self._jobs()
        pending = _pending(mine)
        queues = sorted({job.queue for job in mine if job.status == Status.PENDING})
        await self._run(testing.due(pending))
        jobs = await self._run(testing.claim(pending, queues, _taking()))
        among = [job.id for job in mine]
        for queue in await self._run(limits.queues_at_work(queues)):
            if queue.limited:
                limited = await self._run(limits.claim(queue.name, among=among, **_taking()))
                jobs += limited.jobs
        return jobs

    async def _work(self, job: ClaimedJob, drained: Drained) -> None:
        began = time.monotonic()
        try:
            job = await self._filled(job)
            definition, arguments = prepared(self.app, job)
        except ArgumentsError as error:
            await self._record(job, unreadable(error), began, drained)
            return
        identity = await self._run(maintenance.schema_id())
        one_by_one = asyncio.Lock()  # steps at once share the test's connection
        context = Context(
            job,
            schema=self.app.schema,
            resources=self.resources,
            identity=lambda: identity,
            conceals=lambda job: definition.concealer(self.app.privacy, job, arguments),
            connect=no_sync,
            aconnect=lambda ours=False: asyncpg_of(self.connection, one_by_one if ours else None),
        )

        def call() -> Any:
            return definition.invoke(context, arguments)

        if definition.run == "async":
            value, raised = await acaught(context, call)
        else:
            value, raised = await asyncio.to_thread(caught, context, call)
        outcome = definition.judge(
            value, raised, job=job, arguments=arguments, context=context, privacy=self.app.privacy
        )
        await self._record(job, outcome, began, drained)

    async def _record(
        self, job: ClaimedJob, outcome: Outcome, began: float, drained: Drained
    ) -> None:
        statements = recording(job, outcome, began)
        try:
            statement = next(statements)
            while True:
                statement = statements.send(await self._run(statement))
        except StopIteration as done:
            drained.note(job, *done.value)
        await self._settle(job)

    async def _filled(self, job: ClaimedJob) -> ClaimedJob:
        if not (wanted := job.wants):
            return job
        return job.filled(await self._run(workflows.results(job.workflow_id, wanted)))

    async def _settle(self, job: ClaimedJob) -> None:
        ended = [] if job.workflow_id is None else [job.id]
        while ended:
            ended = (await self._run(workflows.settle(ended))).again
