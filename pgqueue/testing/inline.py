"""Runs jobs where they are enqueued: for tests that want to see the effect and not the queue."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

from pgqueue.app import App
from pgqueue.definition import Definition
from pgqueue.gateway import Gateway
from pgqueue.job import Added, ClaimedJob, NewJob, Status
from pgqueue.operations.jobs import End
from pgqueue.operations.workflows import Added as Entered
from pgqueue.operations.workflows import Deadline, Member
from pgqueue.reference import filled
from pgqueue.testing.direct import DirectContext
from pgqueue.testing.running import acaught, caught, prepared
from pgqueue.workflow import Becomes, Ended, becomes

_NOT_RUN: dict[Becomes, Ended] = {"waits": "not ended", "cancelled": "failed", "skipped": "skipped"}


class _Call(NamedTuple):
    """A handler that is to be called."""

    job: ClaimedJob
    definition: Definition
    arguments: dict[str, Any]
    context: DirectContext

    def run(self) -> Any:
        return self.definition.invoke(self.context, self.arguments)


class _Failed(NamedTuple):
    error: Exception


class Inline:
    """Takes the place of the insert. Ids are negative: no such row exists."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._last = 0
        self._ends: dict[int, End] = {}
        self._identity = uuid4()

    def way(self, gateway: Gateway) -> Gateway:
        return gateway

    def send_jobs(self, jobs: Sequence[NewJob], on: object) -> list[Added]:
        return [Added(self._run(self._call(job)).id) for job in jobs]

    async def asend_jobs(self, jobs: Sequence[NewJob], on: object) -> list[Added]:
        return [Added((await self._arun(self._call(job))).id) for job in jobs]

    def send_workflow(
        self, members: Sequence[Member], name: str, on: object, deadline: Deadline = None
    ) -> Entered:
        going = self._workflow(members)
        answer: End | _Failed | None = None
        while True:
            try:
                call = going.send(answer)
            except StopIteration as over:
                done: Entered = over.value
                return done
            try:
                answer = self._run(call())
            except Exception as error:
                answer = _Failed(error)

    async def asend_workflow(
        self, members: Sequence[Member], name: str, on: object, deadline: Deadline = None
    ) -> Entered:
        going = self._workflow(members)
        answer: End | _Failed | None = None
        while True:
            try:
                call = going.send(answer)
            except StopIteration as over:
                done: Entered = over.value
                return done
            try:
                answer = await self._arun(call())
            except Exception as error:
                answer = _Failed(error)

    def end_of(self, job_id: int) -> End | None:
        return self._ends.get(job_id)

    async def aend_of(self, job_id: int) -> End | None:
        return self._ends.get(job_id)

    def _workflow(self, members: Sequence[Member]) -> Generator[Any, Any, Entered]:
        """The calls of a workflow in order, each for its end; at last the first error is raised.

        A job that is not run ends as it would by its ``if_failed``.
        """
        self._last -= 1
        workflow_id = self._last
        ids: list[int] = []
        ends: list[Ended] = []
        results: dict[str, Any] = {}
        errors: list[Exception] = []
        for member in members:
            what = becomes(member.if_failed, {ends[place - 1] for place in member.after})
            if what != "runs":
                self._last -= 1
                status = Status.BLOCKED if what == "waits" else Status.CANCELLED
                ids.append(self._last)
                ends.append(_NOT_RUN[what])
                self._ends[self._last] = End(self._last, status, None)
                continue
            job = self._claimed(member.job, workflow_id)
            job = job._replace(args=filled(job.args, results))
            answer = yield lambda job=job: self._called(job)
            ids.append(job.id)
            ends.append("succeeded" if isinstance(answer, End) else "failed")
            if isinstance(answer, _Failed):
                errors.append(answer.error)
                self._ends[job.id] = End(job.id, Status.DEAD, None)
            elif member.name is not None and answer.result is not None:
                results[member.name] = json.loads(answer.result)
        if errors:
            raise errors[0]
        return Entered(workflow_id, ids)

    def _claimed(self, new: NewJob, workflow_id: int | None = None) -> ClaimedJob:
        self._last -= 1
        return ClaimedJob(
            self._last, new.task, new.args, new.queue, new.priority_or_usual, 1, new.retries_or_usual, 0,
            new.run_at or datetime.fromtimestamp(0, UTC), workflow_id, None, 0.0, uuid4(),
        )  # fmt: skip

    def _call(self, new: NewJob) -> _Call:
        return self._called(self._claimed(new))

    def _called(self, job: ClaimedJob) -> _Call:
        definition, arguments = prepared(self._app, job)
        connections = self._app.connections
        context = DirectContext(
            job,
            schema=self._app.schema,
            connect=connections.sync,
            aconnect=connections.aio,
            identity=lambda: self._identity,
        )
        return _Call(job, definition, arguments, context)

    def _run(self, call: _Call) -> End:
        return self._ended(call, *caught(call.context, call.run))

    async def _arun(self, call: _Call) -> End:
        return self._ended(call, *(await acaught(call.context, call.run)))

    def _ended(self, call: _Call, value: Any, raised: BaseException | None) -> End:
        if raised is not None:
            raise raised
        outcome = call.definition.judge(
            value, None, job=call.job, arguments=call.arguments, context=call.context,
            privacy=self._app.privacy,
        )  # fmt: skip
        end = self._ends[call.job.id] = End(call.job.id, Status.SUCCEEDED, outcome.result)
        return end


@contextmanager
def inline(app: App) -> Iterator[None]:
    """Run each job of ``app`` at once, where it is enqueued, whatever its time; its error comes out there.

    Nothing is inserted, so nothing is retried, unique or limited. Workflows run as a whole, their jobs
    one after the other; then the first error comes out. Handles give the results. Neither hooks nor
    ``around_run`` nor ``around_enqueue`` are called.
    """
    before, app.instead = app.instead, Inline(app)
    try:
        yield
    finally:
        app.instead = before
