"""A migration that must wait for a lock lets the queue go on, and says who is in its way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from pgqueue import PgQueueError, schema
from tests.support import eventually
from tests.upgrades import next_release


@pytest.fixture
def reader(dsn: str) -> Iterator[psycopg.Connection]:
    """Somebody's report: a transaction that has read the jobs and goes on."""
    with psycopg.connect(dsn, application_name="report") as conn:
        conn.execute("select count(*) from pgqueue.jobs")
        yield conn


def waiting(conn: psycopg.Connection, mode: str = "AccessExclusiveLock") -> bool:
    row = conn.execute(
        "select count(*) from pg_locks join pg_database d on d.oid = database"
        " where not granted and mode = %s and d.datname = current_database()",
        [mode],
    ).fetchone()
    return row != (0,)


def test_a_long_reader_does_not_stop_the_queue(
    dsn: str, conn: psycopg.Connection, reader: psycopg.Connection
) -> None:
    migrator = subprocess.Popen(
        [sys.executable, "-m", "pgqueue", "migrate", "--to", "base", "--yes", "--wait", "60s"],
        env={**os.environ, "PGQUEUE_DSN": dsn}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    conn.execute("set statement_timeout = '20s'")
    for _ in range(3):
        eventually(lambda: waiting(conn))
        conn.execute("select pgqueue.enqueue('t')")
    assert migrator.poll() is None
    reader.rollback()
    _, errors = migrator.communicate(timeout=60)
    assert migrator.returncode == 0, errors
    assert schema.stamp(conn) is None


def test_it_gives_up_and_names_who_is_in_the_way(
    dsn: str, conn: psycopg.Connection, reader: psycopg.Connection
) -> None:
    with pytest.raises(
        PgQueueError, match="this step changed nothing: other sessions hold"
    ) as gave_up:
        schema.downgrade(dsn, wait=0)
    assert f"pid {reader.info.backend_pid}, report, user " in str(gave_up.value)
    assert "\n" not in str(gave_up.value)
    assert schema.version(conn) is not None
    conn.execute("select pgqueue.enqueue('t')")


@pytest.fixture
def next_migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = next_release.migrations(tmp_path)
    monkeypatch.setattr(schema, "migrations_path", lambda: copy)


@pytest.mark.usefixtures("next_migrations")
def test_an_upgrade_behind_an_exclusive_lock(dsn: str, reader: psycopg.Connection) -> None:
    reader.rollback()
    reader.execute("lock table pgqueue.jobs in access exclusive mode")
    with pytest.raises(PgQueueError, match="report"):
        schema.upgrade(dsn, wait=0)
    reader.rollback()
    schema.upgrade(dsn, wait=0)


@pytest.mark.usefixtures("next_migrations")
@pytest.mark.parametrize("at", range(schema.EXPECTED, next_release.NEWEST))
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_who_has_read_may_write(empty_dsn: str, at: int, up: bool) -> None:
    """No revision holds a lock on the jobs while it waits for a stronger one on them."""
    schema.upgrade(empty_dsn, to=str(at if up else at + 1))
    go, to = (schema.upgrade, at + 1) if up else (schema.downgrade, at)
    with (
        psycopg.connect(empty_dsn) as reader,
        psycopg.connect(empty_dsn, autocommit=True) as looker,
        ThreadPoolExecutor(1) as pool,
    ):
        reader.execute("select count(*) from pgqueue.jobs")
        migration = pool.submit(go, empty_dsn, to=str(to))
        eventually(lambda: migration.done() or waiting(looker))
        reader.execute("insert into pgqueue.jobs (task) values ('t')")
        reader.commit()
        migration.result(timeout=60)
        revision = looker.execute("select version_num from pgqueue.alembic_version").fetchone()
        assert revision == (f"pgqueue_{to:04d}",)


def test_a_deadlock_is_a_lock_that_was_not_to_be_had(empty_dsn: str) -> None:
    """On a server that looks for deadlocks early; the tables are dropped in the order workers, queues, jobs."""
    schema.upgrade(empty_dsn)
    with (
        psycopg.connect(empty_dsn) as other,
        psycopg.connect(empty_dsn) as reader,
        psycopg.connect(empty_dsn, autocommit=True) as looker,
        ThreadPoolExecutor(2) as pool,
    ):
        looker.execute(
            f"alter database {looker.info.dbname} set deadlock_timeout = '10ms'".encode()
        )
        other.execute("select from pgqueue.queues")
        reader.execute("select from pgqueue.jobs")
        reader.execute("set local deadlock_timeout = '60s'")
        migration = pool.submit(schema.downgrade, empty_dsn)
        eventually(lambda: waiting(looker))
        reading = pool.submit(reader.execute, "select from pgqueue.workers")
        eventually(lambda: waiting(looker, "AccessShareLock"))
        other.rollback()
        reading.result(timeout=60)
        reader.rollback()
        migration.result(timeout=60)
        assert schema.stamp(reader) is None


def test_the_printed_sql_gives_up_as_well() -> None:
    assert schema.sql().startswith("BEGIN;\n\nset local lock_timeout = '500ms';")
