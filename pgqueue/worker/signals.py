"""SIGTERM and SIGINT stop the worker, also after a handler has changed what they do."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from pgqueue.worker.service import Service

log = logging.getLogger("pgqueue.worker")

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
            _BEFORE.setdefault(number, signal.getsignal(number))
            self._install(number)
        if not _at_forks:
            _at_forks.append(os.getpid())
            os.register_at_fork(
                before=_before_fork,
                after_in_parent=_after_fork,
                after_in_child=_after_fork_in_child,
            )

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
        log.info("%s: stopping", number.name)
        self._stop()

    def remove(self) -> None:
        for number in self._installed:
            self._events.remove_signal_handler(number)
            _BEFORE.pop(number, None)

    async def run_once(self) -> float:
        for number, handler in list(self._installed.items()):
            if signal.getsignal(number) != handler:
                self.log.warning("a job changed the handler of %s: put back", number.name)
                self._events.remove_signal_handler(number)
                self._install(number)
        return LOOK_EVERY


# What the process did at these signals before it was a worker.
_BEFORE: dict[signal.Signals, Any] = {}
_at_forks: list[int] = []
_masks = threading.local()


def _before_fork() -> None:
    """Keep signals from the child until it is rid of the worker's handlers."""
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _BEFORE)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _after_fork_in_child() -> None:
    """A signal to a child that a job has forked is none to the worker.

    It has inherited the handlers, and the descriptor by which each signal wakes the worker's event loop.
    """
    if _BEFORE:
        signal.set_wakeup_fd(-1)
        for number, handler in _BEFORE.items():
            # Not as it was, but as the system does it: asyncio's runner had a handler of its own for SIGINT, and an
            # exception from one that is called in here would go nowhere.
            ignored = handler is signal.SIG_IGN
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        _BEFORE.clear()
    _after_fork()
