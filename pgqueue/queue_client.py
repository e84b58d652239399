"""The operations on queues, tasks and workers, sync and async: one line each, part of the clients."""

from __future__ import annotations

from typing import Unpack

from pgqueue.job import check_name, check_queue
from pgqueue.limits import limits_of
from pgqueue.operations import limits, maintenance, queues
from pgqueue.operations.limits import LimitRow
from pgqueue.operations.maintenance import Paused, QueueStats, WorkerRow
from pgqueue.operations.queues import QueueRow
from pgqueue.queues import QueueGiven
from pgqueue.schedule_client import AsyncScheduleClient, ScheduleClient
from pgqueue.workflow_client import AsyncWorkflowClient, WorkflowClient


class QueueClient(ScheduleClient, WorkflowClient):
    """The part of ``Client`` for queues."""

    def stats(self, *, on: object = None) -> list[QueueStats]:
        """Statistics of every queue, of more than a thousand those of the first."""
        return self._run(maintenance.stats(), on)

    def known_names(self, *, on: object = None) -> dict[str, set[str]]:
        """The names of queues and of tasks that the database has, by "queue" and "task"."""
        return self._run(queues.known_names(), on)

    def workers(self, *, on: object = None) -> list[WorkerRow]:
        """Workers that are alive, the first thousand."""
        return self._run(maintenance.workers(), on)

    def pause(self, queue: str, *, on: object = None) -> None:
        """Stop claims from a queue, or from all by ``*``; running jobs go on."""
        return self._run(maintenance.pause(queue), on)

    def resume(self, queue: str, *, on: object = None) -> bool:
        """Let a queue be claimed from again; False if it was not paused."""
        return self._run(maintenance.resume(queue), on)

    def pause_task(self, task: str, *, on: object = None) -> None:
        """Stop claims of jobs of a task, in whatever queue; running jobs go on."""
        return self._run(maintenance.pause_task(task), on)

    def resume_task(self, task: str, *, on: object = None) -> bool:
        """Let jobs of a task be claimed again; False if it was not paused."""
        return self._run(maintenance.resume_task(task), on)

    def paused(self, *, on: object = None) -> list[Paused]:
        """What is paused: queues (``*`` stands for all) and tasks, the first thousand."""
        return self._run(maintenance.paused(), on)

    def queues(self, *, on: object = None) -> list[QueueRow]:
        """The queues that have settings or are declared in code, the first thousand."""
        return self._run(queues.find(), on)

    def queue(self, queue: str, *, on: object = None) -> QueueRow | None:
        """The settings of a queue; None if it has none and no code declares it."""
        found: list[QueueRow] = self._run(queues.find(check_queue(queue)), on)
        return found[0] if found else None

    def set_queue(self, queue: str, *, on: object = None, **settings: Unpack[QueueGiven]) -> None:
        """Change the settings of a queue that are given, as ``app.queue`` takes them; None takes one off.

        They hold until the code declares something else.

        Raises:
            ConfigError: one of them is not usable.
            TypeError: there is no such setting.
        """
        return self._run(queues.put(queue, **settings), on)

    def limit_queue(
        self,
        queue: str,
        *,
        limit: int | None = None,
        rate: str | float | None = None,
        burst: int | None = None,
        on: object = None,
    ) -> None:
        """Set how many jobs of a queue run at once and how fast they start, over all workers; none: no limits.

        Raises:
            ConfigError: one of them is not usable.
        """
        operation = limits.put("queue", check_queue(queue), limits_of(limit, rate, burst))
        return self._run(operation, on)

    def limit_task(
        self,
        task: str,
        *,
        limit: int | None = None,
        rate: str | float | None = None,
        burst: int | None = None,
        on: object = None,
    ) -> None:
        """The same for each key of a task that declares limits."""
        operation = limits.put("task", check_name(task), limits_of(limit, rate, burst))
        return self._run(operation, on)

    def limits(self, *, on: object = None) -> list[LimitRow]:
        """The limits of queues and of tasks, the first thousand."""
        return self._run(limits.find(), on)


class AsyncQueueClient(AsyncScheduleClient, AsyncWorkflowClient):
    """The part of ``AsyncClient`` for queues."""

    async def stats(self, *, on: object = None) -> list[QueueStats]:
        """Statistics of every queue, of more than a thousand those of the first."""
        return await self._run(maintenance.stats(), on)

    async def known_names(self, *, on: object = None) -> dict[str, set[str]]:
        """The names of queues and of tasks that the database has, by "queue" and "task"."""
        return await self._run(queues.known_names(), on)

    async def workers(self, *, on: object = None) -> list[WorkerRow]:
        """Workers that are alive, the first thousand."""
        return await self._run(maintenance.workers(), on)

    async def pause(self, queue: str, *, on: object = None) -> None:
        """Stop claims from a queue, or from all by ``*``; running jobs go on."""
        return await self._run(maintenance.pause(queue), on)

    async def resume(self, queue: str, *, on: object = None) -> bool:
        """Let a queue be claimed from again; False if it was not paused."""
        return await self._run(maintenance.resume(queue), on)

    async def pause_task(self, task: str, *, on: object = None) -> None:
        """Stop claims of jobs of a task, in whatever queue; running jobs go on."""
        return await self._run(maintenance.pause_task(task), on)

    async def resume_task(self, task: str, *, on: object = None) -> bool:
        """Let jobs of a task be claimed again; False if it was not paused."""
        return await self._run(maintenance.resume_task(task), on)

    async def paused(self, *, on: object = None) -> list[Paused]:
        """What is paused: queues (``*`` stands for all) and tasks, the first thousand."""
        return await self._run(maintenance.paused(), on)

    async def queues(self, *, on: object = None) -> list[QueueRow]:
        """The queues that have settings or are declared in code, the first thousand."""
        return await self._run(queues.find(), on)

    async def queue(self, queue: str, *, on: object = None) -> QueueRow | None:
        """The settings of a queue; None if it has none and no code declares it."""
        found: list[QueueRow] = await self._run(queues.find(check_queue(queue)), on)
        return found[0] if found else None

    async def set_queue(
        self, queue: str, *, on: object = None, **settings: Unpack[QueueGiven]
    ) -> None:
        """Change the settings of a queue that are given, as ``app.queue`` takes them; None takes one off.

        They hold until the code declares something else.

        Raises:
            ConfigError: one of them is not usable.
            TypeError: there is no such setting.
        """
        return await self._run(queues.put(queue, **settings), on)

    async def limit_queue(
        self,
        queue: str,
        *,
        limit: int | None = None,
        rate: str | float | None = None,
        burst: int | None = None,
        on: object = None,
    ) -> None:
        """Set how many jobs of a queue run at once and how fast they start, over all workers; none: no limits.

        Raises:
            ConfigError: one of them is not usable.
        """
        operation = limits.put("queue", check_queue(queue), limits_of(limit, rate, burst))
        return await self._run(operation, on)

    async def limit_task(
        self,
        task: str,
        *,
        limit: int | None = None,
        rate: str | float | None = None,
        burst: int | None = None,
        on: object = None,
    ) -> None:
        """The same for each key of a task that declares limits."""
        operation = limits.put("task", check_name(task), limits_of(limit, rate, burst))
        return await self._run(operation, on)

    async def limits(self, *, on: object = None) -> list[LimitRow]:
        """The limits of queues and of tasks, the first thousand."""
        return await self._run(limits.find(), on)
