"""Jobs that kill the process they run in are dead in the end, and nobody is dead for their company."""

from __future__ import annotations

import os
import signal

import psycopg
import pytest

from pgqueue import App
from tests.poison import tasks
from tests.processes import Workers
from tests.support import drain, eventually, statuses


def at_rest(conn: psycopg.Connection) -> bool:
    return set(statuses(conn).values()) <= {"succeeded", "dead"}


def check(conn: psycopg.Connection, killers: list[int], innocents: list[int]) -> None:
    """Killers are dead with the reason; innocents succeeded, each once."""
    seen = statuses(conn)
    assert {seen[i] for i in innocents} == {"succeeded"}
    assert {seen[i] for i in killers} == {"dead"}
    reasons = conn.execute("select last_error from pgqueue.jobs where status = 'dead'").fetchall()
    assert all("crash 3 of 3" in reason for (reason,) in reasons)
    ran = [row[0] for row in conn.execute("select job from ledger order by job").fetchall()]
    assert ran == innocents


@pytest.mark.parametrize("count", [1, 3])
def test_killers_among_innocents(workers: Workers, ledger: psycopg.Connection, count: int) -> None:
    killers, innocents = [], []
    for number in range(30):
        innocents.append(tasks.good.with_backoff(0).enqueue().id)
        if number % 10 == 5 and len(killers) < count:
            killers.append(tasks.bad_async.enqueue("kill").id)
    workers.start("--lease", "1s", "--workers", "2")
    eventually(lambda: at_rest(ledger), timeout=100)
    check(ledger, killers, innocents)


@pytest.mark.parametrize("task", [tasks.bad_async, tasks.bad_thread], ids=lambda task: task.name)
def test_each_way_to_die(workers: Workers, ledger: psycopg.Connection, task: tasks.AnyTask) -> None:
    innocents, killers = [], []
    for deed in ("kill", "segfault", "exit"):
        innocents += [tasks.good.enqueue().id, tasks.good_thread.enqueue().id]
        killers.append(task.enqueue(deed).id)
    # All, innocents too, have two crashes on record: only the company decides.
    ledger.execute("update pgqueue.jobs set crashes = 2")
    workers.start("--lease", "1s", "--workers", "2")
    eventually(lambda: at_rest(ledger), timeout=100)
    check(ledger, killers, innocents)


@pytest.mark.parametrize(
    ("deed", "error"),
    [
        ("kill", "ProcessDied: exit code -9"),
        ("segfault", "ProcessDied: exit code -11"),
        ("exit", "ProcessDied: exit code 7"),
        ("exit well", "ProcessDied: exit code 0"),
        ("memory", "MemoryError"),
    ],
)
async def test_in_a_process_only_the_job_dies(
    poison: App, conn: psycopg.Connection, deed: str, error: str
) -> None:
    good = [(await tasks.good_process.aenqueue()).id]
    killer = (await tasks.bad_process.aenqueue(deed)).id
    good += [(await task.aenqueue()).id for task in (tasks.good_process, tasks.good)]
    await drain(poison, processes=1)
    job = await poison.aclient.job(killer)
    assert (job.status, job.last_error) == ("dead", error)
    assert {statuses(conn)[i] for i in good} == {"succeeded"}
    assert conn.execute(
        "select count(*) from ledger where pid = %s", (os.getpid(),)
    ).fetchone() == (1,)


def test_process_tasks_end_with_their_worker(workers: Workers, ledger: psycopg.Connection) -> None:
    tasks.orphan.enqueue()
    process = workers.start()
    (pid,) = eventually(lambda: ledger.execute("select pid from ledger").fetchone())
    os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
