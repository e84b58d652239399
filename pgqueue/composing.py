"""The part of an app that makes workflows, enqueues them, and emits events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from typing import Any

from pgqueue.admitting import Admits
from pgqueue.checks import several
from pgqueue.codec import argument_text
from pgqueue.context import Context
from pgqueue.durations import Duration
from pgqueue.errors import ConfigError
from pgqueue.instead import Instead
from pgqueue.job import NewJob
from pgqueue.operations import Operation, steps, workflows
from pgqueue.operations.workflows import Added, Deadline, Member
from pgqueue.workflow import RunningWorkflow, Workflow


class Composes(Admits):
    """Chains, batches and graphs of jobs."""

    instead: Instead | None

    def _around(self, jobs: Sequence[NewJob]) -> AbstractContextManager[object]:
        raise NotImplementedError

    def _may_notify(self, jobs: Sequence[NewJob]) -> bool:
        raise NotImplementedError

    def workflow(self, name: str = "", *, deadline: datetime | Duration | None = None) -> Workflow:
        """An empty workflow: ``add`` jobs to it, then ``enqueue`` it.

        Args:
            deadline: a time, or how long from when it is enqueued, 365 days at most: then its jobs that have not started
                are cancelled, and running ones are asked to stop. Its status is "expired".

        Raises:
            ConfigError: the name is too long, or the deadline is none.
        """
        return Workflow(self, name, deadline=deadline)

    def workflow_of(self, context: Context) -> RunningWorkflow:
        """The workflow of a running job, to add jobs to it: ``app.workflow_of(ctx).add(...)``.

        Raises:
            ConfigError: the job is in no workflow.
        """
        if not context.in_queue:
            raise ConfigError("no workflow grows without a queue: use QueueTester.drain()")
        return RunningWorkflow(self, context)

    def chain(
        self, *jobs: NewJob, name: str = "", deadline: datetime | Duration | None = None
    ) -> Workflow:
        """Jobs one after the other; when one fails, those after it are cancelled. ``deadline``: as of ``workflow``."""
        made = self.workflow(name, deadline=deadline)
        before = None
        for job in jobs:
            before = made.add(job, after=() if before is None else before)
        return made

    def batch(
        self,
        jobs: Iterable[NewJob],
        *,
        on_success: NewJob | None = None,
        on_failure: NewJob | None = None,
        on_done: NewJob | None = None,
        name: str = "",
        deadline: datetime | Duration | None = None,
    ) -> Workflow:
        """Jobs at once, and what comes after them.

        Args:
            jobs: one or more.
            on_success: runs when all have succeeded.
            on_failure: runs once, as soon as the first has failed.
            on_done: runs when all have ended, whichever way.
            deadline: as of ``workflow``; the callbacks are cancelled, too.

        Raises:
            ConfigError: there is no job, whose end the others could come after.
        """
        made = self.workflow(name, deadline=deadline)
        all_of_them = [made.add(job) for job in several(jobs, "jobs", "jobs")]
        if not all_of_them:
            raise ConfigError(
                "a batch needs at least one job: without any there is no end for on_success, on_failure and"
                " on_done to come after"
            )
        if on_success is not None:
            made.add(on_success, after=all_of_them)
        if on_failure is not None:
            made.add(on_failure, after=all_of_them, if_failed="only")
        if on_done is not None:
            made.add(on_done, after=all_of_them, if_failed="continue")
        return made

    def emit(self, name: str, payload: Any = None, *, on: object = None) -> int:
        """Emit an event for all jobs that wait for its name; its id.

        Args:
            payload: JSON, at most 1 MB: what their ``ctx.wait_for_event`` returns.
            on: the caller's connection; the event is there when its transaction commits.

        Raises:
            ArgumentsError: the payload cannot be stored.
        """
        return self._way(on).run(steps.emit(name, argument_text(payload, "the payload")), on)

    async def aemit(self, name: str, payload: Any = None, *, on: object = None) -> int:
        """The same, awaited."""
        return await self._way(on).arun(steps.emit(name, argument_text(payload, "the payload")), on)

    def send(self, job_id: int, name: str, payload: Any = None, *, on: object = None) -> int:
        """Send a message to one job, whose ``ctx.receive(name)`` returns the payload; its id.

        Args:
            payload: JSON, at most 1 MB.
            on: the caller's connection; the message is there when its transaction commits.

        Raises:
            ArgumentsError: the payload cannot be stored.
            JobNotFound: no job has this id.
        """
        text = argument_text(payload, "the payload")
        return self._way(on).run(steps.send(job_id, name, text), on)

    async def asend(self, job_id: int, name: str, payload: Any = None, *, on: object = None) -> int:
        """The same, awaited."""
        text = argument_text(payload, "the payload")
        return await self._way(on).arun(steps.send(job_id, name, text), on)

    def send_workflow(
        self, members: Sequence[Member], name: str, on: object, deadline: Deadline = None
    ) -> Added:
        if self.instead is not None:
            taken = self.instead.send_workflow(members, name, on, deadline)
            if taken is not None:
                return taken
        jobs = [member.job for member in members]
        with self._around(jobs):
            admitted = self._admit(jobs, on, _entering(members))
            return self._way(on).run(self._enqueued(members, admitted, name, deadline), on)

    async def asend_workflow(
        self, members: Sequence[Member], name: str, on: object, deadline: Deadline = None
    ) -> Added:
        if self.instead is not None:
            taken = await self.instead.asend_workflow(members, name, on, deadline)
            if taken is not None:
                return taken
        jobs = [member.job for member in members]
        with self._around(jobs):
            admitted = await self._aadmit(jobs, on, _entering(members))
            return await self._way(on).arun(self._enqueued(members, admitted, name, deadline), on)

    def add_members(self, members: Sequence[Member], by: Context, on: object) -> Added:
        jobs = [member.job for member in members]
        with self._around(jobs):
            admitted = self._admit(jobs, on, _entering(members))
            return self._way(on).run(self._joining(members, admitted, by), on)

    async def aadd_members(self, members: Sequence[Member], by: Context, on: object) -> Added:
        jobs = [member.job for member in members]
        with self._around(jobs):
            admitted = await self._aadmit(jobs, on, _entering(members))
            return await self._way(on).arun(self._joining(members, admitted, by), on)

    def _joining(
        self, members: Sequence[Member], jobs: Sequence[NewJob], by: Context
    ) -> Operation[Added]:
        completed = [replace(each, job=job) for each, job in zip(members, jobs, strict=True)]
        notify = self._may_notify(_entering(members))
        return workflows.add(completed, job_id=by.id, claim_id=by.claim_id, notify=notify)

    def _enqueued(
        self, members: Sequence[Member], jobs: Sequence[NewJob], name: str, deadline: Deadline
    ) -> Operation[Added]:
        completed = [replace(each, job=job) for each, job in zip(members, jobs, strict=True)]
        notify = self._may_notify(_entering(members))
        return workflows.enqueue(completed, name=name, notify=notify, deadline=deadline)


def _entering(members: Sequence[Member]) -> list[NewJob]:
    """The jobs that wait for no other."""
    return [member.job for member in members if not member.waits]
