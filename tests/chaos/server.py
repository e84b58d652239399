"""An embedded server that can crash and come back on the same port and data."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from pgqueue.embedded import embedded_postgres

READY_WITHIN = 60.0


class Server:
    """One PostgreSQL; ``dsn`` leads straight to it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._again: subprocess.Popen[bytes] | None = None
        with psycopg.connect(dsn) as conn:
            row = conn.execute("show data_directory").fetchone()
        self._data = Path(row[0])  # type: ignore[index]
        # The server's own note of how it was started: https://www.postgresql.org/docs/current/storage-file-layout.html
        self._command = shlex.split((self._data / "postmaster.opts").read_text("utf-8"))
        # Run by root, the server reaches its data by a descriptor of this process.
        self._descriptors = [int(n) for n in re.findall(r"/proc/self/fd/(\d+)", str(self._data))]

    def crash(self) -> None:
        """End it at once, as a power cut would (SIGQUIT, "immediate"), and start it again."""
        pid = int((self._data / "postmaster.pid").read_text("utf-8").split()[0])
        os.kill(pid, signal.SIGQUIT)
        if self._again is not None:
            self._again.wait(READY_WITHIN)
        else:
            os.waitpid(pid, 0)
        deadline = time.monotonic() + READY_WITHIN
        while not self._started():
            if time.monotonic() > deadline:
                raise TimeoutError("the server did not come back")

    def _started(self) -> bool:
        """Start it; False while processes of the one that crashed hold its memory."""
        self._again = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
            pass_fds=self._descriptors, **self._owner(),
        )  # fmt: skip
        while self._again.poll() is None:
            try:
                psycopg.connect(self.dsn, connect_timeout=2).close()
                return True
            except psycopg.OperationalError:
                time.sleep(0.02)
        return False

    def _owner(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        return {"user": self._data.owner(), "group": self._data.group(), "extra_groups": []}

    def stop(self) -> None:
        """End the one started again; the first belongs to ``embedded_postgres``."""
        if self._again is not None:
            self._again.send_signal(signal.SIGINT)
            self._again.wait(READY_WITHIN)


@contextmanager
def running(settings: dict[str, str]) -> Iterator[Server]:
    """A server for the length of the block."""
    with embedded_postgres(settings=settings) as dsn:
        server = Server(dsn)
        try:
            yield server
        finally:
            server.stop()
