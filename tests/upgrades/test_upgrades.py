"""Each code on the schema of the other, and a migration while both work: nothing lost, nothing twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgqueue import schema
from tests.support import eventually, set_schema_version
from tests.upgrades import next_release

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Release:
    """The code of one version: its own folder, its own processes."""

    def __init__(self, folder: Path, code: Path, dsn: str) -> None:
        folder.mkdir()
        shutil.copy(HERE / "load.py", folder)
        self.folder = folder
        self.env = {**os.environ, "PGQUEUE_DSN": dsn, "PYTHONPATH": str(code)}
        self.processes: list[subprocess.Popen[str]] = []

    def python(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=self.folder, env=self.env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def work(self, *options: str) -> subprocess.Popen[str]:
        return self.python("-m", "pgqueue", "work", "--app", "load:app", *options)

    def produce(self) -> subprocess.Popen[str]:
        process = self.python("load.py")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def expected_schema(self) -> str:
        return self.python(
            "-c", "from pgqueue import schema; print(schema.EXPECTED)"
        ).communicate()[0]


@pytest.fixture
def releases(empty_dsn: str, tmp_path: Path) -> Iterator[tuple[Release, Release]]:
    """This code and the next release's, on a database with this code's schema."""
    old = Release(tmp_path / "old", ROOT, empty_dsn)
    (tmp_path / "code").mkdir()
    new = Release(tmp_path / "new", next_release.code(tmp_path / "code"), empty_dsn)
    schema.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("create table effects (job bigint)")
    yield old, new
    for process in (*old.processes, *new.processes):
        process.kill()
        process.communicate()


def migrate(release: Release) -> None:
    process = release.python("-m", "pgqueue", "migrate")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def one(conn: psycopg.Connection, query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def stop_producing(*producers: subprocess.Popen[str]) -> int:
    """End producers; how many jobs they enqueued."""
    answers = [producer.communicate("stop\n", timeout=60) for producer in producers]
    assert [errors for _, errors in answers] == [""] * len(producers)
    return sum(int(out) for out, _ in answers)


def stop_working(*workers: subprocess.Popen[str]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        _, log = worker.communicate(timeout=60)
        assert worker.returncode == 0, log
        for word in ("Traceback", "claims were lost", "permission denied", "failed "):
            assert word not in log.replace("attempt 1: retry", ""), log


def assert_each_once(conn: psycopg.Connection, enqueued: int) -> None:
    eventually(
        lambda: one(conn, "select count(*) from pgqueue.jobs where status <> 'succeeded'") == 0,
        timeout=60,
    )
    assert one(conn, "select count(*) from pgqueue.jobs") == enqueued
    assert one(conn, "select count(*) from effects") == enqueued
    assert one(conn, "select count(distinct job) from effects") == enqueued


def effects(conn: psycopg.Connection, at_least: int) -> None:
    eventually(lambda: one(conn, "select count(*) from effects") >= at_least, timeout=60)


def test_each_release_expects_its_own_schema(releases: tuple[Release, Release]) -> None:
    old, new = releases
    assert int(old.expected_schema()) == schema.EXPECTED
    assert int(new.expected_schema()) == next_release.NEWEST


@pytest.mark.parametrize("code", ["this", "next"])
def test_both_releases_work_on_the_next_schema(
    releases: tuple[Release, Release], empty_dsn: str, code: str
) -> None:
    migrate(releases[1])
    release = releases[0 if code == "this" else 1]
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        assert schema.version(conn) == next_release.NEWEST
        producer, worker = release.produce(), release.work()
        effects(conn, 100)
        assert_each_once(conn, stop_producing(producer))
        stop_working(worker)


def test_a_migration_under_load(releases: tuple[Release, Release], empty_dsn: str) -> None:
    """The order of a deployment: old code runs, migrate, new code starts, old code ends."""
    old, new = releases
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        producers, workers = [old.produce()], [old.work()]
        effects(conn, 50)
        migrate(new)
        done = one(conn, "select count(*) from effects")
        workers += [new.work(), old.work()]  # the old one starts on the new schema
        producers.append(new.produce())
        effects(conn, done + 100)
        eventually(
            lambda: one(conn, "select count(distinct version || pid) from pgqueue.workers") == 3
        )
        enqueued = stop_producing(*producers)
        stop_working(*workers[::2])
        assert_each_once(conn, enqueued)
        stop_working(workers[1])


def test_new_code_before_the_migration_is_refused_in_one_line(
    releases: tuple[Release, Release],
) -> None:
    worker = releases[1].work()
    _, log = worker.communicate(timeout=60)
    assert worker.returncode == 4
    assert f"has pgqueue schema {schema.EXPECTED}, this version needs {next_release.NEWEST}" in log
    assert "run: pgqueue migrate" in log
    assert "Traceback" not in log


def test_a_schema_of_the_future(releases: tuple[Release, Release], empty_dsn: str) -> None:
    new, _ = releases
    future = schema.EXPECTED + 7
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        set_schema_version(conn, future, schema.EXPECTED)
        conn.execute("select pgqueue.enqueue('effect')")
        served = new.work("--drain")
        served.communicate(timeout=60)
        assert served.returncode == 0
        assert one(conn, "select count(*) from effects") == 1
        told = new.python("-m", "pgqueue", "migrate").communicate(timeout=60)[0]
        assert f"version {future} is newer than this one's, and serves it" in told
        set_schema_version(conn, future, future)
        refused = new.work("--drain")
        _, log = refused.communicate(timeout=60)
        assert refused.returncode == 4
        assert "install a newer pgqueue-postgres" in log
