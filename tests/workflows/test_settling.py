"""Ends that nobody tells of, and ends at the same time: no job waits for ever, none starts too soon."""

from __future__ import annotations

import json

import psycopg
import pytest

from pgqueue import App
from pgqueue.job import NewJob
from pgqueue.operations import workflows
from tests.support import drain, eventually_async, statuses, working


def settle(conn: psycopg.Connection, *ended: int) -> list[int]:
    row = conn.execute("select again from pgqueue.settle(%s)", [list(ended)]).fetchone()
    assert row is not None
    return row[0]


def graph(conn: psycopg.Connection, *after: list[int]) -> list[int]:
    jobs = [{"task": "t", "after": each} for each in after]
    rows = conn.execute("select job_id from pgqueue.enqueue_workflow(%s)", [json.dumps(jobs)])
    return [row[0] for row in rows]


def end(conn: psycopg.Connection, job_id: int, status: str = "succeeded") -> None:
    conn.execute("update pgqueue.jobs set status = 'running' where id = %s", [job_id])
    conn.execute(
        "update pgqueue.jobs set status = %s, finished_at = clock_timestamp() where id = %s",
        [status, job_id],
    )


def test_two_ends_at_once_release_in_whichever_order_they_commit(
    conn: psycopg.Connection, dsn: str
) -> None:
    """The end of each is recorded, then each looks; neither look may miss both."""
    a, b, waiting = graph(conn, [], [], [1, 2])
    end(conn, b)  # the one that is watched
    with psycopg.connect(dsn) as one, psycopg.connect(dsn, autocommit=True) as two:
        told = settle(one, b)  # moves the watch to a, not committed
        end(two, a)
        assert settle(two, a) == []  # does not see that a is watched
        assert statuses(conn)[waiting] == "blocked"
        one.commit()
    assert a in told
    settle(conn, *told)
    assert statuses(conn)[waiting] == "pending"


def test_a_look_says_what_to_look_at_next(conn: psycopg.Connection) -> None:
    a, b, c, waiting = graph(conn, [], [], [], [1, 2, 3])
    end(conn, a)
    assert settle(conn, a) == []  # nobody watches it
    end(conn, c)
    assert b in settle(conn, c)
    assert settle(conn, b) == []
    end(conn, b)
    settle(conn, b)
    assert statuses(conn)[waiting] == "pending"


def test_a_job_that_has_not_ended_releases_nobody(conn: psycopg.Connection) -> None:
    a, waiting = graph(conn, [], [1])
    for status in ("pending", "running"):
        conn.execute("update pgqueue.jobs set status = %s where id = %s", [status, a])
        assert settle(conn, a, waiting) == []
        assert statuses(conn)[waiting] == "blocked"
        open_ones = conn.execute("select count(*) from pgqueue.workflows where status is null")
        assert open_ones.fetchone() == (1,)


def test_a_wait_for_two_of_which_the_unwatched_failed_first(conn: psycopg.Connection) -> None:
    a, b, waiting = graph(conn, [], [], [1, 2])
    end(conn, a, "dead")  # and nobody settled it
    end(conn, b)
    again = settle(conn, b)
    assert a in again
    assert statuses(conn)[waiting] == "blocked"
    settle(conn, *again)
    assert statuses(conn)[waiting] == "cancelled"


def test_thousands_wait_for_one_a_thousand_at_a_time(conn: psycopg.Connection) -> None:
    for status, becomes in (("succeeded", "pending"), ("dead", "cancelled")):
        first, *others = graph(conn, [], *([1] for _ in range(2500)))
        end(conn, first, status)
        looks = [first]
        for _ in range(6):
            looks = settle(conn, *looks)
        assert {statuses(conn)[job] for job in others} == {becomes}


