"""What a handler does to the event loop that it shares fails its own job, and no other.

A SystemExit or KeyboardInterrupt of its asyncio tasks would end the loop: both pass through ``Task.__step`` into
``run_forever``, which raises them. So would ``loop.stop()``, and the cancellation of all tasks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
EXITS = (SystemExit, KeyboardInterrupt)
IN_JOB: ContextVar[bool] = ContextVar("pgqueue_in_job", default=False)

log = logging.getLogger("pgqueue.job")


class Exited(BaseException):
    """A task that a handler started raised SystemExit or KeyboardInterrupt, its cause."""


class JobTask(asyncio.Task[T]):
    """The task of a job: no other job can cancel it."""

    def cancel(self, msg: Any | None = None) -> bool:
        caller = asyncio.current_task() if IN_JOB.get() else None
        if isinstance(caller, JobTask) and caller is not self:
            log.error("a job cancelled the task of another: it goes on")
            return False
        return super().cancel(msg)


class OwnTask(asyncio.Task[T]):
    """A task of the worker itself: no job can cancel it."""

    def cancel(self, msg: Any | None = None) -> bool:
        if IN_JOB.get():
            log.error("a job cancelled a task of its worker: it goes on")
            return False
        return super().cancel(msg)


def own_tasks(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    """The task factory of a loop that is the worker's alone."""
    context = options.get("context")
    in_job = IN_JOB.get() if context is None else context.get(IN_JOB, False)
    return (asyncio.Task if in_job else OwnTask)(coro, loop=loop, **options)


def run_to_end(runner: asyncio.Runner, main: Coroutine[Any, Any, T]) -> T:
    """Run the worker in an event loop of its own, and go on whatever is raised out of this loop, or stops it.

    The task that raised has the error as its result, so whoever awaits it hears of it.
    """
    loop = runner.get_loop()
    task = loop.create_task(main)
    while True:
        ran: list[bool] = []
        loop.call_soon(ran.append, True)
        try:
            return loop.run_until_complete(task)
        except RuntimeError:
            if task.done() or not ran:  # another loop runs in this thread
                raise
            log.error("a job stopped the event loop: the worker goes on")
        except EXITS as error:
            if task.done():
                raise
            log.error("a task or a callback of a job raised %r: the worker goes on", error)


@contextmanager
def contained() -> Iterator[None]:
    """In an event loop of others: tasks that handlers start raise ``Exited`` in place of these errors."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    factory = before if isinstance(before, _Factory) else _Factory(before)
    loop.set_task_factory(factory)
    factory.workers += 1
    try:
        yield
    finally:
        factory.workers -= 1
        if factory.workers == 0 and loop.get_task_factory() is factory:
            loop.set_task_factory(factory.before)


class _Factory:
    """Makes the tasks of a loop; ``before``: the factory whose place it takes; ``workers`` in this loop."""

    def __init__(self, before: Any) -> None:
        self.before = before
        self.workers = 0

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
    ) -> asyncio.Future[Any]:
        context = options.get("context")
        in_job = IN_JOB.get() if context is None else context.get(IN_JOB, False)
        if not in_job:
            return self._make(loop, coro, options)
        made = self._make(loop, _without_exits(coro), options)
        # One that is cancelled before its first step never begins to await the coroutine, which would be said.
        made.add_done_callback(lambda _: coro.close())
        return made

    def _make(
        self, loop: asyncio.AbstractEventLoop, coro: Any, options: dict[str, Any]
    ) -> asyncio.Future[Any]:
        if self.before is None:
            return asyncio.Task(coro, loop=loop, **options)
        made: asyncio.Future[Any] = self.before(loop, coro, **options)
        return made


async def _without_exits(task: Awaitable[T]) -> T:
    try:
        return await task
    except EXITS as error:
        raise Exited(f"a task of the handler raised {error!r}") from error
