"""The claim and the statistics keep their plans under hostile statistics: buffers, not time."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg
import pytest

from pgqueue.connect import asyncpg_uri
from pgqueue.job import NewJob, Status, UniqueKey
from pgqueue.operations import (
    Operation,
    claims,
    enqueue,
    limits,
    maintenance,
    queues,
    schedules,
    workflows,
)
from pgqueue.operations.claims import Finished, Lane, Slice
from pgqueue.outcome import SUCCEEDED
from pgqueue.pinning import pin_async
from pgqueue.queues import QueueSettings
from pgqueue.schedule import Firing
from pgqueue.sql import load
from pgqueue.worker.trail import END, FRONT
from tests.model.machine import perform

LIMIT = 50
START = datetime(2000, 1, 1, tzinfo=UTC)
COMMON: dict[str, Any] = {"limit": LIMIT, "worker_id": uuid4(), "lease": 60.0}


async def explain(dsn: str, operation: Operation[Any], *, keep: bool = False) -> dict[str, Any]:
    """The plan of an operation on a connection pinned as the worker's are; rolled back."""
    statement = load()[operation.statement]
    values = [operation.values[name] for name in statement.parameters]
    connection = await asyncpg.connect(asyncpg_uri(dsn))
    try:
        assert await pin_async(connection, "pin_session", limit="1min")
        transaction = connection.transaction()
        await transaction.start()
        (row,) = await connection.fetch(
            f"explain (analyze, buffers, format json) {statement.numbered}", *values
        )
        await (transaction.commit() if keep else transaction.rollback())
        plan: dict[str, Any] = json.loads(row[0])[0]["Plan"]
        return plan
    finally:
        await connection.close()


