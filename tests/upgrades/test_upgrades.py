"""Each code on the schema of the other, and a migration while both work: nothing lost, nothing twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgqueue import schema
from tests.support import eventually

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PREVIOUS = 3  # of the wheel


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
    """The previous code and this one, on a database with the previous schema."""
    (wheel,) = HERE.glob("previous/*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "code")
    old = Release(tmp_path / "old", tmp_path / "code", empty_dsn)
    new = Release(tmp_path / "new", ROOT, empty_dsn)
    schema.upgrade(empty_dsn, to=str(PREVIOUS))
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("create table effects (job bigint)")
    yield old, new
    for process in (*old.processes, *new.processes):
        process.kill()
        process.communicate()


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


def test_the_previous_code_is_the_previous_code(releases: tuple[Release, Release]) -> None:
    old, new = releases
    assert int(old.expected_schema()) == PREVIOUS
    assert int(new.expected_schema()) == schema.EXPECTED


@pytest.mark.parametrize("code", ["previous", "this"])
@pytest.mark.parametrize("at", [PREVIOUS, 4, schema.EXPECTED], ids=lambda n: f"schema {n}")
def test_each_code_on_each_schema(
    releases: tuple[Release, Release], empty_dsn: str, code: str, at: int
) -> None:
    release = releases[0 if code == "previous" else 1]
    schema.upgrade(empty_dsn, to=str(at))
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
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
        schema.upgrade(empty_dsn)
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


def test_new_code_before_the_migration(releases: tuple[Release, Release], empty_dsn: str) -> None:
    """The order somebody will get wrong: it works, and says what is left to do."""
    _, new = releases
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        producer, worker = new.produce(), new.work()
        effects(conn, 50)
        schema.upgrade(empty_dsn)
        effects(conn, one(conn, "select count(*) from effects") + 50)
        assert_each_once(conn, stop_producing(producer))
        worker.terminate()
        _, log = worker.communicate(timeout=60)
        assert f"schema {PREVIOUS} works, but run: pgqueue migrate" in log


def test_a_schema_of_the_future(releases: tuple[Release, Release], empty_dsn: str) -> None:
    _, new = releases
    future = schema.EXPECTED + 7
    schema.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(
            f"comment on schema pgqueue is 'pgqueue schema {future}, serves schema {schema.EXPECTED}'".encode()
        )
        conn.execute("select pgqueue.enqueue('effect')")
        served = new.work("--drain")
        served.communicate(timeout=60)
        assert served.returncode == 0
        assert one(conn, "select count(*) from effects") == 1
        told = new.python("-m", "pgqueue", "migrate").communicate(timeout=60)[0]
        assert f"version {future} is newer than this one's, and serves it" in told
        conn.execute(
            f"comment on schema pgqueue is 'pgqueue schema {future}, serves schema {future}'".encode()
        )
        refused = new.work("--drain")
        _, log = refused.communicate(timeout=60)
        assert refused.returncode == 4
        assert "install a newer pgqueue-postgres" in log
