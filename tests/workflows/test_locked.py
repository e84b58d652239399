"""A row that another session has locked holds up only what waits for it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import psycopg
import pytest

from pgqueue import App
from pgqueue.worker.database import Database
from pgqueue.worker.settler import Settler
from tests.support import eventually_async, statuses, working
from tests.workflows.support import fail, note

Connection = psycopg.Connection[Any]


def settle(conn: Connection, *ended: int) -> tuple[int, list[int], list[int]]:
    row = conn.execute("select * from pgqueue.settle(%s)", [list(ended)]).fetchone()
    assert row is not None
    return row[0], sorted(row[1]), sorted(row[2])


def graph(conn: Connection, *jobs: dict[str, Any]) -> list[int]:
    rows = conn.execute("select job_id from pgqueue.enqueue_workflow(%s)", [json.dumps(jobs)])
    return [row[0] for row in rows]


def end(conn: Connection, *job_ids: int, status: str = "succeeded") -> None:
    for each in ("running", status):
        conn.execute(
            "update pgqueue.jobs set status = %s, finished_at = now() where id = any(%s)",
            [each, list(job_ids)],
        )


FIRST = {"task": "t"}
POLICIES = [
    ("succeeded", "cancel", "pending"),
    ("dead", "cancel", "cancelled"),
    ("dead", "only", "pending"),
    ("dead", "continue", "pending"),
    ("succeeded", "only", "cancelled"),
]
TABLES = [("jobs", "id"), ("workflow_jobs", "job_id")]


@pytest.mark.parametrize("lock", ["update", "no key update"])
@pytest.mark.parametrize(("table", "column"), TABLES)
@pytest.mark.parametrize(("status", "policy", "becomes"), POLICIES)
def test_others_are_settled_and_the_locked_one_is_told(
    conn: Connection, other: Connection, status: str, policy: str, becomes: str, table: str, column: str, lock: str
) -> None:  # fmt: skip
    pairs = [graph(conn, FIRST, {"task": "t", "after": [1], "if_failed": policy}) for _ in range(5)]
    end(conn, *(first for first, _ in pairs), status=status)
    first, waiting = pairs[2]
    other.execute(
        f"select from pgqueue.{table} where {column} = %s for {lock}".encode(), (waiting,)
    )
    conn.execute("set lock_timeout = '10ms'")
    released, _, locked = settle(conn, *(first for first, _ in pairs))
    assert locked == [first]
    assert released == (4 if becomes == "pending" else 0)
    found = statuses(conn)
    assert [found[job] for _, job in pairs] == [becomes, becomes, "blocked", becomes, becomes]
    other.rollback()
    assert settle(conn, first)[2] == []
    assert statuses(conn)[waiting] == becomes


def test_more_than_a_batch_of_locked_rows_hides_no_other(
    conn: Connection, other: Connection
) -> None:
    many, few = (
        graph(conn, FIRST, *[{"task": "t", "after": [1]}] * 1100),
        graph(conn, FIRST, {"task": "t", "after": [1]}),
    )
    end(conn, many[0], few[0])
    other.execute("select from pgqueue.jobs where id = any(%s) for update", (many[1:-1],))
    conn.execute("set lock_timeout = '10ms'")
    released, again, locked = settle(conn, many[0], few[0])
    assert (released, again, locked) == (2, [], [many[0]])
    assert statuses(conn)[many[-1]] == statuses(conn)[few[1]] == "pending"


def test_a_locked_workflow_ends_later(conn: Connection, other: Connection) -> None:
    one, two = graph(conn, FIRST), graph(conn, FIRST)
    end(conn, *one, *two)
    other.execute("select from pgqueue.workflows where watched = %s for update", one)
    conn.execute("set lock_timeout = '10ms'")
    assert settle(conn, *one, *two) == (0, [], one)
    rows = conn.execute("select status from pgqueue.workflows order by id").fetchall()
    assert rows == [(None,), ("succeeded",)]
    other.rollback()
    assert settle(conn, *one) == (0, [], [])


def test_those_cancelled_by_hand_watch_nobody_in_the_end(conn: Connection) -> None:
    first, *waiting = graph(conn, FIRST, *[{"task": "t", "after": [1]}] * 1100)
    conn.execute("update pgqueue.jobs set status = 'cancelled' where id = any(%s)", [waiting])
    conn.execute("delete from pgqueue.jobs where id = %s", [waiting[0]])
    end(conn, first)
    assert settle(conn, first)[1] == [first], "as many as fit"
    settle(conn, first)
    assert settle(conn, first) == (0, [], [])
    left = conn.execute("select count(*) from pgqueue.workflow_jobs where watched is not null")
    assert left.fetchone() == (0,)


async def test_a_cancellation_that_is_not_committed_holds_up_no_other_workflow(
    app: App, ran: list[str], conn: Connection, other: Connection
) -> None:
    """With a worker: others go on and end; when the lock goes, so does the one that it held."""
    held = app.chain(note(app, "first"), note(app, "held")).enqueue()
    app.client.cancel(held.jobs[1].id, on=other)
    flows = [
        app.chain(note(app, f"a{n}"), note(app, f"b{n}"), note(app, f"c{n}")) for n in range(5)
    ]
    enqueued = [flow.enqueue() for flow in flows]
    failing = app.batch([fail(app, "bad")], on_failure=note(app, "alarm")).enqueue()
    async with working(app, concurrency=3, notify=False) as runtime:
        await eventually_async(lambda: {"c0", "c1", "c2", "c3", "c4", "alarm"} <= set(ran))
        await eventually_async(
            lambda: all(app.client.workflow(flow.id).status == "succeeded" for flow in enqueued)
        )
        assert app.client.workflow(failing.id).status == "dead"
        await eventually_async(lambda: len(runtime.settler._locked) == 1)
        assert not runtime.settler.at_rest
        assert "held" not in ran
        other.rollback()
        await eventually_async(lambda: "held" in ran)
        await eventually_async(lambda: runtime.settler.at_rest)


async def test_draining_waits_for_what_is_locked(
    app: App, ran: list[str], other: Connection
) -> None:
    """Else what becomes due when the lock goes would be left."""
    held = app.chain(note(app, "first"), note(app, "held")).enqueue()
    other.execute("select from pgqueue.jobs where id = %s for update", (held.jobs[1].id,))
    async with working(app, drain=True, notify=False) as runtime:
        await eventually_async(lambda: len(runtime.settler._locked) == 1)
        assert not runtime.shutdown._done()
        other.rollback()
        await eventually_async(lambda: ran == ["first", "held"])


async def test_an_end_that_is_told_again_while_its_job_is_looked_at_is_looked_at_again(
    app: App, conn: Connection, other: Connection
) -> None:
    (job,) = graph(conn, FIRST)
    database = Database(app.dsn, app.schema)
    settler = Settler(database=database, released=lambda: None)
    await settler.run_once()
    # It has read that the job has not ended, and waits.
    other.execute("lock table pgqueue.dependencies in access exclusive mode")
    settler.ended([job])
    passing = asyncio.create_task(settler.run_once())
    waits = "select count(*) from pg_locks where not granted and relation = 'pgqueue.dependencies'::regclass"
    await eventually_async(lambda: conn.execute(waits).fetchone() == (1,))
    end(conn, job)
    settler.ended([job])
    other.rollback()
    await passing
    await database.close()
    assert conn.execute("select status from pgqueue.workflows").fetchone() == ("succeeded",)
