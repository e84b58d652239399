"""Runs several worker processes, starts crashed ones again, and keeps suspects in processes of their own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FrameType

from pgqueue.worker.last_resort import AFTER_GRACE, HURRIED
from pgqueue.worker.reload import on_change
from pgqueue.worker.signals import heeded, say_waiting
from pgqueue.worker.turns import among
from pgqueue.worker.wakeup import Wakeup

log = logging.getLogger("pgqueue.supervisor")

LIVED_LONG = 10.0
MOST_WAIT = 30.0
MOST_WAIT_AT_WORK = 1.0  # it had come to work: perhaps a job ended it, and others wait
LONGEST_LOOK = 5.0
ANOTHER_AFTER = 10.0
ASKED_LATELY = 2.0
AFTER_LAST_RESORT = 5.0
KILL_AGAIN = 5.0
REPLACE = 75  # EX_TEMPFAIL: ended well, start me anew
# Names the supervisor to its children; anybody else who inherits it has another parent.
MARK = "PGQUEUE_SUPERVISED"
LINE = "PGQUEUE_LINE"  # the descriptor on which a child speaks to its supervisor
QUARANTINE = "PGQUEUE_QUARANTINE"  # set for a process that runs suspects only
AT_WORK, SUSPECTS = b"w", b"s"


class Child:
    """One worker process and its restarts."""

    def __init__(
        self, arguments: Sequence[str], name: str, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self._arguments, self.name = list(arguments), name
        self._environment = environment or {}
        self.inherits: tuple[int, ...] = ()
        self._fast_deaths = 0
        self.start_at = self.started_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._told: subprocess.Popen[bytes] | None = None
        self.line: int | None = None
        self._at_work = False

    def start(self) -> None:
        """Start it; later, if the system has no place for another process now."""
        self.hang_up()
        self._at_work, self.started_at = False, time.monotonic()
        try:
            self._open()
        except (OSError, MemoryError) as error:
            wait = self._put_off()
            log.error("%s could not be started, trying again in %.1f s: %s", self.name, wait, error)

    def _open(self) -> None:
        self.line, theirs = os.pipe()
        try:
            os.set_blocking(self.line, False)
            environment = {key: text for key, text in os.environ.items() if key != QUARANTINE}
            environment |= {MARK: str(os.getpid()), LINE: str(theirs), **self._environment}
            # Its own session: a Ctrl-C in the terminal reaches it once, through the supervisor.
            self.process = subprocess.Popen(
                self._arguments,
                start_new_session=True,
                pass_fds=(*self.inherits, theirs),
                env=environment,
            )
        finally:
            os.close(theirs)

    def heard(self) -> bool:
        """Read what it says; True if it knows of suspects. It hangs up by its end."""
        suspects = False
        while self.line is not None:
            try:
                said = os.read(self.line, 4096)
            except BlockingIOError:
                break
            if not said:
                self.hang_up()
            self._at_work = self._at_work or AT_WORK in said
            suspects = suspects or SUSPECTS in said
        return suspects

    def hang_up(self) -> None:
        if self.line is not None:
            os.close(self.line)
            self.line = None

    def died(self, code: int) -> None:
        """Plan the restart: at once, later if it keeps dying young, much later if it never comes to work."""
        self.heard()
        lived = time.monotonic() - self.started_at
        pid = self.process.pid if self.process else "?"
        wait = self._put_off(lived)
        log.error("%s (pid %s) %s, starting it again in %.1f s", self.name, pid, ended(code), wait)

    def _put_off(self, lived: float = 0.0) -> float:
        self._fast_deaths = 0 if lived > LIVED_LONG else min(self._fast_deaths + 1, 20)
        most = MOST_WAIT_AT_WORK if self._at_work else MOST_WAIT
        wait: float = min(0.1 * 2**self._fast_deaths, most)
        self.process = None
        self.start_at = time.monotonic() + wait
        return wait

    def terminate(self) -> None:
        """Ask it to end; again, not to wait for its jobs."""
        if self.process is not None and self.process.poll() is None:
            # A second SIGTERM would say nothing new: whoever sent us one may have sent it to all our processes.
            number = signal.SIGINT if self.told else signal.SIGTERM
            self._told = self.process
            self.process.send_signal(number)

    def kill(self) -> None:
        """End one that does not end by itself."""
        if self.process is not None and self.process.poll() is None:
            log.error("%s (pid %d) did not end in time: killing it", self.name, self.process.pid)
            self.process.kill()

    @property
    def told(self) -> bool:
        """Has it been asked to end since it was started?"""
        return self.process is not None and self._told is self.process

    def reload(self) -> None:
        """Start it again with the new code, at once if the old code kept it from starting."""
        self._fast_deaths, self.start_at = 0, 0.0
        self.terminate()


class Supervisor:
    """Runs ``count`` worker processes until they end or we are told to stop.

    When one of them knows of suspects, a process is started that runs only these; another one, up to ``count``, when
    suspects still wait after ten seconds. A crash there puts off no other process's restart.

    Args:
        arguments: the command of a worker process, which knows its place by ``supervised()``. One
            that ends with the code ``REPLACE`` is started again at once.
        count: 0 only keeps the quarantine of the worker that this process is, see ``beside``.
        grace: seconds that jobs have after a signal. A process ends soon after that by itself; one that does not,
            for it was stopped with SIGSTOP or hangs in the kernel, is killed.
        drain: a worker that ends with code 0 has nothing left to do. Without it such an end is as unasked as any
            other, and another worker is started.
        watch: start them again whenever Python files below this folder change.
    """

    def __init__(
        self,
        arguments: list[str],
        count: int,
        *,
        grace: float,
        drain: bool = False,
        watch: Path | None = None,
    ) -> None:
        self._arguments = arguments
        self._children = [Child(arguments, f"worker {number}") for number in range(1, count + 1)]
        self._isolated: list[Child] = []
        self._most_isolated = max(count, 1)
        self._inherits: tuple[int, ...] = ()
        self._asked_at: float | None = None
        self._drain, self._watch = drain, watch
        self._stopping = False
        self._grace, self._kill_at = grace, float("inf")
        self._wake = Wakeup()

    def run(self) -> int:
        """Returns the exit code.

        Raises:
            ConfigError: ``watch`` is given and watchfiles is not installed.
        """
        for number in heeded():
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: self._wake.set())
        log.info("%d worker processes", len(self._children))
        if self._watch is not None:
            on_change(self._watch, self._reload)
        with among(len(self._children)) as inherited:
            for child in self._children:
                child.inherits = inherited
            self._inherits = inherited
            while self.look_after():
                self.wait(LONGEST_LOOK)
        self._wake.close()
        return 0

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and not self._stopping:
            say_waiting("the jobs that run")
        self.stop()

    def stop(self) -> None:
        """Ask all to end as by SIGTERM; again, once more."""
        left = HURRIED if self._stopping else self._grace + AFTER_GRACE
        self._kill_at = min(self._kill_at, time.monotonic() + left + AFTER_LAST_RESORT)
        self._stopping = True
        for child in (*self._children, *self._isolated):
            child.terminate()
        self._wake.set()

    def isolate(self) -> None:
        """Suspects are due: see to a process that runs them."""
        self._asked_at = time.monotonic()
        self._wake.set()

    def _reload(self) -> None:
        for child in (*self._children, *self._isolated):
            child.reload()
        self._wake.set()

    def look_after(self) -> bool:
        """See to every child; False when all are gone for good."""
        for child in (*self._children, *self._isolated):
            if child.heard():
                self._asked_at = time.monotonic()
        alive = [child for child in self._children if not self._ended(child)]
        self._isolated = [child for child in self._isolated if not self._left(child)]
        self._isolate()
        if time.monotonic() >= self._kill_at:
            self._kill_at = time.monotonic() + KILL_AGAIN
            for child in (*alive, *self._isolated):
                child.kill()
        return bool(alive or self._isolated)

    def _isolate(self) -> None:
        now = time.monotonic()
        if self._asked_at is None or self._stopping:
            return
        if now - self._asked_at > ASKED_LATELY:
            self._asked_at = None  # those who know of suspects ask again
        elif not self._isolated or (
            len(self._isolated) < self._most_isolated
            and now - max(child.started_at for child in self._isolated) > ANOTHER_AFTER
        ):
            child = Child(self._arguments, "the quarantine", environment={QUARANTINE: "1"})
            self._isolated.append(child)
            self._asked_at = None
            log.info("starting a quarantine for suspects")
            child.inherits = self._inherits
            child.start()

    @property
    def isolates_none(self) -> bool:
        """Does no quarantine run, and is none about to?"""
        return not self._isolated and self._asked_at is None

    @property
    def isolated(self) -> set[int]:
        """The pids of the quarantines."""
        return {child.process.pid for child in self._isolated if child.process is not None}

    def wait(self, longest: float) -> None:
        """Return when there is something to see to, or after so many seconds."""
        children = (*self._children, *self._isolated)
        waiting = [child.start_at for child in children if child.process is None]
        now = time.monotonic()
        self._wake.wait(
            min([longest, *(max(at - now, 0.0) for at in (*waiting, self._kill_at))]),
            [child.line for child in children if child.line is not None],
        )

    def _ended(self, child: Child) -> bool:
        """Look after one worker; True when it is gone for good."""
        if (code := self._code(child)) is None:
            return child.process is None and self._stopping
        if self._stopping or (code == 0 and self._drain and not child.told):
            return True
        if code == REPLACE or (code == 0 and child.told):
            log.info("%s asked to be replaced", child.name)
            child.start()
        else:
            child.died(code)
        return False

    def _left(self, child: Child) -> bool:
        """Look after a quarantine; True when it is gone for good: it found no suspects any more."""
        if (code := self._code(child)) is None:
            return child.process is None and self._stopping
        if self._stopping or code in (0, REPLACE) or child.told:
            child.hang_up()
            return True
        child.died(code)
        return False

    def _code(self, child: Child) -> int | None:
        """The exit code of one that has ended; starts it when it is time to."""
        if child.process is None:
            if not self._stopping and time.monotonic() >= child.start_at:
                child.start()
            return None
        code = child.process.poll()
        if code is None and self._stopping and not child.told:  # told while it was being started
            child.terminate()
        return code


class Beside:
    """The quarantine of a worker without a supervisor: a supervisor of no other processes, in a thread.

    Args:
        arguments: the command that this process was started by.
        grace: seconds that suspects have after a signal.
    """

    def __init__(self, arguments: list[str], grace: float) -> None:
        self._supervisor = Supervisor(arguments, 0, grace=grace)
        self._thread: threading.Thread | None = None
        self.ending = False

    def isolate(self) -> None:
        """Suspects are due: see to a process that runs them."""
        if self.ending:
            return
        self._supervisor.isolate()
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="pgqueue-quarantine", daemon=True
            )
            self._thread.start()

    def _run(self) -> None:
        while self._supervisor.look_after() or not self.ending:
            self._supervisor.wait(1.0)  # this thread is not told of the end of processes

    def stop(self) -> None:
        """Ask the process to end as by SIGTERM; again, once more."""
        self.ending = True
        self._supervisor.stop()

    @property
    def at_rest(self) -> bool:
        """Does no process run, and is none about to?"""
        return self._supervisor.isolates_none

    def pids(self) -> set[int]:
        """The processes that run."""
        return self._supervisor.isolated


def ended(code: int) -> str:
    """How a process ended, in words, by its exit code as ``subprocess`` gives it."""
    if code < 0:
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    if code == 0:
        return "ended with code 0, though it was not told to"
    return f"ended with code {code}"


def supervised() -> bool:
    """Is this process a worker that a supervisor started?"""
    return os.environ.get(MARK) == str(os.getppid())


def quarantined() -> bool:
    """Is this process to run suspects only?"""
    return supervised() and QUARANTINE in os.environ


@cache
def line() -> int | None:
    """The descriptor on which this process speaks to its supervisor."""
    if not supervised() or LINE not in os.environ:
        return None
    with suppress(ValueError, OSError):
        number = int(os.environ[LINE])
        os.set_inheritable(number, False)
        os.set_blocking(number, False)
        return number
    return None


def tell(what: bytes) -> None:
    """Tell the supervisor that this process is at work, or that suspects are due; without one, nobody."""
    if (number := line()) is not None:
        with suppress(OSError):  # it has so much to read already, or is gone
            os.write(number, what)


def exit_with_supervisor() -> None:
    """In a child: end, as by SIGTERM, when the supervisor has died without a word."""
    parent = int(os.environ[MARK])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        log.warning("the supervisor is gone, stopping")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="pgqueue-parent", daemon=True).start()
