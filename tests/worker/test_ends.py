"""A worker ends soon after it was told to, whatever its handlers, hooks and resources do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue.config import Settings
from pgqueue.worker import last_resort
from pgqueue.worker.signals import heeded
from pgqueue.worker.threads import DaemonThreads
from tests.processes import Workers
from tests.support import eventually, statuses
from tests.worker import apps

GRACE = ("--grace", "0.2s", "--concurrency", "12")
SOON = 25  # seconds: nothing here is so slow, and what hangs does so for an hour


@pytest.fixture
def workers(dsn: str, conn: psycopg.Connection) -> Iterator[Workers]:
    conn.execute("create table notes (pid int, job bigint, text text)")
    apps.app.use(dsn=dsn)
    started = Workers(dsn)
    yield started
    for process in started.started:
        if process.poll() is None:
            process.kill()
    started.end()
    apps.app.close()


def started(conn: psycopg.Connection, number: int) -> bool:
    return conn.execute("select count(*) from notes where text = 'start'").fetchone() == (number,)


@pytest.mark.parametrize(
    "task", [apps.hangs_in_thread, apps.stubborn, apps.swallows, apps.deaf_process], ids=lambda t: t.name
)  # fmt: skip
@pytest.mark.parametrize("how", ["command", "program"])
def test_handlers_that_never_end(
    workers: Workers, conn: psycopg.Connection, task: Any, how: str
) -> None:
    number = 2 if task is apps.deaf_process else 10
    apps.app.enqueue_many([task.call()] * number)
    process = (
        workers.start(*GRACE) if how == "command" else workers.start_module("tests.worker.apps")
    )
    eventually(lambda: started(conn, number))
    process.terminate()
    assert process.wait(SOON) == 0
    if how == "command":
        assert set(statuses(conn).values()) == {"pending"}  # given back


def test_hooks_that_never_end_stop_neither_jobs_nor_the_end(
    workers: Workers, conn: psycopg.Connection
) -> None:
    workers.env["TESTS_HOOKS_HANG"] = "1"
    jobs = [job.id for job in apps.app.enqueue_many([apps.nap.call(0)] * 50)]
    process = workers.start(*GRACE)
    eventually(lambda: {statuses(conn)[i] for i in jobs} == {"succeeded"})
    process.terminate()
    assert process.wait(SOON) == 0


@pytest.mark.parametrize("moment", ["open", "close"])
def test_a_resource_that_never_opens_or_closes(
    workers: Workers, conn: psycopg.Connection, moment: str
) -> None:
    workers.env["TESTS_RESOURCE_HANGS"] = moment
    process = workers.start(*GRACE)
    if moment == "close":
        eventually(apps.app.client.workers)
    else:
        eventually(lambda: conn.execute(
            "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
            " and application_name like 'pgqueue%'").fetchone() is not None)  # fmt: skip
        time.sleep(0.5)
    process.terminate()
    assert process.wait(SOON) == 0


def test_a_handler_that_blocks_the_event_loop(workers: Workers, conn: psycopg.Connection) -> None:
    apps.blocks.enqueue()
    process = workers.start(*GRACE)
    eventually(lambda: started(conn, 1))
    process.terminate()
    assert process.wait(last_resort.AFTER_GRACE + SOON) == 1
    assert process.stderr is not None
    assert "its process ends now" in process.stderr.read()


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (signal.SIGHUP, []),
        (signal.SIGINT, []),
        (signal.SIGHUP, ["--workers", "2"]),
    ],
    ids=["hangup", "interrupt", "hangup-of-a-supervisor"],
)
def test_each_signal_lets_running_jobs_end(
    workers: Workers, conn: psycopg.Connection, number: signal.Signals, options: list[str]
) -> None:
    job = apps.nap.enqueue(1.0).id
    process = workers.start(*options)
    eventually(lambda: started(conn, 1))
    process.send_signal(number)
    assert process.wait(SOON) == 0
    assert statuses(conn) == {job: "succeeded"}


@pytest.mark.parametrize("task", [apps.nap, apps.nap_process], ids=lambda t: t.name)
@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["one", "supervised"])
def test_a_signal_to_every_process_is_one(
    workers: Workers, conn: psycopg.Connection, task: Any, options: list[str]
) -> None:
    """As systemd and container runtimes send it to all that belongs to a service."""
    job = task.enqueue(1.0).id
    process = workers.start(*options)
    eventually(lambda: started(conn, 1))
    for pid in [process.pid, *descendants(process.pid)]:
        os.kill(pid, signal.SIGTERM)
    assert process.wait(SOON) == 0
    assert statuses(conn) == {job: "succeeded"}


@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["one", "supervised"])
def test_what_a_worker_says_of_a_second_signal(
    workers: Workers, conn: psycopg.Connection, options: list[str]
) -> None:
    apps.hangs_in_thread.enqueue()
    process = workers.start("--grace", "1h", *options)
    eventually(lambda: started(conn, 1))
    process.terminate()
    eventually(lambda: {w.state for w in apps.app.client.workers()} <= {"stopping"})
    process.terminate()
    _, log = process.communicate(timeout=SOON)
    assert "SIGTERM: stopping" in log
    assert "asked to stop again: stopping without waiting for the jobs that run" in log
    assert "SIGINT" not in log


def test_a_suspect_has_the_grace_time_too(workers: Workers, conn: psycopg.Connection) -> None:
    """Its process is told once, though the worker beside it has nothing left to do."""
    job = apps.nap.enqueue(2.0).id
    conn.execute("update pgqueue.jobs set crashes = 2, quarantine = 16")
    process = workers.start("--grace", "1h")
    eventually(lambda: started(conn, 1))
    process.terminate()
    assert process.wait(SOON) == 0
    assert statuses(conn) == {job: "succeeded"}


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in map(int, children) for each in (child, *descendants(child))]


def test_a_worker_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in heeded()
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert signal.SIGHUP in heeded()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_worker_that_stops_is_shown_and_says_what_it_waits_for(
    workers: Workers, conn: psycopg.Connection
) -> None:
    job = apps.wait.enqueue().id
    process = workers.start("--grace", "1h")
    eventually(lambda: started(conn, 1))
    eventually(lambda: [w.state for w in apps.app.client.workers()] == ["running"])
    process.terminate()
    eventually(lambda: [w.state for w in apps.app.client.workers()] == ["stopping"])
    process.terminate()
    assert process.wait(SOON) == 0
    assert process.stderr is not None
    log = process.stderr.read()
    assert f"stopping: waits up to 3600 s for 1 job: {job} (wait, for " in log
    assert f"stopped without waiting any longer for 1 job: {job} (wait" in log


def test_the_default_grace_fits_in_what_kubernetes_gives() -> None:
    assert Settings().grace + 7 < 30


def test_threads_are_reused_and_bounded() -> None:
    threads = DaemonThreads(3, "t")
    names = {threads.submit(lambda: __import__("threading").current_thread().name).result(5) for _ in range(20)}  # fmt: skip
    assert names <= {"t_0", "t_1", "t_2"}
    held = [threads.submit(time.sleep, 0.05) for _ in range(9)]
    assert len(threads._started) == 3
    assert [each.result(5) for each in held] == [None] * 9
    failing = threads.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.result(5)
    waiting = [threads.submit(time.sleep, 60) for _ in range(5)]
    threads.shutdown(cancel_futures=True)
    assert [each.cancelled() for each in waiting[3:]] == [True, True]
    with pytest.raises(RuntimeError, match="after shutdown"):
        threads.submit(print)
