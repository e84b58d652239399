"""The operations on workflows and steps, sync and async: one line each, part of the clients."""

from __future__ import annotations

from typing import TypeVar

from pgqueue.checks import check_id, shown
from pgqueue.errors import WorkflowNotFound
from pgqueue.operations import Operation, steps, workflows
from pgqueue.operations.steps import StepRow
from pgqueue.operations.workflows import MemberRow, WorkflowRow

T = TypeVar("T")


def the_workflow(found: list[WorkflowRow], workflow_id: int) -> WorkflowRow:
    if not found:
        raise WorkflowNotFound(f"no workflow {shown(workflow_id)}: it never existed or was pruned")
    return found[0]


class WorkflowClient:
    """The part of ``Client`` for workflows."""

    def _run(self, operation: Operation[T], on: object) -> T:
        raise NotImplementedError

    def workflows(
        self,
        *,
        name: str | None = None,
        status: str | None = None,
        limit: int = 50,
        before: int | None = None,
        on: object = None,
    ) -> list[WorkflowRow]:
        """Workflows, newest first; ``status`` is running, succeeded, dead or cancelled."""
        operation = workflows.find(name=name, status=status, limit=limit, before=before)
        return self._run(operation, on)

    def workflow(self, workflow_id: int, *, on: object = None) -> WorkflowRow:
        """One workflow; raises WorkflowNotFound."""
        return the_workflow(
            self._run(workflows.find(check_id(workflow_id, "workflow_id")), on), workflow_id
        )

    def workflow_jobs(
        self, workflow_id: int, *, after: int = 0, limit: int = 1000, on: object = None
    ) -> list[MemberRow]:
        """The jobs of a workflow in order, from an id on."""
        return self._run(workflows.members(workflow_id, after=after, limit=limit), on)

    def steps(self, job_id: int, *, on: object = None) -> list[StepRow]:
        """What a job has done in steps, and what it sleeps or waits for, in the order in which it began."""
        return self._run(steps.find(job_id), on)

    def step_names(self, job_id: int, *, on: object = None) -> list[str]:
        """The names of a job's steps, sleeps and waits, in the order in which they began: a hundred."""
        return self._run(steps.names(job_id), on)

    def cancel_workflow(self, workflow_id: int, *, on: object = None) -> int:
        """Cancel all jobs of a workflow that have not ended, ask running ones to stop; how many."""
        return self._run(workflows.cancel(workflow_id), on)

    def retry_workflow(self, workflow_id: int, *, on: object = None) -> int:
        """Put its dead and cancelled jobs back; those that wait for others wait again; how many."""
        return self._run(workflows.retry(workflow_id), on)


class AsyncWorkflowClient:
    """The part of ``AsyncClient`` for workflows."""

    async def _run(self, operation: Operation[T], on: object) -> T:
        raise NotImplementedError

    async def workflows(
        self,
        *,
        name: str | None = None,
        status: str | None = None,
        limit: int = 50,
        before: int | None = None,
        on: object = None,
    ) -> list[WorkflowRow]:
        """Workflows, newest first; ``status`` is running, succeeded, dead or cancelled."""
        operation = workflows.find(name=name, status=status, limit=limit, before=before)
        return await self._run(operation, on)

    async def workflow(self, workflow_id: int, *, on: object = None) -> WorkflowRow:
        """One workflow; raises WorkflowNotFound."""
        return the_workflow(
            await self._run(workflows.find(check_id(workflow_id, "workflow_id")), on), workflow_id
        )

    async def workflow_jobs(
        self, workflow_id: int, *, after: int = 0, limit: int = 1000, on: object = None
    ) -> list[MemberRow]:
        """The jobs of a workflow in order, from an id on."""
        return await self._run(workflows.members(workflow_id, after=after, limit=limit), on)

    async def steps(self, job_id: int, *, on: object = None) -> list[StepRow]:
        """What a job has done in steps, and what it sleeps or waits for, in the order in which it began."""
        return await self._run(steps.find(job_id), on)

    async def step_names(self, job_id: int, *, on: object = None) -> list[str]:
        """The names of a job's steps, sleeps and waits, in the order in which they began: a hundred."""
        return await self._run(steps.names(job_id), on)

    async def cancel_workflow(self, workflow_id: int, *, on: object = None) -> int:
        """Cancel all jobs of a workflow that have not ended, ask running ones to stop; how many."""
        return await self._run(workflows.cancel(workflow_id), on)

    async def retry_workflow(self, workflow_id: int, *, on: object = None) -> int:
        """Put its dead and cancelled jobs back; those that wait for others wait again; how many."""
        return await self._run(workflows.retry(workflow_id), on)
