"""Worker processes: some on their own, some under a supervisor; started again when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pgqueue.worker.supervisor import REPLACE

ROOT = Path(__file__).parents[2]
END_WITHIN = 60.0


class Fleet:
    """``alone`` processes of one worker each, and one supervisor of ``supervised`` workers."""

    def __init__(
        self, dsn: str, *, alone: int, supervised: int, options: Sequence[str], logs: Path
    ) -> None:
        self._dsn, self._options, self._logs = dsn, options, logs
        sizes = [1] * alone + ([supervised] if supervised > 1 else [])
        self._sizes = dict(enumerate(sizes))
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._told: set[int] = set()
        self.gave_up: list[str] = []
        self._ending = threading.Event()
        self._tender = threading.Thread(target=self._tend, name="tender")

    def __enter__(self) -> Self:
        for slot in self._sizes:
            self._start(slot)
        self._tender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._tender.join()
        for process in self._running.values():
            for number in (signal.SIGCONT, signal.SIGTERM):
                process.send_signal(number)
        for process in self._running.values():
            try:
                process.wait(END_WITHIN)
            except subprocess.TimeoutExpired:
                self.gave_up.append(f"process {process.pid} did not end within {END_WITHIN:g} s")
                process.kill()
                process.wait()

    def _start(self, slot: int) -> None:
        command = [
            sys.executable, "-m", "pgqueue", "work", "--app", "tests.chaos.load:app",
            "--workers", str(self._sizes[slot]), *self._options,
        ]  # fmt: skip
        env = {**os.environ, "PGQUEUE_DSN": self._dsn}
        if self._sizes[slot] == 1:  # told who supervises it, it ends when this process is gone
            env["PGQUEUE_SUPERVISED"] = str(os.getpid())
        with (self._logs / f"workers-{slot}.log").open("ab") as log:
            self._running[slot] = subprocess.Popen(
                command, env=env, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def _tend(self) -> None:
        while not self._ending.wait(0.05):
            for slot, process in list(self._running.items()):
                code = process.poll()
                if code is None:
                    continue
                # One with a thread that cannot be stopped asks to be replaced.
                if code != REPLACE and process.pid not in self._told:
                    self.gave_up.append(f"process {process.pid} ended by itself with code {code}")
                self._start(slot)

    def leaders(self) -> list[int]:
        """The pids of the processes started here, the supervisor among them."""
        return [process.pid for process in list(self._running.values())]

    def workers(self) -> list[int]:
        """The pids of the processes that run jobs."""
        found: list[int] = []
        for slot, process in list(self._running.items()):
            found += [process.pid] if self._sizes[slot] == 1 else children(process.pid)
        return found

    def send(self, pid: int, number: int) -> bool:
        """Send a signal; False when the process has just ended."""
        if pid not in self.leaders() and pid not in self.workers():
            return False
        self._told.add(pid)
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True


def children(pid: int) -> list[int]:
    """The child processes of a process (Linux; none elsewhere)."""
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
