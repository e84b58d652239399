"""What operators ask for takes the index that fits, on connections that nobody pins, whatever the statistics say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgqueue.job import Status
from pgqueue.operations import Operation
from pgqueue.operations import jobs as operations
from pgqueue.operations.jobs import Change, Filter
from pgqueue.sql import load
from tests.plans.test_plans import FINISHED, FUTURE, PAST, buffers, fill

MANY, FEW = 100_000, 200
DEAD = FINISHED | {"status": "'dead'", "queue": "'q' || i % 3", "last_error": "'E: x'"}


def few_of_all(conn: psycopg.Connection) -> None:
    """The few are the oldest, so no walk from the newest on finds them soon."""
    fill(conn, FEW, **DEAD)
    fill(conn, FEW, **PAST)
    fill(conn, FEW, status="'running'", attempt="1", worker_id="gen_random_uuid()")
    conn.execute("insert into pgqueue.workflows (name) values ('w')")
    conn.execute(
        f"with j as (insert into pgqueue.jobs (task, status, workflow_id) select 't', 'blocked', 1"
        f" from generate_series(1, {FEW}) returning id) insert into pgqueue.workflow_jobs"
        f" (workflow_id, job_id, watched) select 1, j.id, 1 from j".encode()
    )


def beside_a_history(conn: psycopg.Connection) -> None:
    few_of_all(conn)
    fill(conn, MANY, **FINISHED)
    conn.execute("vacuum analyze pgqueue.jobs")


def statistics_of_an_empty_table(conn: psycopg.Connection) -> None:
    conn.execute("analyze pgqueue.jobs")
    few_of_all(conn)
    fill(conn, MANY, **FINISHED)


def statistics_before_they_ended(conn: psycopg.Connection) -> None:
    """As if nearly all were still pending."""
    few_of_all(conn)
    fill(conn, MANY, **FUTURE)
    conn.execute("analyze pgqueue.jobs")
    conn.execute(f"update pgqueue.jobs set status = 'running' where id > {4 * FEW}".encode())
    conn.execute(
        "update pgqueue.jobs set status = 'succeeded', finished_at = clock_timestamp()"
        f" where id > {4 * FEW}".encode()
    )
    conn.execute("vacuum pgqueue.jobs")


HOSTILE = [beside_a_history, statistics_of_an_empty_table, statistics_before_they_ended]


def plan_of(conn: psycopg.Connection, operation: Operation[Any]) -> dict[str, Any]:
    """The plan after a first run, which reads the catalogue as well; both are rolled back."""
    statement = load()[operation.statement]
    values = [operation.values[name] for name in statement.parameters]
    text = f"explain (analyze, buffers, format json) {statement.numbered}".encode()
    for _ in range(2):
        with conn.transaction(force_rollback=True):
            row = psycopg.RawCursor(conn).execute(text, values).fetchone()
    assert row is not None
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


WHERE = [Filter(), Filter(queue="q1"), Filter(task="t", error="x", since="1d")]


@pytest.mark.parametrize("make", HOSTILE)
def test_a_few_old_jobs_beside_a_long_history(
    conn: psycopg.Connection, make: Callable[[psycopg.Connection], None]
) -> None:
    make(conn)
    for status in Status:
        if status in (Status.SUCCEEDED, Status.CANCELLED):
            continue
        found = perform_ids(conn, operations.matching(Filter(), status))
        assert len(found) >= FEW, status
        for where in WHERE:
            for operation in (
                operations.matching(where, status),
                operations.count(where, status=status),
            ):
                assert buffers(plan_of(conn, operation)) < 10 * FEW, (status, operation.statement)
            # Of those that have not ended it looks among the newest 10,000 first.
            most = 10 * FEW if status in operations.ENDED else 10_000
            for before in (None, found[-1]):
                listed = operations.find(where, status=status, limit=50, before=before)
                assert buffers(plan_of(conn, listed)) < most, (status, listed.statement)


def test_one_queue_costs_the_same_however_many_there_are(conn: psycopg.Connection) -> None:
    fill(conn, 5000, **FINISHED | {"queue": "'q' || i", "status": "'dead'"})
    conn.execute("vacuum analyze pgqueue.jobs")
    for where in (Filter(queue="q17"), Filter(queue="none"), Filter(queue="q4711", task="t")):
        for operation in (
            operations.matching(where, Status.DEAD),
            operations.count(where, status=Status.DEAD),
            operations.find(where, status=Status.DEAD),
        ):
            assert buffers(plan_of(conn, operation)) < 200, operation.statement


@pytest.mark.parametrize("make", HOSTILE)
def test_a_page_of_a_long_history(
    conn: psycopg.Connection, make: Callable[[psycopg.Connection], None]
) -> None:
    make(conn)
    for where in (Filter(), Filter(queue="default")):
        page = operations.find(where, status="succeeded", limit=50)
        assert buffers(plan_of(conn, page)) < 500
        last = 4 * FEW + MANY // 2
        deep = operations.find(where, status="succeeded", limit=50, before=last)
        assert buffers(plan_of(conn, deep)) < 500


@pytest.mark.parametrize("make", HOSTILE)
def test_a_batch_costs_what_it_changes(
    conn: psycopg.Connection, make: Callable[[psycopg.Connection], None]
) -> None:
    make(conn)
    dead, waiting = (
        perform_ids(conn, operations.matching(Filter(), status)) for status in ("dead", "pending")
    )
    for operation in (
        operations.retry(dead, Filter(error="x"), status=Status.DEAD),
        operations.clear(dead, status="dead"),
        operations.clear(waiting),
        operations.cancel(waiting),
        operations.change(waiting, Filter(), Change(priority=3)),
    ):
        plan = plan_of(conn, operation)
        assert plan["Actual Rows"] == FEW, operation.statement
        assert buffers(plan) < 50 * FEW, operation.statement


def perform_ids(conn: psycopg.Connection, operation: Operation[list[int]]) -> list[int]:
    statement = load()[operation.statement]
    values = [operation.values[name] for name in statement.parameters]
    rows = psycopg.RawCursor(conn).execute(statement.numbered.encode(), values).fetchall()
    return operation.decode(rows)
