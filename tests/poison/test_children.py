"""Processes that a job starts are its own affair, and a worker that ends unasked is started again."""

from __future__ import annotations

import os
import signal

import psycopg
import pytest

from tests.poison import tasks
from tests.processes import Workers
from tests.support import eventually, statuses

CHILDREN = [tasks.children_thread, tasks.children_async, tasks.children_process]


@pytest.mark.parametrize("task", CHILDREN, ids=lambda task: task.name)
def test_a_signal_to_a_child_of_a_job_is_none_to_the_worker(
    workers: Workers, ledger: psycopg.Connection, task: tasks.AnyTask
) -> None:
    task.enqueue(int(signal.SIGTERM))
    if task is not tasks.children_process:  # the pool ignores SIGINT, and so do its children
        task.enqueue(int(signal.SIGINT))
    process = workers.start("--concurrency", "1")
    eventually(lambda: set(statuses(ledger).values()) == {"succeeded"})
    for _ in range(3):  # it goes on, and is the same process
        later = tasks.good.enqueue().id
        eventually(lambda later=later: statuses(ledger)[later] == "succeeded")
    pids = ledger.execute("select distinct pid from ledger where job = %s", (later,)).fetchall()
    assert pids == [(process.pid,)]
    assert process.poll() is None
    process.terminate()
    assert process.wait(20) == 0


@pytest.mark.parametrize("how", ["exit", "terminate", "interrupt"])
def test_a_worker_that_ends_unasked_with_code_0_is_started_again(
    workers: Workers, ledger: psycopg.Connection, how: str
) -> None:
    job = tasks.ends_its_worker.enqueue(how).id
    process = workers.start("--workers", "1", "--watch", "--lease", "1s")
    eventually(lambda: ledger.execute("select pid from ledger").fetchall())
    if how == "exit":
        eventually(lambda: statuses(ledger)[job] == "succeeded")
    first = ledger.execute("select pid from ledger where job = -1").fetchone()
    later = tasks.good.enqueue().id
    eventually(lambda: statuses(ledger)[later] == "succeeded")
    assert ledger.execute("select pid from ledger where job = %s", (later,)).fetchone() != first
    assert process.poll() is None
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert log.count("ended with code 0, though it was not told to") == 1
    if how != "exit":
        assert f"SIG{'TERM' if how == 'terminate' else 'INT'}: stopping" in log


def test_all_workers_of_a_supervisor_are_started_again(
    workers: Workers, ledger: psycopg.Connection
) -> None:
    process = workers.start("--workers", "2")
    client = tasks.app.client
    first = eventually(lambda: {w.pid for w in client.workers() if len(client.workers()) == 2})
    for pid in first:
        os.kill(pid, signal.SIGTERM)
    eventually(lambda: len({w.pid for w in client.workers()} - first) == 2)
    assert process.poll() is None


def test_without_anything_to_do_draining_workers_are_not_started_again(
    workers: Workers, ledger: psycopg.Connection
) -> None:
    tasks.good.enqueue()
    process = workers.start("--workers", "2", "--drain")
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "starting it again" not in log
