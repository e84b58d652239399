"""Passwords of connection strings are never printed, however the string is written and fails."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from pgqueue import App, ConfigError
from pgqueue.cli.failures import explain
from pgqueue.connect import (
    asyncpg_uri,
    connect_async,
    connect_pipelined,
    connect_sync,
    describe,
    parse,
    without_passwords,
)
from pgqueue.embedded import embedded_postgres
from pgqueue.schema import upgrade
from pgqueue.sync_pool import SyncPool
from pgqueue.worker.database import Database, DatabaseAway
from tests.cli.support import Cli

ODD = "hunter2'\\ @:/?#%&=+ü"
QUOTED = ODD.replace("\\", "\\\\").replace("'", "\\'")
UNREACHABLE = [
    "postgresql://u:hunter2@127.0.0.1:1/x",
    f"postgresql://u:{quote(ODD, safe='')}@127.0.0.1:1/x",
    "postgresql+psycopg://u:hunter2@127.0.0.1:1/x",
    "host=127.0.0.1 port=1 user=u password=hunter2 dbname=x",
    f"host=127.0.0.1 port=1 user=u password='{QUOTED}'",
    "postgresql://127.0.0.1:1/x?user=u&password=hunter2&sslpassword=hunter2",
    "host=127.0.0.1 port=1 sslpassword=hunter2 sslmode=prefer",
]
MALFORMED = [
    "postgresql://u:hunter2/hunter2@127.0.0.1:1/x",
    "postgresql://u:a@hunter2@127.0.0.1:1/x",
    "postgresql://u:hunter2:hunter2/@127.0.0.1:1/x",
    "postgresql://u:hunter2%zz@127.0.0.1:1/x",
    "host=127.0.0.1 password=my hunter2",
    "host=127.0.0.1 password='hunter2",
    "hunter2",
    "mysql://u:hunter2@h/x",
    "postgresql://u:p@h/x?hunter2",
    "postgresql://u:p@h/x?hunter2=1",
]


def test_odd_passwords_are_read_the_same_by_both_drivers() -> None:
    for dsn in UNREACHABLE:
        password = parse(dsn).get("password")
        assert password in ("hunter2", ODD, None)
        assert parse(asyncpg_uri(dsn)).get("password") == password
        assert "hunter2" not in describe(dsn)


@pytest.mark.parametrize("dsn", UNREACHABLE)
def test_an_unreachable_database(dsn: str) -> None:
    done = Cli(dsn)("migrate" if dsn is UNREACHABLE[0] else "list", code=3)
    assert "cannot reach the database" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("dsn", MALFORMED)
def test_a_malformed_dsn(dsn: str) -> None:
    with pytest.raises(ConfigError) as caught, App(dsn) as app:
        app.client.stats()
    text = "".join(map(repr, _chain(caught.value)))
    assert "hunter2" not in text
    assert "DSN" in text


def test_a_malformed_dsn_on_the_command_line() -> None:
    done = Cli(MALFORMED[0])("list", code=2)
    assert "percent-encoded" in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("dsn", UNREACHABLE)
async def test_the_log_of_a_worker(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    from pgqueue.operations.maintenance import stats

    with caplog.at_level(logging.DEBUG), pytest.raises(DatabaseAway) as away:
        await Database(dsn, "pgqueue").run(stats())
    assert "no database" in caplog.text
    assert "hunter2" not in caplog.text + str(away.value)


@pytest.mark.parametrize(
    "error",
    [psycopg.OperationalError, asyncpg.PostgresError, OSError, ConnectionError, ValueError],
)
def test_an_error_that_echoes_the_dsn(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "swordfish")
    for dsn in UNREACHABLE:
        password: Any = parse(dsn).get("password") or "hunter2"
        said = f"no {dsn} {password} {quote(password)} {password!r} swordfish"
        with pytest.raises(error) as caught, without_passwords(dsn):
            try:
                raise KeyError(said)
            except KeyError as cause:
                raise error(said) from cause
        text = "".join(map(str, _chain(caught.value)))
        assert "hunter2" not in text
        assert "swordfish" not in text


CONNECTS: dict[str, Callable[[str], Any]] = {
    "async": lambda dsn: asyncio.run(connect_async(dsn)),
    "pipelined": lambda dsn: asyncio.run(connect_pipelined(dsn)),
    "sync": connect_sync,
    "pool": lambda dsn: SyncPool(dsn, size=1, ours=True).lend(),
    "migration": upgrade,
}


@pytest.mark.parametrize("hosts", ["h", "h,i,j"])
@pytest.mark.parametrize("how", CONNECTS)
def test_every_way_to_connect(how: str, hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def echo(*given: object, **_: object) -> None:
        raise psycopg.OperationalError(f"cannot use {given[-1]}")

    async def echo_async(uri: str, **_: object) -> None:
        raise OSError(f"cannot use {uri}")

    monkeypatch.setattr(asyncpg, "connect", echo_async)
    monkeypatch.setattr(psycopg, "connect", echo)
    monkeypatch.setattr(psycopg.Connection, "connect", classmethod(echo))
    monkeypatch.setattr(psycopg.AsyncConnection, "connect", echo)
    with pytest.raises(Exception, match="cannot use") as caught:
        CONNECTS[how](f"host={hosts} user=u password=hunter2")
    assert "hunter2" not in "".join(map(str, _chain(caught.value)))


def _chain(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def test_sqlalchemys_error_is_one_line() -> None:
    inner = psycopg.OperationalError("connection failed\nmore")
    wrapped = OperationalError("select 1", {"password": "hunter2"}, inner)
    assert explain(wrapped) == (3, "cannot reach the database: connection failed")


@pytest.fixture(scope="module")
def locked() -> Any:
    """A server that asks for passwords, and its address."""
    with embedded_postgres(settings={"password_encryption": "scram-sha-256"}) as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("create role keeper login superuser password 'right-one'")
            row = conn.execute("show hba_file").fetchone()
            assert row is not None
            Path(row[0]).write_text("host all all 127.0.0.1/32 scram-sha-256\n")
            conn.execute("select pg_reload_conf()")
        yield parse(dsn)["port"]


@pytest.mark.parametrize("how", ["uri", "words", "PGPASSWORD", "passfile"])
def test_a_wrong_password(
    locked: str, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dsn = {
        "uri": f"postgresql://keeper:hunter2@127.0.0.1:{locked}/postgres",
        "words": f"host=127.0.0.1 port={locked} user=keeper password=hunter2 dbname=postgres",
    }.get(how, f"host=127.0.0.1 port={locked} user=keeper dbname=postgres")
    if how == "PGPASSWORD":
        monkeypatch.setenv("PGPASSWORD", "hunter2")
    if how == "passfile":
        file = tmp_path / "passwords"
        file.write_text("*:*:*:*:hunter2\n")
        file.chmod(0o600)
        dsn += f" passfile={file}"
    said = [Cli(dsn)("list", code=3).stderr]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed") as sync:
        connect_sync(dsn)
    with pytest.raises(asyncpg.InvalidPasswordError) as aio:
        asyncio.run(connect_async(dsn))
    said += [repr(error) for caught in (sync, aio) for error in _chain(caught.value)]
    assert "hunter2" not in "".join(said)


def test_alembic_by_itself_reads_any_dsn(empty_dsn: str) -> None:
    """migrations/env.py with PGQUEUE_DSN as key=value text."""
    code = (
        "from alembic import command; from pgqueue.schema import _config\n"
        "command.upgrade(_config('pgqueue'), 'pgqueue@head')"
    )
    for dsn, fails in ((empty_dsn, False), (UNREACHABLE[4], True)):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PGQUEUE_DSN": dsn},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode != 0) is fails, done.stderr
        assert "hunter2" not in done.stdout + done.stderr
