"""SIGTERM and SIGINT stop the worker, also after a handler has changed what they do."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from typing import Any, ClassVar

from pgqueue.worker.service import Service

LOOK_EVERY = 1.0


def say_waiting(what: str) -> None:
    """To whom pressed Ctrl-C on a terminal: why it does not end at once, and how it would."""
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"\nwaiting for {what}; Ctrl-C again to stop now\n")


def heeded() -> list[signal.Signals]:
    """The signals that end a worker: a lost terminal too, unless the process was told to outlive it (nohup)."""
    outlives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if outlives else [signal.SIGHUP])]


class Signals(Service):
    """Keeps the signal handlers of the process; a job runs in it and may change them.

    Args:
        stop: called in the event loop for each signal.
        running: how many jobs run.
        heard: called for each signal at once, in the handler, though the event loop may be blocked.
    """

    name: ClassVar[str] = "signals"

    def __init__(
        self, stop: Callable[[], None], running: Callable[[], int], heard: Callable[[], None]
    ) -> None:
        super().__init__()
        self._heard = heard
        self._stop, self._running = stop, running
        self._interrupts = 0
        self._events = asyncio.get_running_loop()
        self._installed: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        for number in heeded():
            self._install(number)

    def _install(self, number: signal.Signals) -> None:
        self._events.add_signal_handler(number, self._heed, number)
        # The event loop hears of signals by a descriptor, whatever the handler does.
        signal.signal(number, lambda *_: self._heard())
        self._installed[number] = signal.getsignal(number)

    def _heed(self, number: signal.Signals) -> None:
        if number is signal.SIGINT:
            self._interrupts += 1
            if self._interrupts == 1 and (running := self._running()):
                say_waiting(f"{running} job{'' if running == 1 else 's'}")
        self._stop()

    def remove(self) -> None:
        for number in self._installed:
            self._events.remove_signal_handler(number)

    async def run_once(self) -> float:
        for number, handler in list(self._installed.items()):
            if signal.getsignal(number) != handler:
                self.log.warning("a job changed the handler of %s: put back", number.name)
                self._events.remove_signal_handler(number)
                self._install(number)
        return LOOK_EVERY
