"""Threads that end with the process, whatever they do: one that never returns keeps no worker from ending."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LINGER = 1.0  # seconds that ``shutdown(wait=True)`` waits


class _Work:
    """A call, and where its result goes."""

    __slots__ = ("_call", "future")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self._call: Callable[[], Any] | None = call

    def run(self) -> None:
        call, self._call = self._call, None
        if call is None or not self.future.set_running_or_notify_cancel():
            return
        try:
            result = call()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class DaemonThreads(ThreadPoolExecutor):
    """At most ``most`` threads. The interpreter waits at its end for those of ThreadPoolExecutor, for ever; not for these.

    An event loop takes no other class as its default executor.
    """

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most, thread_name_prefix=name)
        self._most, self._name = most, name
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._started: list[threading.Thread] = []
        self._changing = threading.Lock()
        self._over = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As ThreadPoolExecutor. A thread that cannot be started is an error only while there is none."""
        work = _Work(lambda: fn(*args, **kwargs))
        with self._changing:
            if self._over:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._work.put(work)  # first: a thread that finds nothing to do counts as idle
            if not self._idle.acquire(blocking=False) and len(self._started) < self._most:
                self._start(work)
        return work.future

    def _start(self, work: _Work) -> None:
        name = f"{self._name}_{len(self._started)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._started and work.future.cancel():
                raise
        else:
            self._started.append(thread)

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get_nowait()
            except Empty:
                self._idle.release()
                work = self._work.get()
            if work is None:
                return
            work.run()
            del work

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As ThreadPoolExecutor, but wait a second at most."""
        with self._changing:
            self._over = True
        if cancel_futures:
            with suppress(Empty):
                while True:
                    if (work := self._work.get_nowait()) is not None:
                        work.future.cancel()
        for _ in self._started:
            self._work.put(None)
        deadline = time.monotonic() + LINGER
        while wait and any(thread.is_alive() for thread in self._started):
            if (left := deadline - time.monotonic()) <= 0:
                return
            next(t for t in self._started if t.is_alive()).join(min(left, 0.05))


async def in_thread(
    threads: DaemonThreads, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """As ``asyncio.to_thread``, in these threads: handlers may hold all of the event loop's own."""
    bound = partial(copy_context().run, call, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(threads, bound)
