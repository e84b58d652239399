"""Tracks the running steps of a handler, so that none is left behind when the handler suspends or ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from pgqueue.control import Suspended, suspension
from pgqueue.errors import PgQueueError

T = TypeVar("T")

# A step whose caller was cancelled (asyncio.timeout, a TaskGroup) has this long to end, in seconds.
CANCELLED_WITHIN = 3.0
# Before a job suspends, seconds: for tasks beside the wait that have done steps, to reach the next or to end; and for a
# handler of which it is not known whether it waits for that wait.
BUSY, QUIET = 10.0, 1.0

_INSIDE: ContextVar[object] = ContextVar("pgqueue_step", default=None)


class RunningSteps:
    """The steps that a handler is running, in tasks or threads of their own, and its waits that are to suspend it.

    A step that has begun is finished and stored, whatever becomes of who called it. A wait lets the run suspend only
    when nothing is in hand any more.

    Args:
        main: gives the task that runs the handler, or the identity of its thread.
    """

    def __init__(self, main: Callable[[], object]) -> None:
        self.reading = threading.Lock()
        self.areading = asyncio.Lock()
        self._over = False
        self._main = main
        self._running: set[asyncio.Task[Any]] = set()
        self._callers: set[asyncio.Task[Any]] = set()
        self._parked: dict[asyncio.Task[Any], float] = {}
        self._changed = asyncio.Event()
        self._told: list[tuple[bool, float]] = []  # suspensions: of the handler itself, seconds
        self._passed = 0  # waits beside the handler that got what they waited for
        self._cancelled: float | None = None  # the handler was, to suspend for so long
        self._threads = 0
        self._free = threading.Condition()

    # In threads.

    @contextmanager
    def step_here(self) -> Iterator[None]:
        """A step of a sync handler, in this thread, while the block lasts."""
        with self._free:
            if self._over and _INSIDE.get() is not self:
                raise PgQueueError(
                    "the handler has returned, and its job has ended: wait for your threads before it returns"
                )
            self._threads += 1
        token = _INSIDE.set(self)
        try:
            yield
        finally:
            _INSIDE.reset(token)
            with self._free:
                self._threads -= 1
                self._free.notify_all()

    def suspend_here(self, seconds: float) -> Suspended:
        """What a wait in a thread raises."""
        self._told.append((threading.get_ident() == self._main(), seconds))
        return Suspended(seconds)

    def end_here(
        self, value: Any, raised: BaseException | None
    ) -> tuple[Any, BaseException | None]:
        """What a sync handler came to, once the steps of its threads are stored."""
        with self._free:
            self._over = True
            self._free.wait_for(lambda: not self._threads)
        return self._came_to(value, raised)

    # On an event loop.

    async def step(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do a step in a task of its own, and wait for it."""
        self.enter()
        task = asyncio.create_task(self._inside(call))
        self._running.add(task)
        task.add_done_callback(self._ran)
        try:
            value, exited = await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done() and not self._over:
                asyncio.get_running_loop().call_later(CANCELLED_WITHIN, task.cancel)
            raise
        if exited is not None:
            raise exited
        return value

    async def _inside(
        self, call: Callable[[], Coroutine[Any, Any, T]]
    ) -> tuple[T, None] | tuple[Any, BaseException]:
        _INSIDE.set(self)
        try:
            return await call(), None
        except (SystemExit, KeyboardInterrupt) as error:  # a task that raised it would end its loop
            return None, error

    def passed(self) -> None:
        """A wait got what it waited for, or was over."""
        self._passed += _here() is not self._main()

    async def suspend(self, seconds: float) -> Suspended:
        """What a wait raises, once nothing is in hand any more: until then it stands still."""
        caller = self.enter()
        own = caller is self._main()
        if not own:
            caller.add_done_callback(_heard)
        if not own or self._running or len(self._callers) > 1:
            self._parked[caller] = seconds
            self._changed.set()
            try:
                await self._until_quiet(own)
            finally:
                del self._parked[caller]
        self._told.append((own, seconds))
        return Suspended(seconds)

    async def _until_quiet(self, own: bool) -> None:
        """Stand still while something is in hand; a handler that stands still for such waits as well is cancelled."""
        while True:
            self._changed.clear()
            busy = self._running or self._callers - self._parked.keys() - {self._main()}
            if not busy and (own or self._main_stands()):
                if own:
                    return
                self._cancel_main()
            still = self._running or self._cancelled is not None or self._main() in self._parked
            try:
                async with asyncio.timeout(None if still else BUSY if busy else QUIET):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _main_stands(self) -> bool:
        """Is the handler in ``gather`` with such a wait, or awaiting one? Of other ways to wait nothing is known."""
        waits_for = getattr(self._main(), "_fut_waiter", None)
        parts = getattr(waits_for, "_children", None) or [waits_for]
        return any(part in self._parked for part in parts) and all(
            part in self._parked or part.done() for part in parts
        )

    def _cancel_main(self) -> None:
        main = self._main()
        if self._cancelled is None and isinstance(main, asyncio.Task):
            self._cancelled = min(self._parked.values())
            main.cancel()

    def enter(self) -> asyncio.Task[Any]:
        """The current task has come to a step or a wait; CancelledError if the handler has ended."""
        caller = asyncio.current_task()
        assert caller is not None
        if _INSIDE.get() is self:
            return caller
        if self._over:  # it was left running beside the handler, which has ended
            raise asyncio.CancelledError
        if caller not in self._callers:
            self._callers.add(caller)
            caller.add_done_callback(self._left)
        self._changed.set()
        return caller

    def _left(self, caller: asyncio.Task[Any]) -> None:
        self._callers.discard(caller)
        self._changed.set()

    def _ran(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._changed.set()

    def stop(self) -> None:
        """The worker ends this run: what is in hand is cancelled."""
        for task in list(self._running):
            task.cancel()

    async def end(
        self, value: Any, raised: BaseException | None
    ) -> tuple[Any, BaseException | None]:
        """What an async handler came to, once its steps in hand are stored and what it left running is cancelled."""
        self._over = True
        main = self._main()
        stopped: BaseException | None = None
        while self._running:
            try:
                await asyncio.wait(set(self._running))
            except asyncio.CancelledError as error:  # by the worker, which knows why
                stopped = error
                self.stop()
        left = {task for task in self._callers if task is not main}
        for task in left:
            task.add_done_callback(_heard)
            task.cancel()
        if left:
            try:
                await asyncio.wait(left, timeout=QUIET)
            except asyncio.CancelledError as error:
                stopped = error
        if self._cancelled is not None and isinstance(main, asyncio.Task):
            main.uncancel()
        return (None, stopped) if stopped is not None else self._came_to(value, raised)

    def _came_to(
        self, value: Any, raised: BaseException | None
    ) -> tuple[Any, BaseException | None]:
        if self._cancelled is not None and isinstance(raised, asyncio.CancelledError | None):
            return None, Suspended(self._cancelled)
        shortest = min((seconds for _, seconds in self._told), default=0.0)
        if raised is None and self._told:
            # Whoever caught a suspension of the handler's own, or took one for a value, has not got what it waited for.
            if any(own for own, _ in self._told) or not self._passed:
                return None, Suspended(shortest)
        elif raised is not None and self._told and suspension(raised) is not None:
            return None, Suspended(shortest)
        return value, raised


def _here() -> object:
    if asyncio._get_running_loop() is None:
        return threading.get_ident()
    return asyncio.current_task()


def _heard(task: asyncio.Task[Any]) -> None:
    """Of how it ended nobody is to be told any more."""
    if not task.cancelled():
        task.exception()


def inside_step(steps: RunningSteps | None) -> bool:
    """Is this the function of a step of that run?"""
    return steps is not None and _INSIDE.get() is steps
