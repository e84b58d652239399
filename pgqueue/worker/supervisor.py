"""Runs several worker processes and starts crashed ones again."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

log = logging.getLogger("pgqueue.supervisor")

LIVED_LONG = 10.0
MOST_WAIT = 30.0


class Child:
    """One worker process and its restarts."""

    def __init__(self, arguments: list[str], number: int) -> None:
        self._arguments, self.number = arguments, number
        self._fast_deaths = 0
        self.start_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # Its own session: a Ctrl-C in the terminal reaches it once, through the supervisor.
        self.process = subprocess.Popen(self._arguments, start_new_session=True)
        self._started = time.monotonic()

    def died(self, code: int) -> None:
        """Plan the restart: at once, later if it keeps dying young."""
        lived = time.monotonic() - self._started
        self._fast_deaths = 0 if lived > LIVED_LONG else self._fast_deaths + 1
        wait = min(0.1 * 2**self._fast_deaths, MOST_WAIT)
        log.error("worker %d (pid %s) ended with code %d, starting it again in %.1f s",
                  self.number, self.process.pid if self.process else "?", code, wait)  # fmt: skip
        self.process = None
        self.start_at = time.monotonic() + wait


def supervise(arguments: list[str], count: int, *, restart_finished: bool) -> int:
    """Run ``count`` processes until they end or we are told to stop; returns the exit code.

    Args:
        arguments: the command of one worker process.
        restart_finished: start those that ended well again too (they were asked to recycle).
    """
    wake = threading.Event()
    stopping: list[int] = []
    children = [Child(arguments, number) for number in range(1, count + 1)]

    def forward(number: int, _: FrameType | None) -> None:
        stopping.append(number)
        for child in children:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        wake.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    signal.signal(signal.SIGCHLD, lambda *_: wake.set())
    os.environ["PGQUEUE_SUPERVISED"] = str(os.getpid())
    log.info("%d worker processes", count)
    for child in children:
        child.start()
    while True:
        alive = [c for c in children if not _ended(c, stopping, restart_finished)]
        if not alive:
            return 0
        wake.wait(0.2 if any(c.process is None for c in alive) else 5.0)
        wake.clear()


def _ended(child: Child, stopping: list[int], restart_finished: bool) -> bool:
    """Look after one child; True when it is gone for good."""
    if child.process is None:
        if stopping:
            return True
        if time.monotonic() >= child.start_at:
            child.start()
        return False
    code = child.process.poll()
    if code is None:
        return False
    if stopping or (code == 0 and not restart_finished):
        return True
    if code == 0:
        child.start()
    else:
        child.died(code)
    return False


def exit_with_supervisor() -> None:
    """In a child: end, as by SIGTERM, when the supervisor has died without a word."""
    parent = os.environ.get("PGQUEUE_SUPERVISED")
    if parent is None or not sys.platform.startswith("linux"):
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1.0)
        log.warning("the supervisor is gone, stopping")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="pgqueue-parent", daemon=True).start()
