"""A primary and its standby on one machine, with a proxy in the replication that can be cut."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import schema
from pgqueue.embedded import PORT_FILE, SERVER_FOLDER, embedded_postgres
from tests.faults.proxy import Proxy
from tests.support import eventually

SETTINGS = {"fsync": "off", "wal_level": "replica", "max_connections": "60"}


class Pair:
    """``primary`` and ``standby`` are their DSNs."""

    def __init__(self, primary: str, standby: str, data: Path, replication: Proxy) -> None:
        self.primary, self.standby = primary, standby
        self._data, self._replication = data, replication

    def dsn(self, *, uri: bool) -> str:
        """A DSN of both, for whichever takes writes; as URI or as key=value text."""
        to = [conninfo_to_dict(dsn) for dsn in (self.primary, self.standby)]
        if uri:
            hosts = ",".join(f"{each['host']}:{each['port']}" for each in to)
            return f"postgresql://postgres:{to[0]['password']}@{hosts}/postgres?target_session_attrs=read-write"
        return make_conninfo(
            host=",".join(str(each["host"]) for each in to),
            port=",".join(str(each["port"]) for each in to),
            user="postgres",
            password=to[0]["password"],
            dbname="postgres",
            target_session_attrs="read-write",
        )

    def replicated(self) -> None:
        """Wait until the standby has all that the primary has."""
        here = _one(self.primary, "select pg_current_wal_lsn()")
        eventually(lambda: _one(self.standby, f"select pg_last_wal_replay_lsn() >= '{here}'"))

    def cut(self) -> None:
        """Let nothing more reach the standby."""
        self._replication.refuse = True
        self._replication.reset()

    def kill_primary(self) -> None:
        """End the primary at once, as by a power cut."""
        self._signal(signal.SIGQUIT)
        eventually(lambda: _refusal(self.primary))

    @contextmanager
    def closing_primary(self) -> Iterator[None]:
        """The primary has begun to shut down and waits for its last session to end."""
        with psycopg.connect(self.primary):
            self._signal(signal.SIGTERM)
            eventually(lambda: "shutting down" in _refusal(self.primary))
            yield

    def _signal(self, number: int) -> None:
        os.kill(int((self._data / "postmaster.pid").read_text().split()[0]), number)

    def promote(self) -> None:
        """Make the standby take writes."""
        assert _one(self.standby, "select pg_promote()")

    def demote(self) -> None:
        """Let the old primary live on, but refuse writes, also in sessions that are open."""
        with psycopg.connect(self.primary, autocommit=True) as conn:
            conn.execute("alter system set default_transaction_read_only = on")
            conn.execute("select pg_reload_conf()")
        eventually(lambda: _one(self.primary, "show default_transaction_read_only") == "on")


def _one(dsn: str, sql: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(sql.encode()).fetchone()
        assert row is not None
        return row[0]


def _refusal(dsn: str) -> str:
    try:
        psycopg.connect(dsn, connect_timeout=5).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


@contextmanager
def pair(programs: Path | None) -> Iterator[Pair]:
    """Run both servers; the primary is migrated."""
    home = Path(tempfile.mkdtemp(prefix="pgqueue-pair-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        primary = stack.enter_context(
            embedded_postgres(home / "primary", settings=SETTINGS, programs=programs)
        )
        schema.upgrade(primary)
        to = conninfo_to_dict(primary)
        replication = stack.enter_context(Proxy("127.0.0.1", int(to["port"])))
        _copy(primary, home / "primary", home / "standby")
        _keep_password(str(to["password"]), home / "standby" / SERVER_FOLDER / "replication")
        settings = SETTINGS | {
            "primary_conninfo": make_conninfo(
                host="127.0.0.1", port=replication.port, user="postgres", passfile="replication"
            ),
            "wal_retrieve_retry_interval": "100ms",
        }
        standby = stack.enter_context(
            embedded_postgres(home / "standby", settings=settings, programs=programs)
        )
        yield Pair(primary, standby, home / "primary" / SERVER_FOLDER, replication)


def _copy(primary: str, source: Path, target: Path) -> None:
    """A base backup without pg_basebackup, which not every set of server programs has.

    https://www.postgresql.org/docs/current/continuous-archiving.html, "Making a Base Backup Using
    the Low Level API"
    """
    with psycopg.connect(primary, autocommit=True) as conn:
        if conn.info.server_version >= 150_000:
            start = "select pg_backup_start('copy', true)"
            stop = "select labelfile from pg_backup_stop(false)"
        else:
            start = "select pg_start_backup('copy', true, false)"
            stop = "select labelfile from pg_stop_backup(false, false)"
        conn.execute(start.encode())
        subprocess.run(["cp", "-a", source, target], check=True)  # as root, it keeps the owner
        row = conn.execute(stop.encode()).fetchone()
        assert row is not None
    (target / PORT_FILE).unlink()
    copied = target / SERVER_FOLDER
    (copied / "postmaster.pid").unlink()
    for name, text in (("backup_label", row[0]), ("standby.signal", "")):
        (copied / name).write_text(text)
        _give(copied / name)


def _keep_password(password: str, file: Path) -> None:
    """For libpq, which reads a relative path in the folder of the server."""
    file.write_text(f"*:*:*:*:{password}\n")
    file.chmod(0o600)
    _give(file)


def _give(file: Path) -> None:
    owner = file.parent.stat()
    os.chown(file, owner.st_uid, owner.st_gid)
