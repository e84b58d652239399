"""The gate: with several worker processes, never more at once than the limit says, and all of them run."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.limits import apps
from tests.processes import Workers
from tests.support import eventually, statuses

# The most that ran at one moment, by key: at each start, how many had started and not ended.
MOST = """
    select key, max(n) from (
        select a.key, (select count(*) from spans b where b.key = a.key
                          and b.started <= a.started and (b.ended is null or b.ended > a.started)) as n
          from spans a) x group by key
"""


@pytest.fixture
def workers(dsn: str, conn: psycopg.Connection) -> Iterator[Workers]:
    conn.execute(
        "create table spans (job bigint, key text, ended timestamptz,"
        " started timestamptz default clock_timestamp())"
    )
    apps.app.use(dsn=dsn)
    started = Workers(dsn, "tests.limits.apps:app")
    yield started
    started.end()
    apps.app.close()


def test_no_more_than_the_limits_over_all_workers(
    workers: Workers, conn: psycopg.Connection
) -> None:
    calls = [apps.per_key.call(f"k{n % 5}") for n in range(150)]
    calls += [apps.per_task.call("task") for _ in range(90)]
    calls += [apps.in_queue.call("queue") for _ in range(120)]
    apps.app.enqueue_many(calls)
    for _ in range(4):
        workers.start("--concurrency", "20")
    eventually(lambda: set(statuses(conn).values()) == {"succeeded"}, timeout=90)
    most = dict(conn.execute(MOST.encode()).fetchall())
    assert most["task"] <= 3
    assert most["queue"] <= 4
    assert all(most[f"k{n}"] <= 2 for n in range(5))
    # Work-conserving: the limits are also reached.
    assert most["task"] == 3
    assert most["queue"] == 4
    assert [most[f"k{n}"] for n in range(5)].count(2) >= 4


def test_a_dead_worker_gives_its_slots_back(workers: Workers, conn: psycopg.Connection) -> None:
    apps.app.enqueue_many([apps.in_queue.call("queue", 60.0)] * 4)
    victim = workers.start("--lease", "1s")
    eventually(lambda: list(statuses(conn).values()).count("running") == 4)
    apps.app.enqueue_many([apps.in_queue.call("next")] * 4)
    workers.start("--lease", "1s")
    victim.kill()
    victim.wait()
    conn.execute("update pgqueue.jobs set args = jsonb_set(args, '{seconds}', '0.01')")
    eventually(lambda: set(statuses(conn).values()) == {"succeeded"}, timeout=60)