def buffers(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def scans(plan: dict[str, Any]) -> set[str]:
    """Node types that read a whole relation, with its name."""
    found = set()
    if plan["Node Type"] in ("Seq Scan", "Bitmap Heap Scan") and plan.get("Schema") != "pg_catalog":
        found.add(f"{plan['Node Type']} on {plan.get('Relation Name')}")
    for child in plan.get("Plans", []):
        found |= scans(child)
    return found


def fill(conn: psycopg.Connection, count: int, **columns: str) -> None:
    """Insert jobs; each column is an SQL expression of i."""
    columns = {"task": "'t'", **columns}
    conn.execute(
        f"insert into pgqueue.jobs ({', '.join(columns)})"
        f" select {', '.join(columns.values())} from generate_series(1, {count}) i".encode()
    )


FINISHED = {"status": "'succeeded'", "attempt": "1", "finished_at": "clock_timestamp() - i * interval '1 ms'",
            "claimed_at": "clock_timestamp()", "run_seconds": "0.1"}  # fmt: skip
FUTURE = {"run_at": "clock_timestamp() + interval '1 day' + i * interval '1 ms'"}
PAST = {"run_at": "clock_timestamp() - interval '1 day' + i * interval '1 ms'"}


def empty_statistics(conn: psycopg.Connection) -> None:
    conn.execute("analyze pgqueue.jobs")
    fill(conn, 200_000, **PAST)


def all_finished(conn: psycopg.Connection) -> None:
    fill(conn, 200_000, **FINISHED)
    conn.execute("analyze pgqueue.jobs")
    fill(conn, LIMIT, **PAST)


def many_future(conn: psycopg.Connection) -> None:
    fill(conn, 200_000, **FUTURE, priority="i % 3")
    fill(conn, LIMIT, **PAST)
    conn.execute("vacuum analyze pgqueue.jobs")


def stale(conn: psycopg.Connection) -> None:
    fill(conn, 100_000, **PAST)
    conn.execute("analyze pgqueue.jobs")
    conn.execute(
        "update pgqueue.jobs set status = 'running', attempt = 1, worker_id = gen_random_uuid()"
    )
    conn.execute(
        "update pgqueue.jobs set status = 'succeeded', worker_id = null, finished_at = now()"
    )
    conn.execute("vacuum pgqueue.jobs")
    fill(conn, LIMIT, **PAST)


HOSTILE = [empty_statistics, all_finished, many_future, stale]


@pytest.mark.parametrize("make", HOSTILE)
async def test_a_claim_costs_what_it_claims(dsn: str, conn: psycopg.Connection, make: Any) -> None:
    make(conn)
    lanes = [Lane("default", p, START, 0) for p in (2, 1, 0)]
    for operation, headings in (
        (claims.claim(lanes, claim_id=uuid4(), **COMMON), 0),
        (claims.sweep(None, claim_id=uuid4(), **COMMON), 1),
        (claims.trade([], lanes, delete=False, claim_id=uuid4(), **COMMON), 0),
    ):
        plan = await explain(dsn, operation)
        assert plan["Actual Rows"] == LIMIT + headings
        assert buffers(plan) < 40 * LIMIT, make.__name__
        assert scans(plan) == set()


@pytest.mark.parametrize("make", HOSTILE)
async def test_a_completion_costs_what_it_completes(
    dsn: str, conn: psycopg.Connection, make: Any
) -> None:
    make(conn)
    claim_id = uuid4()
    connection = await asyncpg.connect(asyncpg_uri(dsn))
    operation = claims.sweep(None, claim_id=claim_id, **COMMON)
    statement = load()["sweep"]
    rows = await connection.fetch(
        statement.numbered, *[operation.values[n] for n in statement.parameters]
    )
    await connection.close()
    done = [Finished(job.id, claim_id, SUCCEEDED, 0.1) for job in operation.decode(rows).jobs]
    plan = await explain(dsn, claims.complete(done, delete=False))
    assert plan["Actual Rows"] == LIMIT
    assert buffers(plan) < 40 * LIMIT
    assert scans(plan) == set()


def test_most_claims_and_completions_stay_on_the_page_of_their_row(
    conn: psycopg.Connection,
) -> None:
    """A version that has no room there costs a WAL record for the lock of the one before, and a page."""

    def size() -> int:
        row = conn.execute("select pg_relation_size('pgqueue.jobs')").fetchone()
        assert row is not None
        return int(row[0])

    fill(conn, 20 * LIMIT, **PAST)
    before = size()
    for _ in range(20):
        claim_id = uuid4()
        jobs = perform(conn, claims.sweep(None, claim_id=claim_id, **COMMON)).jobs
        done = [Finished(job.id, claim_id, SUCCEEDED, 0.1) for job in jobs]
        assert len(perform(conn, claims.complete(done, delete=False))) == LIMIT
    assert size() < 1.6 * before


async def test_the_cursor_does_not_walk_dead_rows(dsn: str, conn: psycopg.Connection) -> None:
    fill(conn, 20_100, **PAST)
    with psycopg.connect(dsn) as holder:
        holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        holder.execute("select count(*) from pgqueue.jobs")
        conn.execute("delete from pgqueue.jobs where id <= 20000")
        row = conn.execute("select run_at, id from pgqueue.jobs order by id limit 1").fetchone()
        assert row is not None
        ahead = claims.claim([Lane("default", 0, row[0], row[1] - 1)], claim_id=uuid4(), **COMMON)
        start = claims.claim([Lane("default", 0, START, 0)], claim_id=uuid4(), **COMMON)
        cheap, dear = buffers(await explain(dsn, ahead)), buffers(await explain(dsn, start))
    assert cheap * 1.5 < dear


async def test_under_a_held_snapshot_a_look_behind_costs_its_stretch(
    dsn: str, conn: psycopg.Connection
) -> None:
    """Each job that has run leaves dead index entries; nothing may go over all of them at once."""
    fill(conn, 40_000, **PAST)
    place = conn.execute(
        "select run_at, id from pgqueue.jobs order by id offset 10000 limit 1"
    ).fetchone()
    last = conn.execute("select run_at, id from pgqueue.jobs order by id desc limit 1").fetchone()
    assert place is not None
    assert last is not None
    fill(conn, 1, queue="'other'", priority="7")
    fill(conn, 1, queue="'new'", priority="-3")
    with psycopg.connect(dsn) as holder:
        holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        holder.execute("select count(*) from pgqueue.queues")
        conn.execute("update pgqueue.jobs set status = 'running', worker_id = gen_random_uuid(), lease_expires_at = now()"
                     " where queue = 'default'")  # fmt: skip
        conn.execute("update pgqueue.jobs set status = 'succeeded', worker_id = null, finished_at = now()"
                     " where queue = 'default'")  # fmt: skip
        conn.execute("vacuum pgqueue.jobs")

        async def cost(slices: list[Slice]) -> int:
            plan = await explain(dsn, claims.sweep(None, slices, claim_id=uuid4(), **COMMON))
            return buffers(plan)

        known = Slice("default", 0, last, END)
        everything, latest = await cost([Slice("default", 0, FRONT, END)]), await cost([known])
        assert latest < 300
        assert await cost([Slice("default", 0, FRONT, place), known]) - latest < everything / 2
        found = perform(conn, claims.sweep(None, [known], claim_id=uuid4(), **COMMON))
        assert sorted(found.lanes) == [("new", -3), ("other", 7)]
        assert len(found.jobs) == 2
        whole = buffers(await explain(dsn, maintenance.rescue(max_crashes=3)))
        some = maintenance.rescue(max_crashes=3, after=10_000, until=11_000)
        assert buffers(await explain(dsn, some)) < whole / 4
        plan = await explain(dsn, maintenance.prune(Status.SUCCEEDED, age=3600.0, limit=100))
        assert buffers(plan) < 300


async def test_maintenance_and_statistics_stay_bounded(dsn: str, conn: psycopg.Connection) -> None:
    fill(conn, 300_000, **FINISHED)
    conn.execute("vacuum analyze pgqueue.jobs")
    for operation, most in (
        (maintenance.rescue(max_crashes=3), 100),
        (maintenance.prune(Status.SUCCEEDED, age=3600.0, limit=100), 500),
        (maintenance.stats(), 3_000),
    ):
        plan = await explain(dsn, operation)
        assert buffers(plan) < most, operation.statement
    for view, most in (("throughput", 4_000), ("task_stats", 3_000), ("dead_jobs", 500)):
        row = conn.execute(
            f"explain (analyze, buffers, format json) select * from pgqueue.{view}".encode()
        ).fetchone()
        assert row is not None
        assert buffers(row[0][0]["Plan"]) < most, view


async def test_a_key_at_its_limit_costs_a_probe(dsn: str, conn: psycopg.Connection) -> None:
    """A million blocked jobs of a key would cost as little: here are fifty thousand."""
    fill(conn, 100, **PAST, limit_key="'t:' || i")
    conn.execute("analyze pgqueue.jobs")
    fill(conn, 50_000, **PAST, limit_key="'t:0'")
    conn.execute("insert into pgqueue.tasks (name, max_running) values ('t', 1)")
    values = [uuid4(), uuid4()]
    conn.execute("select pgqueue.claim_limited('default', 1000, %s, %s, 60)", values)
    assert conn.execute(
        "select count(*) from pgqueue.jobs where status = 'running'"
    ).fetchone() == (101,)
    row = conn.execute(
        "explain (analyze, buffers, format json)"
        " select pgqueue.claim_limited('default', 1000, %s, %s, 60)", values
    ).fetchone()  # fmt: skip
    assert row is not None
    # A look at the 101 jobs that run, and two probes of the key that has more.
    assert buffers(row[0][0]["Plan"]) < 500
    fill(conn, 50_000, **PAST, queue="'other'")
    assert buffers(await explain(dsn, limits.queues_at_work(None))) < 30


@pytest.mark.parametrize("make", HOSTILE)
def test_a_look_for_room_counts_no_further_than_the_bound(
    dsn: str, conn: psycopg.Connection, make: Any
) -> None:
    """On connections of applications, whose plans nobody pins."""
    make(conn)
    conn.execute("insert into pgqueue.queues (name, max_pending) values ('default', 1000)")
    operation = queues.look({"default": QueueSettings(max_pending=1000)})
    statement = load()[operation.statement].numbered.replace("$1", "%s")
    with psycopg.connect(dsn) as theirs:
        for text, values in (
            (statement, list(operation.values.values())),
            ("select pgqueue.room('default')", []),
        ):
            theirs.execute(text.encode(), values)  # what is read once only
            plan = theirs.execute(
                f"explain (analyze, buffers, format json) {text}".encode(), values
            )
            (found,) = plan.fetchone() or (None,)
            assert found is not None
            assert buffers(found[0]["Plan"]) < 1100, (make.__name__, text)


async def test_retention_of_queues_is_an_index_scan(dsn: str, conn: psycopg.Connection) -> None:
    fill(conn, 200_000, **FINISHED, queue="'q' || i % 3")
    conn.execute("analyze pgqueue.jobs")
    conn.execute(
        "insert into pgqueue.queues (name, keep_succeeded) values ('q1', '100 seconds'), ('q2', '1 day')"
    )
    plan = await explain(dsn, maintenance.prune(Status.SUCCEEDED, age=None, limit=LIMIT))
    assert plan["Actual Rows"] == LIMIT
    assert buffers(plan) < 40 * LIMIT
    assert scans(plan) <= {"Seq Scan on queues"}


async def test_unique_jobs_and_expiry_stay_bounded(dsn: str, conn: psycopg.Connection) -> None:
    """However many jobs hold a key, have had one, or wait without an end."""
    keyed = {"unique_key": "'t:' || i", "unique_until": "'finished'"}
    fill(conn, 50_000, **FINISHED, **keyed)
    conn.execute("analyze pgqueue.jobs")
    fill(conn, 50_000, **FUTURE, **keyed)
    conn.execute("update pgqueue.jobs set expires_at = run_at + interval '1 day' where id % 2 = 0")
    new = NewJob("t", "{}", key=UniqueKey("7"))
    for key in (
        UniqueKey("7"),
        UniqueKey("7", "started", None, "replace"),
        UniqueKey("7", within=9),
    ):
        operation = enqueue.enqueue([replace(new, key=key)], notify=False)
        statement = load()[operation.statement]
        for _ in range(2):  # the first reads the catalogue as well
            row = (
                psycopg.RawCursor(conn)
                .execute(
                    f"explain (analyze, buffers, format json) {statement.numbered}".encode(),
                    [operation.values[name] for name in statement.parameters],
                )
                .fetchone()
            )
        assert row is not None
        assert buffers(row[0][0]["Plan"]) < 60, key
    expire = await explain(dsn, maintenance.expire(limit=100))
    assert buffers(expire) < 20, json.dumps(expire, indent=1)
    assert scans(expire) == set()


def add_schedules(conn: psycopg.Connection, count: int) -> None:
    conn.execute("analyze pgqueue.schedules")  # when it was empty
    conn.execute(
        "insert into pgqueue.schedules (name, expression, task, overlap, next_tick)"
        " select 's' || i, '@daily', 't', 'skip', now() + i * interval '1 hour'"
        f" from generate_series(1, {count}) i".encode()
    )


def firings_of_all_due(conn: psycopg.Connection) -> list[Firing]:
    """Make all schedules due; the firings of the first."""
    conn.execute("update pgqueue.schedules set next_tick = now(), recent_job_ids = array[2, 1]")
    row = conn.execute(
        "select array_agg(name), max(last_tick), now() from pgqueue.schedules"
    ).fetchone()
    assert row is not None
    names, seen, now = row
    conn.execute("update pgqueue.schedules set last_tick = %s", [seen])
    day = now + timedelta(days=1)
    return [Firing(name, seen, 2, [now], now, day) for name in sorted(names)[:LIMIT]]


@pytest.mark.parametrize("count", [0, 1000])
async def test_a_look_at_schedules_is_two_probes(
    dsn: str, conn: psycopg.Connection, count: int
) -> None:
    add_schedules(conn, count)
    plan = await explain(dsn, schedules.look(limit=100))
    assert plan["Actual Rows"] == min(count, 1)
    assert buffers(plan) <= 8
    assert scans(plan) == set()


async def test_a_firing_costs_what_it_fires(dsn: str, conn: psycopg.Connection) -> None:
    all_finished(conn)
    add_schedules(conn, 1000)
    firings = firings_of_all_due(conn)
    plan = await explain(dsn, schedules.fire(firings))
    assert plan["Actual Rows"] == LIMIT
    assert buffers(plan) < 60 * LIMIT
    assert scans(plan) == set()


@pytest.mark.parametrize("ended", [True, False])
async def test_overlap_costs_one_probe_a_schedule(
    dsn: str, conn: psycopg.Connection, ended: bool
) -> None:
    """Beside 200,000 runs of schedules that have ended, or that wait."""
    kind = FINISHED if ended else FUTURE
    fill(conn, 200_000, **kind, schedule="'s' || i % 2000")
    add_schedules(conn, 2000)
    firings = firings_of_all_due(conn)
    for _ in range(2):
        plan = await explain(dsn, schedules.fire(firings))
        assert plan["Actual Rows"] == LIMIT
        assert buffers(plan) < 60 * LIMIT
        assert scans(plan) == set()
        conn.execute("analyze pgqueue.jobs, pgqueue.schedules")


async def test_an_end_costs_what_it_releases(dsn: str, conn: psycopg.Connection) -> None:
    """Thousands wait for others: the end of a job looks at those that watch it, and at no other."""
    conn.execute(
        "select count(*) from pgqueue.enqueue_workflow((select jsonb_agg(case when n <= 20000"
        " then '{\"task\": \"t\"}'::jsonb else jsonb_build_object('task', 't', 'after', array[n - 20000]) end order by n)"
        " from generate_series(1, 40000) n))"
    )
    first = conn.execute("select min(job_id) from pgqueue.workflow_jobs").fetchone()
    assert first is not None
    ended = list(range(first[0], first[0] + 100))
    conn.execute("update pgqueue.jobs set status = 'running' where id = any (%s)", [ended])
    conn.execute("update pgqueue.jobs set status = 'succeeded' where id = any (%s)", [ended])
    for _ in range(2):
        plan = await explain(dsn, workflows.settle(ended))
        assert buffers(plan) < 100 * 60
        conn.execute("analyze pgqueue.jobs, pgqueue.workflow_jobs, pgqueue.dependencies")
    looked = await explain(dsn, workflows.unsettled(after=0, limit=100))
    assert "Seq Scan" not in scans(looked)
    assert buffers(looked) < 100 * 15


async def test_pruning_of_workflows_costs_what_it_deletes(
    dsn: str, conn: psycopg.Connection
) -> None:
    """Beside thousands that are kept, with statistics of before and after them."""
    conn.execute(
        "select count(*) from generate_series(1, 3000) n, pgqueue.enqueue_workflow("
        '  \'[{"task": "t"}, {"task": "t", "after": [1]}, {"task": "t", "after": [2]}]\', n::text)'
    )
    conn.execute("alter table pgqueue.jobs disable trigger user")
    conn.execute("update pgqueue.jobs set status = 'succeeded', finished_at = now()")
    conn.execute(
        "update pgqueue.workflows set finished_at = now() - interval '1 hour', watched = null,"
        " status = case when id % 3 = 0 then 'succeeded' else 'dead' end"
    )
    conn.execute("vacuum pgqueue.workflows, pgqueue.workflow_jobs, pgqueue.jobs")
    for _ in range(2):
        plan = await explain(dsn, workflows.prune(Status.SUCCEEDED, age=1.0, limit=300))
        assert plan["Actual Rows"] == 300
        assert buffers(plan) < 300 * 60
        assert not {scan for scan in scans(plan) if "workflow" in scan or "jobs" in scan}
        conn.execute("analyze pgqueue.jobs, pgqueue.workflows, pgqueue.workflow_jobs")


async def test_a_watch_does_not_go_over_its_way_again(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute(
        "select count(*) from pgqueue.enqueue_workflow((select jsonb_agg(case when n <= 3000"
        " then '{\"task\": \"t\"}'::jsonb else jsonb_build_object('task', 't', 'after',"
        " (select jsonb_agg(p) from generate_series(1, 3000) p)) end order by n)"
        " from generate_series(1, 3001) n))"
    )
    (last,) = conn.execute(
        "select watched from pgqueue.workflow_jobs where watched is not null"
    ).fetchone() or (0,)
    for status in ("running", "succeeded"):
        conn.execute(
            "update pgqueue.jobs set status = %s where id between %s and %s",
            [status, last - 2997, last],
        )
    conn.execute("select pgqueue.settle(%s)", [[last]])  # goes over 2,998 that have ended
    second = last - 2998
    assert conn.execute(
        "select watched from pgqueue.workflow_jobs where watched is not null"
    ).fetchone() == (second,)
    for status in ("running", "succeeded"):
        conn.execute("update pgqueue.jobs set status = %s where id = %s", [status, second])
    nothing = buffers(await explain(dsn, workflows.settle([-1])))
    assert buffers(await explain(dsn, workflows.settle([second]))) < nothing + 200
