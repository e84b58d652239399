"""The embedded server ends with the process that started it, however that ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import ConfigError
from pgqueue.connect import asyncpg_uri
from pgqueue.embedded import PASSWORD_FILE, PORT_FILE, binaries, embedded_postgres, kept_dsn
from tests.support import eventually, heed_interrupts

HOLDER = """
import time
from pgqueue.embedded import embedded_postgres
with embedded_postgres(settings={"fsync": "off"}) as dsn:
    print(dsn, flush=True)
    time.sleep(600)
"""


def refuses(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return True
    return False


def test_it_is_gone_after_the_block_and_leaves_no_folder() -> None:
    with (
        pytest.raises(RuntimeError, match="boom"),
        embedded_postgres(settings={"fsync": "off"}) as dsn,
    ):
        folder = socket_folder(dsn)
        raise RuntimeError("boom")
    assert refuses(dsn)
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_is_gone_after_a_signal_and_leaves_no_folder(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=heed_interrupts,
    ) as holder:
        assert holder.stdout is not None
        dsn = holder.stdout.readline().strip()
        folder = socket_folder(dsn)
        holder.send_signal(number)
        holder.wait(30)
    eventually(lambda: refuses(dsn))
    eventually(lambda: not folder.exists())


def socket_folder(dsn: str) -> Path:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("show unix_socket_directories").fetchone()
    assert row is not None
    assert Path(row[0]).is_dir()
    return Path(row[0])


def test_kept_data_keeps_its_port_while_that_is_free() -> None:
    with tempfile.TemporaryDirectory(prefix="pgqueue-data-") as folder:
        data, fast = Path(folder) / "data", {"fsync": "off"}
        assert kept_dsn(data) is None
        with embedded_postgres(data, settings=fast) as first:
            assert kept_dsn(data) == first
        for file in (PORT_FILE, PASSWORD_FILE):
            assert (data / file).stat().st_mode & 0o777 == 0o600
        with embedded_postgres(data, settings=fast) as again:
            assert again == first
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", int(conninfo_to_dict(first)["port"])))
            other.listen()
            with embedded_postgres(data, settings=fast) as elsewhere:
                assert elsewhere != first
        (data / PASSWORD_FILE).chmod(0o644)
        assert kept_dsn(data) is None


def modes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mode for path in (folder, *folder.parents)}


async def test_only_who_started_it_gets_in() -> None:
    before = modes(Path(tempfile.gettempdir()))
    with embedded_postgres(settings={"fsync": "off"}) as dsn:
        for right in (dsn, asyncpg_uri(dsn)):
            psycopg.connect(right).close()
            await (await asyncpg.connect(right)).close()
        for wrong in ({"password": ""}, {"password": "postgres"}, {"user": "other"}):
            with pytest.raises(
                psycopg.OperationalError, match=r"no password supplied|password auth"
            ):
                psycopg.connect(make_conninfo(dsn, **wrong), connect_timeout=5)
        with psycopg.connect(dsn) as conn:
            folders = conn.execute(
                "select current_setting('unix_socket_directories'), current_setting('data_directory'),"
                " current_setting('hba_file'), (select rolpassword from pg_authid where rolname = 'postgres')"
            ).fetchone()
        assert folders is not None
        assert conninfo_to_dict(dsn)["password"] not in str(folders[3])
        for folder in (Path(folders[0]), Path(folders[1]), Path(folders[2]).parent):
            assert folder.stat().st_mode & 0o077 == 0  # also those with its log
        assert (Path(folders[0]) / "log").exists()
    assert modes(Path(tempfile.gettempdir())) == before


def test_folders_that_it_did_not_make_stay_as_they_are() -> None:
    """Also those that the server may not enter: run by root, it has a user of its own."""
    with tempfile.TemporaryDirectory(prefix="pgqueue-private-") as folder:
        project = Path(folder) / "project"
        project.mkdir(mode=0o750)
        package = binaries().parents[1]
        for each in (package, package.with_name(f"{package.name}.libs")):
            subprocess.run(["cp", "-a", each, folder], check=True)
        programs = Path(folder) / package.name / "pginstall" / "bin"
        before = modes(project) | modes(binaries())
        assert before[Path(folder)] & 0o077 == 0
        for _ in range(2):
            with embedded_postgres(
                project / "data", settings={"fsync": "off"}, programs=programs
            ) as dsn:
                with psycopg.connect(dsn, autocommit=True) as conn:
                    conn.execute("create table if not exists kept (x int)")
        assert modes(project) | modes(binaries()) == before
        assert (project / "data").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_a_folder_of_another_user_is_refused() -> None:
    with tempfile.TemporaryDirectory(prefix="pgqueue-other-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        shutil.chown(data, "nobody")
        with pytest.raises(ConfigError, match="belongs to another user"), embedded_postgres(data):
            pass
