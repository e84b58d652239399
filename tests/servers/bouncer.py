"""A PgBouncer of the test's own before a server, set up as docs/howto/pgbouncer.md says."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue.embedded import _free_port
from tests.support import eventually

PAGE = Path(__file__).parents[2] / "docs/howto/pgbouncer.md"


def program() -> str | None:
    """Where PgBouncer is: TESTS_PGBOUNCER, or on the path."""
    given = os.environ.get("TESTS_PGBOUNCER")
    return given or shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def prepares(path: str) -> bool:
    """Does this version keep track of prepared statements (1.21 and later)?"""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    match = re.search(r"PgBouncer (\d+)\.(\d+)", done.stdout)
    assert match is not None
    return (int(match[1]), int(match[2])) >= (1, 21)


def documented() -> configparser.ConfigParser:
    """The configuration on the page."""
    match = re.search(r"```ini\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    assert match is not None
    config = configparser.ConfigParser(interpolation=None)
    config.read_string(match[1])
    return config


@contextmanager
def pgbouncer(path: str, server: str, **settings: Any) -> Iterator[str]:
    """Run PgBouncer before the server; yields the DSN through it. ``settings`` go over the page's."""
    to = conninfo_to_dict(server)
    config = documented()
    known = " ".join(
        f"{key}={to[key]}" for key in ("host", "port", "user", "password") if to.get(key)
    )
    config["databases"] = {"*": known}
    port = _free_port()
    changed = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "any",
        **settings,
    }
    config["pgbouncer"].pop("auth_file", None)
    config["pgbouncer"].update({key: str(value) for key, value in changed.items()})
    home = Path(tempfile.mkdtemp(prefix="pgqueue-bouncer-"))
    with (home / "pgbouncer.ini").open("w") as file:
        config.write(file)
    if os.geteuid() == 0:  # it refuses to run as root, and its configuration holds a password
        shutil.chown(home, "nobody")
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [path, str(home / "pgbouncer.ini")], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            user="nobody" if os.geteuid() == 0 else None, cwd="/",
        )  # fmt: skip
    dsn = make_conninfo(server, host="127.0.0.1", port=port)
    try:
        eventually(lambda: _answers(dsn, process, home / "log"))
        yield dsn
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(home, ignore_errors=True)


def _answers(dsn: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text("utf-8", "replace")
    try:
        psycopg.connect(dsn, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def sessions(dsn: str, count: int, sql: str) -> list[Sequence[Any]]:
    """What a query says in each of the pooler's ``count`` server sessions."""
    connections = [psycopg.connect(dsn, prepare_threshold=None) for _ in range(count)]
    try:  # none commits, so each has a session to itself
        pids = {c.execute("select pg_backend_pid()").fetchone() for c in connections}
        assert len(pids) == count
        return [row for c in connections for row in c.execute(sql.encode()).fetchall()]
    finally:
        for connection in connections:
            connection.commit()  # or the pooler closes the session with it
            connection.close()
