"""What an app opens once per worker, for its handlers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any


class Resources:
    """Opens all when the worker starts, closes them in reverse order when it has ended."""

    def __init__(self, factories: Mapping[type, Callable[[], Any]]) -> None:
        self._factories = factories
        self._stack = AsyncExitStack()
        self.opened: dict[type, Any] = {}

    async def open(self) -> None:
        """Open all; what one raises ends the worker."""
        for kind, factory in self._factories.items():
            manager = factory()
            if isinstance(manager, AbstractAsyncContextManager):
                self.opened[kind] = await self._stack.enter_async_context(manager)
            else:
                self.opened[kind] = self._stack.enter_context(manager)

    async def close(self) -> None:
        await self._stack.aclose()
