"""Rows that plain SQL put in and no enqueue would have: each fails alone."""

from __future__ import annotations

import psycopg
import pytest

from pgqueue import App, Context
from tests.support import drain, eventually_async, make_due, statuses, working

DEEP = '{"number": ' + "[" * 5000 + "]" * 5000 + "}"
ARGS = {
    "wrong type": '{"number": "x"}',
    "missing": "{}",
    "array": "[]",
    "null": "null",
    "text": '"number"',
    "5,001 digits": '{"number": 1' + "0" * 5000 + "}",
    "depth 5,000": DEEP,
    "NaN": '{"number": "NaN"}',
    "fraction": '{"number": 1e-400}',
    "huge": '{"number": "' + "x" * 6_000_000 + '"}',
}


async def test_what_cannot_be_read_is_dead_at_once(app: App, conn: psycopg.Connection) -> None:
    ran: list[int] = []

    @app.task(name="t")
    async def task(number: int) -> None:
        ran.append(number)

    for number, args in enumerate(ARGS.values()):
        await task.aenqueue(number)
        conn.execute("insert into pgqueue.jobs (task, args) values ('t', %s)", (args,))
    await task.aenqueue(99)
    await drain(app, concurrency=30)
    assert sorted(ran) == [*range(len(ARGS)), 99]
    rows = conn.execute(
        "select last_error, claim_id from pgqueue.jobs where status = 'dead' order by id"
    ).fetchall()
    assert [row[0].split(":")[0] for row in rows] == ["ArgumentsError"] * len(ARGS)
    assert "too large" in rows[-1][0]

    # And people can look at every one of them.
    jobs = await app.aclient.jobs(limit=100)
    assert len(jobs) == 2 * len(ARGS) + 1
    assert {type(job.args) for job in jobs} >= {dict, list, str}


@pytest.mark.parametrize(
    "column",
    [
        "run_at = '-infinity'", "run_at = '4713-01-01 BC'", "run_at = '0001-01-01'",
        "max_retries = 2147483647", "max_retries = -5", "attempt = 2147483647", "attempt = -1",
        "crashes = -2147483648", "priority = -32768", "priority = 32767",
        "worker_id = gen_random_uuid()", "claim_id = gen_random_uuid()",
        "cancel_requested = true", "last_error = repeat('x', 1000000)",
        "created_at = 'infinity'", "lease_expires_at = 'infinity'",
    ],
)  # fmt: skip
async def test_absurd_columns_stop_nothing(app: App, conn: psycopg.Connection, column: str) -> None:
    ran: list[int] = []

    @app.task(name="good")
    async def good(ctx: Context) -> None:
        ran.append(ctx.id)

    @app.task(name="bad", backoff="1h")
    async def bad(ctx: Context) -> None:
        ran.append(ctx.id)
        raise ValueError

    jobs = [(await task.aenqueue()).id for task in (good, bad, good, good)]
    conn.execute(f"update pgqueue.jobs set {column} where id <= %s".encode(), (jobs[2],))
    await drain(app)
    assert sorted(ran) == jobs
    seen = statuses(conn)
    assert [seen[i] for i in (jobs[0], jobs[2], jobs[3])] == ["succeeded"] * 3
    assert seen[jobs[1]] in ("pending", "dead", "cancelled")
    conn.execute("select * from pgqueue.task_stats")


async def test_what_is_never_due_stands_in_no_ones_way(app: App, conn: psycopg.Connection) -> None:
    ran: list[int] = []

    @app.task(name="good")
    async def good(ctx: Context) -> None:
        ran.append(ctx.id)

    later = []
    for run_at in ("infinity", "294276-01-01", "9999-12-31"):
        later.append((await good.aenqueue()).id)
        conn.execute("update pgqueue.jobs set run_at = %s where id = %s", (run_at, later[-1]))
    due = (await good.aenqueue()).id
    conn.execute("insert into pgqueue.jobs (task, run_at) values ('good', '-infinity')")
    (stats,) = await app.aclient.stats()
    assert (stats.due, stats.scheduled) == (2, 3)
    await drain(app)
    assert due in ran
    assert len(ran) == 2
    assert {job.id for job in await app.aclient.jobs(status="pending")} == set(later)


BACKOFFS = [
    "[]", "null", '"soon"', "1", "{}", '{"base": "x"}', '{"base": null, "factor": [], "cap": {}}',
    '{"base": 1e400, "factor": 1e400, "cap": 1e400, "jitter": 1e400}',
    '{"base": -1e400, "factor": -1e400, "cap": -1e400, "jitter": -1e400}',
    '{"base": 1e-400, "factor": 1e-400, "cap": 1e-400, "jitter": 1e-400}',
    '{"base": 31536000, "factor": 100, "jitter": 1}',
    '{"base": true, "jitter": false}',
    '{"base": 1' + "0" * 5000 + "}",
]  # fmt: skip


async def test_a_bad_backoff_is_a_backoff_still(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="bad")
    async def bad() -> None:
        raise ValueError

    @app.task(name="good")
    async def good() -> None: ...

    ids = []
    for backoff in BACKOFFS:
        await good.aenqueue()
        ids.append((await bad.aenqueue()).id)
        conn.execute("update pgqueue.jobs set backoff = %s where id = %s", (backoff, ids[-1]))
    conn.execute("update pgqueue.jobs set max_retries = 1")
    await drain(app, concurrency=50)
    rows = conn.execute(
        "select attempt in (1, 2), run_at between clock_timestamp() - interval '1 minute'"
        " and clock_timestamp() + interval '365 days' from pgqueue.jobs where task = 'bad'"
    ).fetchall()
    assert rows == [(True, True)] * len(ids)
    make_due(conn)
    await drain(app, concurrency=50)
    assert {statuses(conn)[job_id] for job_id in ids} == {"dead"}
    assert list(statuses(conn).values()).count("succeeded") == len(BACKOFFS)


async def test_a_refused_result_holds_up_no_other(app: App, conn: psycopg.Connection) -> None:
    """A trigger of the user's refuses results; only that job is concerned."""

    @app.task(name="t", max_retries=3)
    async def task(fail: bool) -> None:
        if fail:
            raise ValueError

    bad, worse = (await task.aenqueue(True)).id, (await task.aenqueue(False)).id
    good = [(await task.aenqueue(False)).id for _ in range(5)]
    conn.execute(
        f"""
        create function refuse() returns trigger language plpgsql as $$ begin
            if old.id = {bad} and new.last_error like 'ValueError%'
               or old.id = {worse} and old.status = 'running' then
                raise exception 'not this one';
            end if;
            return new; end $$;
        create trigger refuse before update on pgqueue.jobs for each row execute function refuse();
    """.encode()
    )
    async with working(app, concurrency=10):
        await eventually_async(lambda: [statuses(conn)[i] for i in good] == ["succeeded"] * 5)
        await eventually_async(
            lambda: statuses(conn)[bad] == "pending"
        )  # its plain failure was not refused
    seen = statuses(conn)
    assert seen[worse] == "running"  # every write was: its lease decides
    (attempt,) = await app.aclient.attempts(bad)
    assert str(attempt.error).startswith("its result was refused: not this one")