def test_two_lookers_at_once_release_once(conn: psycopg.Connection, dsn: str) -> None:
    a, waiting = graph(conn, [], [1])
    end(conn, a)
    with psycopg.connect(dsn) as one:
        released = one.execute("select released from pgqueue.settle(%s)", [[a]]).fetchone()
        with psycopg.connect(dsn, autocommit=True) as two:
            two.execute("set lock_timeout = '10s'")
            with two.pipeline():
                cursor = two.execute("select released from pgqueue.settle(%s)", [[a]])
                one.commit()
            assert (released, cursor.fetchone()) == ((1,), (0,))
    assert statuses(conn)[waiting] == "pending"


@pytest.mark.parametrize("how", ["by hand", "deleted", "cancelled", "expired", "crashed"])
async def test_ends_that_no_worker_saw(app: App, conn: psycopg.Connection, how: str) -> None:
    ran: list[str] = []

    @app.task(name="after")
    async def after() -> None:
        ran.append("after")

    flow = app.workflow()
    first = flow.add(NewJob("nobody's", "{}", max_retries=0))
    flow.add(after.call(), after=first, if_failed="continue")
    job_id = flow.enqueue()[first].id
    match how:
        case "by hand":
            end(conn, job_id)
        case "deleted":
            conn.execute("delete from pgqueue.jobs where id = %s", [job_id])
        case "cancelled":
            app.client.cancel(job_id)
        case "expired":
            conn.execute("update pgqueue.jobs set expires_at = now() where id = %s", [job_id])
        case "crashed":
            conn.execute(
                "update pgqueue.jobs set status = 'running', attempt = 1, worker_id = gen_random_uuid(),"
                " claim_id = gen_random_uuid(), claimed_at = now(), lease_expires_at = now() where id = %s",
                [job_id],
            )
    async with working(app, lease=3):
        await eventually_async(lambda: ran == ["after"])


async def test_a_look_goes_over_all_in_steps(app: App, conn: psycopg.Connection) -> None:
    pairs = [graph(conn, [], [1]) for _ in range(7)]
    (alone,) = graph(conn, [])  # only its workflow watches it
    end(conn, alone)
    for first, _ in pairs[3:]:
        end(conn, first)
    found, after = [], 0
    while True:
        looked = app.client._run(workflows.unsettled(after=after, limit=2), None)
        found += looked.ended
        if looked.last is None:
            break
        after = looked.last
    assert set(found) >= {alone, *(first for first, _ in pairs[3:])}
    assert found == sorted(found)  # and so the steps leave none out
    assert not set(found) & {first for first, _ in pairs[:3]}


async def test_a_large_batch_has_no_hot_row(app: App, conn: psycopg.Connection) -> None:
    """The row of the one that waits for all is written a few times, not once for each."""

    @app.task(name="child")
    async def child() -> None:
        pass

    @app.task(name="end")
    async def end() -> None: ...

    enqueued = app.batch([child.call() for _ in range(2000)], on_success=end.call()).enqueue()
    await drain(app, concurrency=100)
    assert app.client.job(enqueued.jobs[-1].id).status == "succeeded"
    if conn.info.server_version >= 150000:
        conn.execute("select pg_stat_force_next_flush()")
    row = await eventually_async(
        lambda: conn.execute(
            "select n_tup_upd from pg_stat_user_tables where relname = 'workflow_jobs' and n_tup_upd > 0"
        ).fetchone()
    )
    assert row[0] < 400


def test_what_was_cancelled_by_hand_stays_so(app: App, conn: psycopg.Connection) -> None:
    for status in ("succeeded", "dead"):
        jobs = [
            {"task": "t"},
            {"task": "t", "after": [1], "if_failed": "only" if status == "dead" else "cancel"},
        ]
        rows = conn.execute("select job_id from pgqueue.enqueue_workflow(%s)", [json.dumps(jobs)])
        first, waiting = (row[0] for row in rows.fetchall())
        app.client.cancel(waiting)
        end(conn, first, status)
        settle(conn, first)
        assert statuses(conn)[waiting] == "cancelled"
