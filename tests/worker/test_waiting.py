"""What waits for a slot or a process: no time counts against it, and others may have it after a moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pebble.pool.base_pool import PoolStatus

from pgqueue import App
from tests.processes import Workers
from tests.support import drain, eventually, eventually_async, statuses, working
from tests.worker import apps, slow_tasks


@pytest.fixture
def slow(dsn: str) -> Iterator[App]:
    slow_tasks.app.use(dsn=dsn)
    yield slow_tasks.app
    slow_tasks.app.close()


def running(conn: psycopg.Connection) -> list[int]:
    return [job for job, status in statuses(conn).items() if status == "running"]


async def test_a_timeout_starts_when_the_handler_starts_in_its_process(
    slow: App, conn: psycopg.Connection
) -> None:
    # One after another they need more than the timeout, before the first there is the start of the process.
    slow.enqueue_many([slow_tasks.timed_process.call(0.5) for _ in range(6)])
    await drain(slow, concurrency=6, processes=1)
    assert set(statuses(conn).values()) == {"succeeded"}
    longest = conn.execute("select max(run_seconds) from pgqueue.jobs").fetchone()
    assert longest is not None
    assert longest[0] < 2  # nor is the wait shown as run time


async def test_a_timeout_still_ends_a_handler_in_a_process(
    slow: App, conn: psycopg.Connection
) -> None:
    job = slow_tasks.timed_process.enqueue(60).id
    await drain(slow, processes=1)
    assert slow.client.job(job).last_error == "TimeoutError: ran longer than 2 s"


async def test_no_more_process_jobs_are_held_than_there_are_processes(
    slow: App, conn: psycopg.Connection, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    first = [job.id for job in slow.enqueue_many([slow_tasks.gated_process.call(str(gate))] * 8)]
    beside = [job.id for job in slow.enqueue_many([slow_tasks.quick.call()] * 5)]
    async with working(slow, concurrency=10, processes=2, poll=0.05) as runtime:
        # They come behind in the queue, and have slots all the same.
        await eventually_async(lambda: {statuses(conn)[i] for i in beside} == {"succeeded"})
        await eventually_async(lambda: len(running(conn)) == 2)
        before = conn.execute("select sum(n_tup_upd) from pg_stat_user_tables").fetchone()
        later = [job.id for job in slow.enqueue_many([slow_tasks.quick.call()] * 5)]
        await eventually_async(lambda: {statuses(conn)[i] for i in later} == {"succeeded"})
        assert running(conn) == first[:2]  # in their order
        assert sum(executor.slots.taken for executor in runtime.executors) <= 8 + 10 + 10, before
        gate.touch()
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
    assert conn.execute("select max(attempt), max(crashes) from pgqueue.jobs").fetchone() == (1, 0)


async def test_jobs_that_wait_for_a_slot_are_given_to_a_worker_that_is_idle(
    slow: App, conn: psycopg.Connection, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    long = [job.id for job in slow.enqueue_many([slow_tasks.gated.call(str(gate))] * 4)]
    short = [job.id for job in slow.enqueue_many([slow_tasks.quick.call()] * 4)]
    async with working(slow, concurrency=4, prefetch=4) as busy:
        await eventually_async(lambda: busy.executors[0].slots.taken == 8)
        await eventually_async(lambda: sorted(running(conn)) == long)  # given back
        executor = busy.executors[0]
        taken = executor.slots.taken
        assert taken == 4
        assert {conn.execute("select attempt from pgqueue.jobs where id = %s", [i]).fetchone() for i in short} == {(0,)}  # fmt: skip
        async with working(slow, concurrency=4):
            await eventually_async(lambda: {statuses(conn)[i] for i in short} == {"succeeded"})
        assert executor.slots.taken == taken  # it did not claim them again and again
        gate.touch()
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
    assert conn.execute("select max(attempt) from pgqueue.jobs").fetchone() == (1,)


async def test_a_process_job_sent_behind_a_long_one_is_taken_back(
    slow: App, conn: psycopg.Connection, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with working(slow, concurrency=4, processes=1, prefetch=0) as runtime:
        slow_tasks.quick_process.enqueue()  # short ones: from now on one is sent ahead
        await eventually_async(lambda: runtime.handlers._processes._average is not None)
        runtime.handlers._processes._average = 0.001
        slow.enqueue_many(
            [slow_tasks.gated_process.call(str(gate)), slow_tasks.quick_process.call()]
        )
        long, behind = sorted(statuses(conn))[1:]
        await eventually_async(lambda: running(conn) == [long, behind])
        await eventually_async(lambda: running(conn) == [long])
        gate.touch()
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
    assert conn.execute("select max(attempt) from pgqueue.jobs").fetchone() == (1,)


async def test_a_pool_that_breaks_is_replaced_and_costs_no_attempt_of_what_had_not_begun(
    slow: App, conn: psycopg.Connection
) -> None:
    async with working(slow, processes=1) as runtime:
        first = slow_tasks.who.enqueue()
        pid = await first.aresult(30)
        pool = runtime.handlers._processes._pool
        assert pool is not None
        pool._context.status = PoolStatus.ERROR  # as pebble marks one that is broken
        second = await slow_tasks.who.enqueue().aresult(30)
        assert second != pid
    assert conn.execute("select max(attempt) from pgqueue.jobs").fetchone() == (1,)


def test_a_worker_whose_directory_was_removed_says_so_and_uses_no_attempt(
    dsn: str, conn: psycopg.Connection, tmp_path: Path
) -> None:
    apps.app.use(dsn=dsn)
    here = tmp_path / "gone"
    here.mkdir()
    workers = Workers(dsn)
    workers.env["PYTHONPATH"] = str(Path.cwd())
    process = workers.start(cwd=here)
    eventually(apps.app.client.workers)
    here.rmdir()
    job = apps.levels_process.enqueue().id
    eventually(lambda: apps.app.client.attempts(job))
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "the working directory of this worker was removed: start it again" in log
    (attempt,) = apps.app.client.attempts(job)[:1]
    assert attempt.error_type == "ProcessNotStarted"
    row = apps.app.client.job(job)
    assert (row.status, row.attempt) == ("pending", 0)
    apps.app.close()
