"""A migration that must wait for a lock lets the queue go on, and says who is in its way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from pgqueue import PgQueueError, schema
from tests.support import eventually


@pytest.fixture
def reader(dsn: str) -> Iterator[psycopg.Connection]:
    """Somebody's report: a transaction that has read the jobs and goes on."""
    with psycopg.connect(dsn, application_name="report") as conn:
        conn.execute("select count(*) from pgqueue.jobs")
        yield conn


def waiting(conn: psycopg.Connection) -> bool:
    row = conn.execute(
        "select count(*) from pg_locks where not granted and mode = 'AccessExclusiveLock'"
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


def test_an_upgrade_behind_an_exclusive_lock(dsn: str, reader: psycopg.Connection) -> None:
    reader.rollback()
    schema.downgrade(dsn, to="1")
    reader.execute("lock table pgqueue.jobs in access exclusive mode")
    with pytest.raises(PgQueueError, match="report"):
        schema.upgrade(dsn, wait=0)
    reader.rollback()
    schema.upgrade(dsn, wait=0)


def test_the_printed_sql_gives_up_as_well() -> None:
    assert schema.sql().startswith("BEGIN;\n\nset local lock_timeout = '500ms';")
