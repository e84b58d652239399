"""Real worker processes for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support import heed_interrupts


class Workers:
    """Starts ``pgqueue work`` on a database; ends what still runs at the end of the test."""

    def __init__(self, dsn: str, app: str = "tests.worker.apps:app") -> None:
        self.app = app
        self.env = {**os.environ, "PGQUEUE_DSN": dsn}
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *options: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "pgqueue", "work", "--app", self.app, *options],
            env=self.env, cwd=cwd, stderr=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=heed_interrupts,
        )  # fmt: skip
        self.started.append(process)
        return process

    def start_module(self, module: str) -> subprocess.Popen[str]:
        """A program that runs a worker by itself."""
        process = subprocess.Popen(
            [sys.executable, "-m", module], env=self.env, stderr=subprocess.PIPE, text=True,
            start_new_session=True, preexec_fn=heed_interrupts,
        )  # fmt: skip
        self.started.append(process)
        return process

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                process.terminate()
            process.communicate(timeout=30)
