"""Handlers that never end: what can be killed is killed, what cannot costs its worker, not the queue."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from pgqueue import App, Worker
from tests.poison import tasks
from tests.processes import Workers
from tests.support import drain, eventually, eventually_async, statuses


@pytest.mark.parametrize("deed", ["loop", "deaf"])
async def test_a_process_is_killed(poison: App, conn: psycopg.Connection, deed: str) -> None:
    good = [(await tasks.good_process.aenqueue()).id]
    bad = (await tasks.loop_process.aenqueue(deed)).id
    good.append((await tasks.good_process.aenqueue()).id)
    await drain(poison, processes=1)
    assert (await poison.aclient.job(bad)).last_error == "TimeoutError: ran longer than 0.5 s"
    assert {statuses(conn)[i] for i in good} == {"succeeded"}


@pytest.mark.parametrize("task", [tasks.loop_thread, tasks.swallow], ids=lambda task: task.name)
def test_what_cannot_be_stopped_costs_its_worker(
    workers: Workers, ledger: psycopg.Connection, task: tasks.AnyTask
) -> None:
    bad = task.enqueue().id
    good = [tasks.good.enqueue().id for _ in range(3)]
    # With one slot, a handler that holds it would stop the queue.
    process = workers.start("--lease", "1s", "--concurrency", "1")
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"job {bad} ({task.name}) cannot be stopped and its lease ran out" in log

    workers.start("--lease", "1s", "--concurrency", "1", "--workers", "2")
    eventually(lambda: statuses(ledger)[bad] == "dead", timeout=60)
    eventually(lambda: {statuses(ledger)[i] for i in good} == {"succeeded"})
    # It has timed out twice, as its attempts say; it has crashed nobody.
    row = tasks.app.client.job(bad)
    assert (row.attempt, row.crashes) == (2, 0)
    assert [each.error_type for each in tasks.app.client.attempts(bad)] == ["TimeoutError"] * 2
    assert "ran longer than 0.2 s" in (row.last_error or "")


async def test_a_worker_inside_another_program_goes_on_without_the_slot(
    poison: App, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.let_go.clear()
    await tasks.swallow.aenqueue()
    worker = Worker(poison, concurrency=5, lease=1)
    running = asyncio.create_task(worker.arun())
    await eventually_async(lambda: "its slot is lost until this process ends" in caplog.text)
    good = (await tasks.good.aenqueue()).id
    await eventually_async(lambda: statuses(conn)[good] == "succeeded")
    tasks.let_go.set()
    worker.stop()
    await running


def test_a_blocked_event_loop_keeps_its_job(workers: Workers, ledger: psycopg.Connection) -> None:
    good = [tasks.good_thread.enqueue().id]
    job = tasks.block.enqueue(3.5).id
    good.append(tasks.good.enqueue().id)
    workers.start("--lease", "1s")
    workers.start("--lease", "1s")
    eventually(lambda: set(statuses(ledger).values()) == {"succeeded"})
    assert tasks.app.client.job(job).attempt == 1
    ran = [row[0] for row in ledger.execute("select job from ledger order by job").fetchall()]
    assert ran == sorted([*good, job])
