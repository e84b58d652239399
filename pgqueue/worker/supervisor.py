"""Runs several worker processes and starts crashed ones again."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import FrameType

from pgqueue.worker.reload import on_change
from pgqueue.worker.signals import heeded, say_waiting
from pgqueue.worker.turns import among
from pgqueue.worker.wakeup import Wakeup

log = logging.getLogger("pgqueue.supervisor")

LIVED_LONG = 10.0
MOST_WAIT = 30.0
REPLACE = 75  # EX_TEMPFAIL: ended well, start me anew
# Names the supervisor to its children; anybody else who inherits it has another parent.
MARK = "PGQUEUE_SUPERVISED"


class Child:
    """One worker process and its restarts."""

    def __init__(self, arguments: list[str], number: int) -> None:
        self._arguments, self.number = arguments, number
        self.inherits: tuple[int, ...] = ()
        self._fast_deaths = 0
        self.start_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._told: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # Its own session: a Ctrl-C in the terminal reaches it once, through the supervisor.
        self.process = subprocess.Popen(
            self._arguments, start_new_session=True, pass_fds=self.inherits
        )
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

    def terminate(self) -> None:
        """Ask it to end as by SIGTERM."""
        if self.process is not None and self.process.poll() is None:
            self._told = self.process
            self.process.send_signal(signal.SIGTERM)

    @property
    def untold(self) -> bool:
        """Has it not been asked to end since it was started?"""
        return self._told is not self.process

    def reload(self) -> None:
        """Start it again with the new code, at once if the old code kept it from starting."""
        self._fast_deaths, self.start_at = 0, 0.0
        self.terminate()


class Supervisor:
    """Runs ``count`` worker processes until they end or we are told to stop.

    Args:
        arguments: the command of a worker process, which knows its place by ``supervised()``. One
            that ends with the code ``REPLACE`` is started again at once.
        watch: start them again whenever Python files below this folder change.
    """

    def __init__(
        self,
        arguments: list[str],
        count: int,
        *,
        watch: Path | None = None,
    ) -> None:
        self._children = [Child(arguments, number) for number in range(1, count + 1)]
        self._watch = watch
        self._stopping = False
        self._wake = Wakeup()

    def run(self) -> int:
        """Returns the exit code.

        Raises:
            ConfigError: ``watch`` is given and watchfiles is not installed.
        """
        for number in heeded():
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: self._wake.set())
        os.environ[MARK] = str(os.getpid())
        log.info("%d worker processes", len(self._children))
        if self._watch is not None:
            on_change(self._watch, self._reload)
        with among(len(self._children)) as inherited:
            for child in self._children:
                child.inherits = inherited
                child.start()
            while alive := [child for child in self._children if not self._ended(child)]:
                self._wake.wait(0.2 if any(c.process is None for c in alive) else 5.0)
        self._wake.close()
        return 0

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and not self._stopping:
            say_waiting("the jobs that run")
        self._stopping = True
        for child in self._children:
            child.terminate()
        self._wake.set()

    def _reload(self) -> None:
        for child in self._children:
            child.reload()
        self._wake.set()

    def _ended(self, child: Child) -> bool:
        """Look after one child; True when it is gone for good."""
        if child.process is None:
            if self._stopping:
                return True
            if time.monotonic() >= child.start_at:
                child.start()
            return False
        code = child.process.poll()
        if code is None:
            if self._stopping and child.untold:  # the signal came while it was being started
                child.terminate()
            return False
        if self._stopping or (code == 0 and self._watch is None):
            return True
        if code in (0, REPLACE):
            log.info("worker %d asked to be replaced", child.number)
            child.start()
        else:
            child.died(code)
        return False


def supervised() -> bool:
    """Is this process a worker that a supervisor started?"""
    return os.environ.get(MARK) == str(os.getppid())


def exit_with_supervisor() -> None:
    """In a child: end, as by SIGTERM, when the supervisor has died without a word."""
    parent = int(os.environ[MARK])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        log.warning("the supervisor is gone, stopping")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="pgqueue-parent", daemon=True).start()
