"""Jobs that wait for each other: chains, batches, graphs. Built here, inserted in one statement."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal, Protocol, get_args

from pgqueue.checks import check_id, several, shown, storable_text
from pgqueue.context import Context
from pgqueue.durations import Duration, seconds
from pgqueue.errors import ConfigError, StepChanged
from pgqueue.job import NewJob, check_run_at
from pgqueue.operations.workflows import Added, Deadline, Member
from pgqueue.reference import Referring, ResultOf, names_in
from pgqueue.task import Handle

IfFailed = Literal["cancel", "continue", "hold", "only"]
Ended = Literal["succeeded", "failed", "skipped", "not ended"]
Becomes = Literal["runs", "waits", "cancelled", "skipped"]


def becomes(if_failed: str, ends: Collection[Ended]) -> Becomes:
    """What becomes of a job of a workflow by the ends of those it waits for, none of which is gone.

    The database decides it by ``pgqueue.settle``; this is for workflows that are run without one.
    """
    failed, waits = "failed" in ends, "not ended" in ends
    if failed and if_failed in ("cancel", "only"):
        return "runs" if if_failed == "only" else "cancelled"
    if waits or (failed and if_failed == "hold"):
        return "waits"
    if if_failed == "only":
        return "skipped"
    needed = if_failed == "continue" or not ends or "succeeded" in ends
    return "runs" if needed else "skipped"


class Node:
    """A job of a workflow before it is enqueued."""

    def __init__(
        self, workflow: Workflow, job: NewJob | None, name: str | None, if_failed: IfFailed
    ) -> None:
        self.workflow, self.job, self.name, self.if_failed = workflow, job, name, if_failed
        self.id: int | None = None  # once it is there
        self.parents: dict[Node, None] = {}

    def __repr__(self) -> str:
        return f"<Node {self.said}>"

    @property
    def said(self) -> str:
        """What to call it in a sentence."""
        return self.name or (f"job {self.id}" if self.job is None else self.job.task)

    @property
    def result(self) -> Any:
        """What it will have returned, as an argument of a job after it; None if it failed."""
        if self.name is None:
            if self.job is None:
                raise ConfigError(
                    f"the result of job {self.id} is taken by its name: give the job one when it is added, and take"
                    ' named("...").result'
                )
            self.name = self.workflow._named_anew(self.job.task)
            self.workflow._named[self.name] = self
        return ResultOf(self.name, self.workflow)

    def then(self, job: NewJob, *, name: str | None = None, if_failed: IfFailed = "cancel") -> Node:
        """Add a job that runs after this one; returns the new one, for the next ``then``."""
        return self.workflow.add(job, after=self, name=name, if_failed=if_failed)

    def wait_for(self, *others: Node) -> None:
        """Run it after these as well.

        Raises:
            ConfigError: one is of another workflow, or is this one. A longer circle is found when the
                workflow is enqueued.
        """
        for other in others:
            if not isinstance(other, Node) or other.workflow is not self.workflow:
                raise ConfigError(
                    f"{shown(other)} is no job of this workflow: after and wait_for take what add() returns"
                )
            if other is self:
                raise ConfigError(f"{self!r} would wait for itself, so it would never run")
            self.parents[other] = None


def deadline_of(value: datetime | Duration | None) -> Deadline:
    """A time, or seconds from when the workflow is enqueued.

    Raises:
        ConfigError: a time without a time zone, or a duration that is negative or over 365 days.
    """
    if isinstance(value, datetime):
        return check_run_at(value, "deadline")
    return None if value is None else seconds(value, name="deadline")


class Sends(Protocol):
    """What a workflow needs of its app."""

    def send_workflow(
        self, members: Sequence[Member], name: str, on: object, deadline: Deadline = None
    ) -> Added: ...

    async def asend_workflow(
        self, members: Sequence[Member], name: str, on: object, deadline: Deadline = None
    ) -> Added: ...

    def add_members(self, members: Sequence[Member], by: Context, on: object) -> Added: ...

    async def aadd_members(self, members: Sequence[Member], by: Context, on: object) -> Added: ...


@dataclass(frozen=True, slots=True)
class EnqueuedWorkflow:
    """A workflow that was enqueued, with the handles of its jobs."""

    id: int
    name: str
    _handles: dict[Node, Handle[Any]] = field(repr=False)

    @property
    def jobs(self) -> list[Handle[Any]]:
        """The handles of its jobs, in the order they were added."""
        return list(self._handles.values())

    def __getitem__(self, node: Node) -> Handle[Any]:
        return self._handles[node]


class Workflow:
    """Jobs and which of them waits for which.

    ``add`` them, use ``node.result`` as an argument of those after it, then ``enqueue``: all or none,
    also in the caller's transaction.
    """

    def __init__(
        self, app: Sends, name: str = "", *, deadline: datetime | Duration | None = None
    ) -> None:
        if not isinstance(name, str) or len(name) > 200 or not (name.isprintable() or not name):
            raise ConfigError("the name of a workflow has at most 200 printable characters")
        self.name = name
        self.deadline: Deadline = deadline_of(deadline)
        self._app = app
        self._nodes: list[Node] = []
        self._named: dict[str, Node] = {}
        self._counts: dict[str, int] = {}

    def add(
        self,
        job: NewJob,
        *,
        after: Node | Iterable[Node] = (),
        name: str | None = None,
        if_failed: IfFailed = "cancel",
    ) -> Node:
        """Add a job.

        Args:
            job: made by ``task.call(...)`` or ``app.dispatch(job).call()``. Its ``with_delay`` counts from
                the end of the last it waits for.
            after: those it waits for; those whose ``result`` it takes are among them anyhow.
            name: unique in the workflow, 1 to 200 characters; for people, and for SQL.
            if_failed: when one it waits for ends dead or cancelled: "cancel" it; "continue" as if that
                had ended well (its result is None); "hold" it until that one is retried and succeeds;
                "only": run it as soon as one has failed, and not otherwise.

        Raises:
            ConfigError: it is no job, is unique, or the name is taken.
        """
        if not isinstance(job, NewJob):
            raise ConfigError(
                f"a job of a workflow is what task.call(...) returns, got {type(job).__name__}"
            )
        if job.key is not None:
            raise ConfigError(
                f"{job.task}: a job of a workflow cannot be unique: its id is its own"
            )
        if not isinstance(if_failed, str) or if_failed not in get_args(IfFailed):
            allowed = ", ".join(get_args(IfFailed))
            raise ConfigError(f"if_failed must be one of {allowed}, got {shown(if_failed)}")
        if name is not None and not 1 <= len(storable_text(name, "name")) <= 200:
            raise ConfigError(f"the name of a job has 1 to 200 characters, got {shown(name)}")
        if name in self._named:
            raise ConfigError(f"the name {name!r} is taken: give one of the jobs another")
        node = Node(self, job, name, if_failed)
        node.wait_for(*([after] if isinstance(after, Node) else several(after, "after", "jobs")))
        self._check_results(job)
        for wanted in names_in(job.args):
            if wanted not in self._named:
                raise ConfigError(
                    f"{job.task} takes the result of {wanted!r}, which is not in here"
                )
            node.wait_for(self._named[wanted])
        if name is not None:
            self._named[name] = node
        self._nodes.append(node)
        return node

    def _check_results(self, job: NewJob) -> None:
        """Are the results that it takes of jobs in here, and not of namesakes of theirs?"""
        for wanted in job.args.results if isinstance(job.args, Referring) else ():
            if wanted.workflow is not self:
                raise ConfigError(
                    f"{job.task} takes the result of {wanted.name!r}, which is not in here but in another"
                    " workflow: add both jobs to one"
                )

    def _named_anew(self, task: str) -> str:
        base = task.rpartition(".")[2][:150] or "job"
        number = self._counts.get(base, 0) + 1
        while (name := base if number == 1 else f"{base}-{number}") in self._named:
            number += 1
        self._counts[base] = number
        return name

    def members(self) -> tuple[list[Node], list[Member]]:
        """The jobs in an order in which each comes after those it waits for.

        Raises:
            ConfigError: there are none, some wait for each other in a circle, or one is to run only if another
                failed and waits for none.
        """
        if not self._nodes:
            raise ConfigError("a workflow without jobs: add() some")
        for node in self._nodes:
            if node.if_failed == "only" and not node.parents:
                raise ConfigError(
                    f'{node!r} has if_failed="only" and waits for no job, so it would never run: give add() its'
                    " after=, or call wait_for()"
                )
        order = self._nodes
        place = {node: number for number, node in enumerate(order, 1)}
        if any(place.get(parent, 0) > place[node] for node in order for parent in node.parents):
            order = self._sorted()
            place = {node: number for number, node in enumerate(order, 1)}
        return order, [
            self._member(node, node.job, place) for node in order if node.job is not None
        ]

    @staticmethod
    def _member(node: Node, job: NewJob, place: Mapping[Node, int]) -> Member:
        there = [parent for parent in node.parents if parent not in place]
        return Member(
            job,
            node.name,
            [place[parent] for parent in node.parents if parent in place],
            node.if_failed,
            [parent.id for parent in there if parent.id is not None],
            [parent.name for parent in there if parent.id is None and parent.name is not None],
        )

    def _sorted(self) -> list[Node]:
        new = set(self._nodes)
        try:
            graph = TopologicalSorter({n: n.parents.keys() & new for n in self._nodes})
            return list(graph.static_order())
        except CycleError as error:
            names = " -> ".join(n.said for n in error.args[1])
            raise ConfigError(f"jobs that wait for each other in a circle: {names}") from None

    def enqueue(self, *, on: object = None) -> EnqueuedWorkflow:
        """Insert all its jobs, or none. ``on``: the caller's connection, as for ``enqueue_many``.

        Raises:
            ConfigError: it has no jobs, they wait for each other in a circle, or one is to run only if another
                failed and waits for none.
        """
        order, members = self.members()
        return self._made(order, self._app.send_workflow(members, self.name, on, self.deadline))

    async def aenqueue(self, *, on: object = None) -> EnqueuedWorkflow:
        """The same, awaited."""
        order, members = self.members()
        return self._made(
            order, await self._app.asend_workflow(members, self.name, on, self.deadline)
        )

    def _made(self, order: list[Node], added: Added) -> EnqueuedWorkflow:
        ids = dict(zip(order, added.job_ids, strict=True))
        sender: Any = self._app
        handles: dict[Node, Handle[Any]] = {
            node: Handle(ids[node], node.job.task, "inserted", sender)
            for node in self._nodes
            if node.job is not None
        }
        return EnqueuedWorkflow(added.id, self.name, handles)


class RunningWorkflow(Workflow):
    """The workflow of a running job, for the jobs that it adds: they belong to it, and it ends when they have ended, too.

    ``add`` them, after jobs of the workflow if they are to wait for them, then ``enqueue``: all or none.
    """

    def __init__(self, app: Sends, context: Context) -> None:
        super().__init__(app)
        if context.workflow_id is None:
            raise ConfigError(
                f"job {context.id} is in no workflow: enqueue it in one, or enqueue a workflow of its own"
            )
        self.id = context.workflow_id
        self._context = context
        self._there: dict[int, Node] = {}

    @property
    def this(self) -> Node:
        """The running job itself, for ``after=``."""
        return self.job(self._context.id)

    def job(self, job: int | Handle[Any]) -> Node:
        """A job of the workflow, by its id or handle, for ``after=``."""
        job_id = check_id(job.id if isinstance(job, Handle) else job)
        if job_id not in self._there:
            self._there[job_id] = node = Node(self, None, None, "cancel")
            node.id = job_id
        return self._there[job_id]

    def named(self, name: str) -> Node:
        """A job of the workflow, by its name: for ``after=``, and for its ``result``."""
        if not isinstance(name, str) or not 1 <= len(storable_text(name, "name")) <= 200:
            raise ConfigError(f"the name of a job has 1 to 200 characters, got {shown(name)}")
        if name not in self._named:
            self._named[name] = Node(self, None, name, "cancel")
        return self._named[name]

    def _named_anew(self, task: str) -> str:
        # Others may add jobs of this task as well.
        return super()._named_anew(f"{task[:150]} of {self._context.id}")

    def enqueue(self, *, name: str = "add jobs", on: object = None) -> EnqueuedWorkflow:
        """Add these jobs to the workflow, all or none, and once: in a step of the running job.

        Args:
            name: of the step; a second one in a run needs a name of its own.
            on: the connection of ``ctx.transaction()`` or of a ``transaction_step``, in whose transaction they are
                added instead: no step of their own.

        Raises:
            ConfigError: there are none, they wait for each other in a circle or for a job of another workflow, or a
                name is taken.
            WorkflowClosed: the running job, or its workflow, is cancelled.
            ClaimLost: the job is no longer this worker's.
            StepChanged: the step of this name added another number of jobs.
        """
        if on is None and asyncio._get_running_loop() is not None:
            raise ConfigError("in an async handler jobs are added by: await flow.aenqueue()")
        order, members = self.members()
        if on is not None:
            return self._joined(order, self._app.add_members(members, self._context, on))

        def add(connection: object) -> list[int]:
            return self._app.add_members(members, self._context, connection).job_ids

        return self._again(name, order, self._context.transaction_step(name, add))

    async def aenqueue(self, *, name: str = "add jobs", on: object = None) -> EnqueuedWorkflow:
        """The same, awaited."""
        order, members = self.members()
        if on is not None:
            return self._joined(order, await self._app.aadd_members(members, self._context, on))

        async def add(connection: object) -> list[int]:
            return (await self._app.aadd_members(members, self._context, connection)).job_ids

        return self._again(name, order, await self._context.transaction_step(name, add))

    def _again(self, name: str, order: list[Node], job_ids: list[int]) -> EnqueuedWorkflow:
        if len(job_ids) != len(order):
            raise StepChanged(
                f"step {name!r} of job {self._context.id} added {len(job_ids)} jobs, and adds {len(order)} in this run:"
                " take what varies from steps, or give what is new another name"
            )
        return self._joined(order, Added(self.id, job_ids))

    def _joined(self, order: list[Node], added: Added) -> EnqueuedWorkflow:
        made = self._made(order, added)
        for node, job_id in zip(order, added.job_ids, strict=True):
            node.id = job_id
        self._nodes = []
        return made
