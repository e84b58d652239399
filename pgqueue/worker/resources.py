"""What an app opens once per worker, for its handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any


class Resources:
    """Opens all when the worker starts, closes them in reverse order when it has ended.

    One task does both: a task group or a timeout of asyncio ends in the task where it began.
    """

    def __init__(self, factories: Mapping[type, Callable[[], Any]]) -> None:
        self._factories = factories
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.opened: dict[type, Any] = {}

    async def open(self) -> None:
        """Open all; what one raises ends the worker."""
        if not self._factories:
            return
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = self._task = asyncio.create_task(self._hold(ready), name="resources")
        try:
            await ready
        except asyncio.CancelledError:
            task.cancel()
            raise

    async def _hold(self, ready: asyncio.Future[None]) -> None:
        try:
            async with AsyncExitStack() as stack:
                for kind, factory in self._factories.items():
                    manager = factory()
                    if isinstance(manager, AbstractAsyncContextManager):
                        self.opened[kind] = await stack.enter_async_context(manager)
                    else:
                        self.opened[kind] = stack.enter_context(manager)
                if not ready.done():
                    ready.set_result(None)
                await self._closing.wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def close(self) -> None:
        """Close what is open."""
        self._closing.set()
        if self._task is not None:
            await self._task
