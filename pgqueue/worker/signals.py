"""SIGTERM and SIGINT stop the worker, also after a handler has changed what they do."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
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

    Service managers send a signal to every process of a service, so one that was started by a supervisor hears it
    twice: from them, and from the supervisor. So such a process takes a further signal for a second one only if it is
    SIGINT: that comes from the supervisor alone, as the process has a session of its own.

    Args:
        stop: called in the event loop for each signal.
        running: how many jobs run.
        heard: called for each signal at once, in the handler, though the event loop may be blocked.
        supervised: a supervisor started this process.
    """

    name: ClassVar[str] = "signals"

    def __init__(
        self,
        stop: Callable[[], None],
        running: Callable[[], int],
        heard: Callable[[], None],
        *,
        supervised: bool,
    ) -> None:
        super().__init__()
        self._heard, self._supervised = heard, supervised
        self._at_once_before = self._heeded_before = False
        self._stop, self._running = stop, running
        self._events = asyncio.get_running_loop()
        self._installed: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        for number in heeded():
            _BEFORE.setdefault(number, signal.getsignal(number))
            self._install(number)
        _watch_forks()

    def _install(self, number: signal.Signals) -> None:
        self._events.add_signal_handler(number, self._heed, number)
        # The event loop hears of signals by a descriptor, whatever the handler does.
        signal.signal(number, self._at_once)
        self._installed[number] = signal.getsignal(number)

    def _at_once(self, number: int, frame: FrameType | None) -> None:
        if not self._at_once_before or self._says_again(number):
            self._heard()
        self._at_once_before = True

    def _says_again(self, number: int) -> bool:
        return number == signal.SIGINT or not self._supervised

    def _heed(self, number: signal.Signals) -> None:
        again, self._heeded_before = self._heeded_before, True
        if again and not self._says_again(number):
            return
        if again:  # not by name: a supervisor passes on a second SIGTERM as SIGINT
            log.info("asked to stop again: stopping without waiting for the jobs that run")
        else:
            if number is signal.SIGINT and (running := self._running()):
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


# What the process did at these signals before it was a worker, or would do.
_BEFORE: dict[signal.Signals, Any] = {}
_at_forks: list[int] = []
_masks = threading.local()


def unheeded(number: signal.Signals) -> None:
    """Let a signal do nothing to this process, and what it does as a rule to those that it forks or starts."""
    _BEFORE[number] = signal.SIG_DFL
    _watch_forks()
    signal.signal(number, lambda *_: None)  # one that is ignored would be so in programs too


def _watch_forks() -> None:
    if not _at_forks:
        _at_forks.append(os.getpid())
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=_after_fork,
            after_in_child=_after_fork_in_child,
        )


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
