"""Indexes of a table with jobs are built while the queue works, and again if that was cut short."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgqueue import PgQueueError, schema
from tests.support import eventually
from tests.upgrades import next_release

INVALID = "select count(*) from pg_index where not indisvalid"
VALID = (
    "select count(*) from pg_index where indisvalid and indrelid = 'pgqueue.jobs'::regclass"
    " and indexrelid::regclass::text like '%jobs_note%'"
)

BUILDERS = (
    "select count(pg_terminate_backend(pid)) from pg_stat_activity"
    " where query ilike '%index concurrently%' and datname = current_database() and pid <> pg_backend_pid()"
)


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The code of the next release, whose migrations this process uses too."""
    code = next_release.code(tmp_path)
    monkeypatch.setattr(schema, "migrations_path", lambda: code / "migrations")
    return code


@pytest.fixture
def older(empty_dsn: str, newer: Path) -> Iterator[psycopg.Connection]:
    """A database before the indexes, with a job, and a transaction with a snapshot."""
    schema.upgrade(empty_dsn, to="2")
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("select pgqueue.enqueue('t')")
        conn.commit()
        conn.execute("set transaction isolation level repeatable read")
        conn.execute("select 1")
        yield conn


def migrate(dsn: str, code: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "pgqueue", "migrate"], cwd=code,
        env={**os.environ, "PGQUEUE_DSN": dsn}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def count(conn: psycopg.Connection, query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_writes_go_on_while_an_index_waits(
    older: psycopg.Connection, empty_dsn: str, newer: Path
) -> None:
    migrator = migrate(empty_dsn, newer)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        # It waits for the older transaction, with an index that is not finished.
        eventually(lambda: count(conn, INVALID) == 1)
        conn.execute("set lock_timeout = '5s'")
        conn.execute("select pgqueue.enqueue('t')")
        conn.execute("update pgqueue.jobs set status = 'succeeded', finished_at = now()")
        assert migrator.poll() is None
        older.rollback()
        _, errors = migrator.communicate(timeout=60)
        assert migrator.returncode == 0, errors
        assert (count(conn, VALID), count(conn, INVALID)) == (2, 0)
        assert schema.version(conn) == next_release.NEWEST


def test_a_build_that_was_cut_short_is_done_again(
    older: psycopg.Connection, empty_dsn: str, newer: Path
) -> None:
    migrator = migrate(empty_dsn, newer)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        eventually(lambda: count(conn, INVALID) == 1)
        migrator.kill()
        migrator.communicate()
        eventually(lambda: not count(conn, BUILDERS))
        older.rollback()
        assert count(conn, INVALID) == 1
        assert schema.version(conn) == 2
        schema.upgrade(empty_dsn)
        assert (count(conn, VALID), count(conn, INVALID)) == (2, 0)


def test_an_index_of_somebody_else_stays(older: psycopg.Connection, empty_dsn: str) -> None:
    older.rollback()
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("select pgqueue.enqueue('t')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute("create unique index concurrently mine on pgqueue.jobs (task)")
        schema.upgrade(empty_dsn)
        assert conn.execute("select to_regclass('pgqueue.mine')::text").fetchone() == (
            "pgqueue.mine",
        )
        assert count(conn, VALID) == 2


@pytest.mark.usefixtures("newer")
def test_an_index_in_a_schema_of_another_name(empty_dsn: str) -> None:
    schema.upgrade(empty_dsn, schema="jobs_here", to="2")
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("select jobs_here.enqueue('t')")
        schema.upgrade(empty_dsn, schema="jobs_here")
        assert count(conn, VALID.replace("pgqueue.", "jobs_here.")) == 2


def test_others_that_want_to_migrate_do_not_hold_up_an_index(
    older: psycopg.Connection, empty_dsn: str, newer: Path
) -> None:
    """One that waited in the server would hold a snapshot, for which the build would wait as well."""
    migrators = [migrate(empty_dsn, newer)]
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        eventually(lambda: count(conn, INVALID) == 1)
        migrators += [migrate(empty_dsn, newer) for _ in range(2)]
        tries = "select count(*) from pg_stat_activity where query ilike '%try_advisory%' and datname = current_database()"
        eventually(lambda: count(conn, tries) >= 2)
        older.rollback()
        for migrator in migrators:
            _, errors = migrator.communicate(timeout=60)
            assert migrator.returncode == 0, errors
        assert (count(conn, VALID), count(conn, INVALID)) == (2, 0)


def test_a_migration_that_another_holds_up_says_so(
    older: psycopg.Connection, empty_dsn: str, newer: Path
) -> None:
    migrator = migrate(empty_dsn, newer)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        eventually(lambda: count(conn, INVALID) == 1)
        with pytest.raises(PgQueueError, match="another migration of this database is under way"):
            schema.upgrade(empty_dsn, wait=0)
        older.rollback()
        _, errors = migrator.communicate(timeout=60)
        assert migrator.returncode == 0, errors
