"""The two servers of a run: PostgreSQL with stated settings, and Redis for the references."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from pgqueue.connect import asyncpg_uri
from pgqueue.embedded import embedded_postgres

SETTINGS = {
    "fsync": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "max_connections": "500",
    "logging_collector": "on",
    "log_destination": "jsonlog",
    "log_rotation_age": "0",
    "log_rotation_size": "0",
}
SHOWN = ("server_version", "fsync", "synchronous_commit", "shared_buffers", "max_wal_size",
         "max_connections", "autovacuum")  # fmt: skip
NO_REDIS = "no redis-server here: apt install redis-server (rq, arq, saq and celery are left out)"


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server; ``pid`` is the postmaster, above all backends."""

    dsn: str
    pid: int

    def execute(self, statement: str, *, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement by itself; its rows, if any."""
        with psycopg.connect(self.of(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def of(self, database: str) -> str:
        """The DSN of one of its databases."""
        return make_conninfo(self.dsn, dbname=database)

    def url(self, database: str) -> str:
        """The same as a URL, for drivers that take nothing else."""
        return asyncpg_uri(self.of(database))

    def settings(self) -> dict[str, object]:
        """The settings that decide, as the server has them."""
        return {name: self.execute(f"show {name}")[0][0] for name in SHOWN}

    def wal_bytes(self) -> int:
        """Bytes of WAL written since the server was made."""
        return int(str(self.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")[0][0]))


@contextmanager
def postgres() -> Iterator[Postgres]:
    """An embedded server of one's own for the length of the block."""
    with embedded_postgres(settings=SETTINGS) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            row = connection.execute("select pg_backend_pid()").fetchone()
            assert row is not None
            fields = Path(f"/proc/{row[0]}/stat").read_text().rpartition(")")[2].split()
        yield Postgres(dsn, int(fields[1]))


@dataclass(frozen=True, slots=True)
class Redis:
    """A running Redis without persistence: the fastest it can be."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def empty(self) -> None:
        """Forget everything."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            connection.recv(64)

    @property
    def version(self) -> str:
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"INFO server\r\n")
            text = connection.recv(4096).decode()
        return text.partition("redis_version:")[2].split()[0]


@contextmanager
def redis() -> Iterator[Redis | None]:
    """Debian's redis-server on a free port; None when it is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL, cwd=folder, start_new_session=True,
        )  # fmt: skip
        try:
            _wait(port)
            yield Redis(port, server.pid)
        finally:
            server.terminate()
            server.wait()


def _wait(port: int, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"redis-server did not answer within {seconds:g} s")
