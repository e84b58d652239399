"""SIGTERM and SIGINT stop the worker, also after a handler has changed what they do."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any, ClassVar

from pgqueue.worker.service import Service

LOOK_EVERY = 1.0


class Signals(Service):
    """Keeps the signal handlers of the process; a job runs in it and may change them."""

    name: ClassVar[str] = "signals"

    def __init__(self, stop: Callable[[], None]) -> None:
        super().__init__()
        self._stop = stop
        self._events = asyncio.get_running_loop()
        self._installed: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._events.add_signal_handler(number, self._stop)
            self._installed[number] = signal.getsignal(number)

    def remove(self) -> None:
        for number in self._installed:
            self._events.remove_signal_handler(number)

    async def run_once(self) -> float:
        for number, handler in list(self._installed.items()):
            if signal.getsignal(number) != handler:
                self.log.warning("a job changed the handler of %s: put back", number.name)
                self._events.remove_signal_handler(number)
                self._events.add_signal_handler(number, self._stop)
                self._installed[number] = signal.getsignal(number)
        return LOOK_EVERY
