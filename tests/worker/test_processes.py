"""Real worker processes: killed, stopped, blocked, and cut off from their database."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgqueue.client import Client
from tests.processes import Workers
from tests.support import eventually, statuses
from tests.worker import apps


@pytest.fixture
def workers(dsn: str) -> Iterator[Workers]:
    apps.app.use(dsn=dsn)
    started = Workers(dsn)
    yield started
    started.end()
    apps.app.close()


@pytest.fixture
def notes(conn: psycopg.Connection) -> psycopg.Connection:
    conn.execute("create table notes (pid int, job bigint, text text)")
    return conn


def noted(conn: psycopg.Connection) -> list[Any]:
    return [row[0] for row in conn.execute("select text from notes").fetchall()]


def client() -> Client:
    return apps.app.client


def test_a_killed_worker_loses_nothing(workers: Workers, conn: psycopg.Connection) -> None:
    job = apps.die_once.enqueue().id
    process = workers.start("--lease", "1s")
    eventually(lambda: process.poll() == -signal.SIGKILL)
    assert statuses(conn) == {job: "running"}
    workers.start("--lease", "1s")
    eventually(lambda: statuses(conn)[job] == "succeeded")
    assert [a.outcome for a in client().attempts(job)] == ["crash"]


def test_sigterm_of_an_idle_worker(workers: Workers, conn: psycopg.Connection) -> None:
    process = workers.start()
    eventually(lambda: client().workers())
    process.terminate()
    assert process.wait(10) == 0
    assert client().workers() == []


def test_sigterm_lets_running_jobs_end_and_gives_back_the_rest(
    workers: Workers, notes: psycopg.Connection
) -> None:
    running, waiting = apps.nap.enqueue(1.0).id, apps.nap.enqueue(1.0).id
    process = workers.start("--concurrency", "1")
    eventually(lambda: noted(notes))
    process.terminate()
    assert process.wait(20) == 0
    assert noted(notes) == ["start", "end"]
    assert statuses(notes) == {running: "succeeded", waiting: "pending"}
    assert client().job(waiting).attempt == 0


@pytest.mark.parametrize("signals", [1, 2], ids=["after-the-grace", "second-signal"])
def test_what_does_not_end_is_interrupted_and_retried(
    workers: Workers, notes: psycopg.Connection, signals: int
) -> None:
    job, thread = apps.wait.enqueue().id, apps.stubborn.enqueue().id
    process = workers.start("--grace", "0.2s" if signals == 1 else "1h")
    eventually(lambda: len(noted(notes)) == 2)
    process.terminate()
    if signals == 2:  # two at once are delivered as one
        eventually(lambda: process.poll() is not None or process.terminate())
    assert process.wait(20) == 0
    assert statuses(notes) == {job: "pending", thread: "pending"}
    assert client().job(job).attempt == 0  # a deploy uses up no retry
    assert client().attempts(job)[0].error_type == "WorkerStopped"


def test_the_supervisor_restarts_a_killed_worker_and_stops_all(
    workers: Workers, notes: psycopg.Connection
) -> None:
    process = workers.start("--workers", "2")
    first = eventually(lambda: {w.pid for w in client().workers() if len(client().workers()) == 2})
    os.kill(min(first), signal.SIGKILL)
    eventually(lambda: {w.pid for w in client().workers()} - first)
    apps.note.enqueue("still working")
    eventually(lambda: noted(notes) == ["still working"])
    process.terminate()
    assert process.wait(20) == 0
    pids = first | {w.pid for w in client().workers()}
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_workers_end_with_a_killed_supervisor(workers: Workers, conn: psycopg.Connection) -> None:
    process = workers.start("--workers", "2")
    eventually(lambda: len(client().workers()) == 2)
    pids = [w.pid for w in client().workers()]
    process.kill()
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_lost_connections_come_back(workers: Workers, notes: psycopg.Connection) -> None:
    process = workers.start("--poll", "60s")
    eventually(lambda: client().workers())
    for text in ("one", "two"):
        notes.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        apps.app.close()
        apps.note.enqueue(text)
        eventually(lambda text=text: text in noted(notes))
    assert process.poll() is None


def test_drain_ends_when_nothing_is_due(workers: Workers, notes: psycopg.Connection) -> None:
    apps.note.enqueue("now")
    later = apps.note.with_delay("1h").enqueue("later").id
    process = workers.start("--drain")
    assert process.wait(20) == 0
    assert noted(notes) == ["now"]
    assert statuses(notes)[later] == "pending"


def test_max_jobs_ends_the_process(workers: Workers, notes: psycopg.Connection) -> None:
    for number in range(5):
        apps.note.enqueue(str(number))
    process = workers.start("--max-jobs", "2", "--concurrency", "1")
    assert process.wait(20) == 0
    done = len(noted(notes))
    assert 2 <= done < 5
    assert sorted(statuses(notes).values()) == ["pending"] * (5 - done) + ["succeeded"] * done


def test_logs_hold_no_arguments(workers: Workers, notes: psycopg.Connection) -> None:
    apps.note.enqueue("a secret")
    conn_error = workers.start("--drain", "--log-format", "json", "--log-level", "debug")
    _, log = conn_error.communicate(timeout=30)
    assert noted(notes) == ["a secret"]
    assert "a secret" not in log
