"""Each guard of the SQL that holds jobs together; without the guard its test fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import psycopg
import pytest

from pgqueue import App, ClaimLost, Context
from pgqueue.job import TRANSITIONS, ClaimedJob, NewJob, Status
from pgqueue.operations import claims, maintenance, quarantine
from pgqueue.operations.claims import Finished, Lane, Taking
from pgqueue.operations.quarantine import TOGETHER
from pgqueue.outcome import RELEASED, SUCCEEDED, Outcome
from pgqueue.worker.database import Database
from tests.support import drain, make_due, statuses

WORKER = uuid4()


@pytest.fixture
async def database(app: App) -> AsyncIterator[Database]:
    opened = Database(app.dsn, "pgqueue")
    yield opened
    await opened.close()


async def claim(database: Database, *, lease: float = 60, limit: int = 10) -> list[ClaimedJob]:
    operation = claims.sweep(None, limit=limit, claim_id=uuid4(), worker_id=WORKER, lease=lease)
    return (await database.run(operation)).jobs


async def claim_suspects(database: Database, *, limit: int = 16) -> list[ClaimedJob]:
    operation = quarantine.claim_suspects(
        None, limit=limit, claim_id=uuid4(), worker_id=WORKER, lease=60
    )
    return await database.run(operation)


def lapse(conn: psycopg.Connection) -> None:
    conn.execute("update pgqueue.jobs set lease_expires_at = clock_timestamp() - interval '1 s'")


async def rescue(database: Database, max_crashes: int = 3) -> list[maintenance.Rescued]:
    return await database.run(maintenance.rescue(max_crashes=max_crashes))


def ended(job: ClaimedJob, outcome: Outcome = SUCCEEDED) -> list[Finished]:
    return [Finished(job.id, job.claim_id, outcome, 0.1)]


async def test_a_zombie_changes_nothing(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    await app.aclient.insert([NewJob("t", "{}")])
    (old,) = await claim(database)
    lapse(conn)
    assert [r.status for r in await rescue(database)] == [Status.PENDING]
    (new,) = await claim(database)
    assert (old.id, old.attempt, new.attempt) == (new.id, 1, 2)

    assert await database.run(claims.complete(ended(old), delete=False)) == []
    assert await database.run(claims.complete(ended(old), delete=True)) == []
    assert await database.run(claims.fail(ended(old, Outcome("retry")))) == {}
    assert await database.run(claims.fail(ended(old, RELEASED))) == {}
    assert (
        await database.run(claims.heartbeat([(old.id, old.claim_id)], worker_id=WORKER, lease=60))
        == {}
    )
    assert await database.run(claims.release(old.claim_id)) == []
    with pytest.raises(psycopg.Error, match="no longer held"):
        conn.execute("select pgqueue.complete_job(%s, %s)", (old.id, old.claim_id))
    assert conn.execute("select status, claim_id from pgqueue.jobs").fetchone() == (
        "running", new.claim_id,
    )  # fmt: skip
    assert await database.run(claims.complete(ended(new), delete=False)) == [new.id]
    await database.close()


async def test_nothing_is_recorded_twice(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    await app.aclient.insert([NewJob("t", "{}")])
    (job,) = await claim(database)
    assert await database.run(claims.complete(ended(job), delete=False)) == [job.id]
    # A claim_id put back by hand must not bring a finished job back either.
    conn.execute("update pgqueue.jobs set claim_id = %s", (job.claim_id,))
    assert await database.run(claims.complete(ended(job), delete=False)) == []
    assert await database.run(claims.fail(ended(job, Outcome("retry")))) == {}
    assert (
        await database.run(claims.heartbeat([(job.id, job.claim_id)], worker_id=WORKER, lease=60))
        == {}
    )
    assert await rescue(database) == []
    with pytest.raises(psycopg.Error, match="no longer held"):
        conn.execute("select pgqueue.complete_job(%s, %s)", (job.id, job.claim_id))
    assert list(statuses(conn).values()) == ["succeeded"]
    await database.close()


async def test_rescue_leaves_valid_leases_alone(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    await app.aclient.insert([NewJob("t", "{}")])
    await claim(database)
    assert await rescue(database) == []
    assert list(statuses(conn).values()) == ["running"]
    await database.close()


async def test_crashes_have_a_budget_of_their_own(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    (job_id,) = await app.aclient.insert([NewJob("t", "{}", max_retries=100)])
    seen = []
    for suspect in (False, False, True):
        assert await (claim_suspects(database) if suspect else claim(database))
        assert await claim(database) == await claim_suspects(database) == []
        lapse(conn)
        seen += [(r.status, r.quarantine) for r in await rescue(database)]
    assert seen == [("pending", None), ("pending", TOGETHER), ("dead", None)]
    attempts = await app.aclient.attempts(job_id)
    assert [a.outcome for a in attempts] == ["crash"] * 3
    job = await app.aclient.job(job_id)
    assert "(crash 3 of 3), alone" in (job.last_error or "")
    assert await app.aclient.retry(job_id)
    assert conn.execute("select crashes, quarantine from pgqueue.jobs").fetchone() == (0, None)
    await database.close()


@pytest.mark.parametrize("max_crashes", [1, 2, 3])
@pytest.mark.parametrize("max_retries", [1, 10])
async def test_nobody_is_dead_for_a_crash_in_company(
    app: App, database: Database, conn: psycopg.Connection, max_crashes: int, max_retries: int
) -> None:
    await app.aclient.insert([NewJob("t", "{}", max_retries=max_retries)] * 20)
    for _ in range(max(max_crashes - 1, 1)):
        assert len(await claim(database, limit=20)) == 20
        lapse(conn)
        assert {r.status for r in await rescue(database, max_crashes)} == {Status.PENDING}
    assert await claim(database) == []
    # Sixteen together, then in fours, then one by one; the four that are left are tried first.
    sizes = []
    while suspects := await claim_suspects(database):
        sizes.append(len(suspects))
        lapse(conn)
        dead = {r.status for r in await rescue(database, max_crashes)} == {Status.DEAD}
        assert dead == (len(suspects) == 1)
    assert sorted(sizes) == [1] * 20 + [4] * 5 + [16]


@pytest.mark.parametrize("by_itself", [True, False])
@pytest.mark.parametrize("outcome", [Outcome("retry", 0), Outcome("snooze", 0)])
async def test_a_run_that_ends_by_itself_clears_a_suspect(
    app: App, database: Database, conn: psycopg.Connection, outcome: Outcome, by_itself: bool
) -> None:
    await app.aclient.insert([NewJob("t", "{}")])
    conn.execute("update pgqueue.jobs set crashes = 2, quarantine = 4")
    (job,) = await claim_suspects(database)
    finished = Finished(job.id, job.claim_id, outcome, 0.1, by_itself=by_itself)
    assert await database.run(claims.fail([finished]))
    found = conn.execute("select crashes, quarantine from pgqueue.jobs").fetchone()
    assert found == ((0, None) if by_itself else (2, 1))
    assert len(await claim(database)) == by_itself


async def test_a_suspect_that_has_company_is_not_blamed(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    await app.aclient.insert([NewJob("t", "{}")])
    conn.execute("update pgqueue.jobs set crashes = 2, quarantine = 1")
    (job,) = await claim_suspects(database)
    held = [(job.id, job.claim_id)]
    assert await database.run(quarantine.end_isolation([(job.id, uuid4())])) == []
    assert conn.execute("select quarantine from pgqueue.jobs").fetchone() == (1,)
    assert await database.run(quarantine.end_isolation(held)) == []
    lapse(conn)
    (rescued,) = await rescue(database)
    assert (rescued.status, rescued.quarantine) == (Status.PENDING, 1)


@pytest.mark.parametrize("paused", ["t", "default", "*", "expired", "later"])
async def test_suspects_that_may_not_run(
    app: App, database: Database, conn: psycopg.Connection, paused: str
) -> None:
    (job_id,) = await app.aclient.insert([NewJob("t", "{}")])
    conn.execute("update pgqueue.jobs set quarantine = 1")
    match paused:
        case "t":
            await app.aclient.pause_task("t")
        case "expired":
            conn.execute("update pgqueue.jobs set expires_at = clock_timestamp()")
        case "later":
            conn.execute("update pgqueue.jobs set run_at = clock_timestamp() + interval '1 h'")
        case _:
            await app.aclient.pause(paused)
    assert await claim_suspects(database) == []
    assert await database.run(quarantine.suspect_due(None)) is None
    await app.aclient.resume_task("t")
    for queue in ("default", "*"):
        await app.aclient.resume(queue)
    conn.execute("update pgqueue.jobs set run_at = clock_timestamp(), expires_at = null")
    assert await database.run(quarantine.suspect_due(["other"])) is None
    assert await database.run(quarantine.suspect_due(["default"])) == 0
    assert [job.id for job in await claim_suspects(database)] == [job_id]


async def test_a_crash_uses_up_a_retry(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    await app.aclient.insert([NewJob("t", "{}", max_retries=0)])
    await claim(database)
    lapse(conn)
    assert [r.status for r in await rescue(database)] == [Status.DEAD]
    await database.close()


async def test_heartbeat_renews_and_tells_of_cancellation(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    (job_id,) = await app.aclient.insert([NewJob("t", "{}")])
    (job,) = await claim(database)
    lapse(conn)
    await app.aclient.cancel(job_id)
    beat = await database.run(
        claims.heartbeat([(job.id, job.claim_id)], worker_id=WORKER, lease=60)
    )
    assert {i: each.cancel_requested for i, each in beat.items()} == {job.id: True}
    assert await rescue(database) == []
    await database.close()


async def test_rescue_waits_for_no_lock(
    app: App, database: Database, conn: psycopg.Connection, dsn: str
) -> None:
    """A handler in its transaction, or another rescuer, holds the row: it is somebody's."""
    await app.aclient.insert([NewJob("t", "{}"), NewJob("t", "{}")])
    first, second = await claim(database)
    lapse(conn)
    with psycopg.connect(dsn) as handler:
        handler.execute("select from pgqueue.jobs where id = %s for update", (first.id,))
        assert [r.id for r in await rescue(database)] == [second.id]
    assert [r.id for r in await rescue(database)] == [first.id]
    await database.close()


async def test_claims_skip_locked_rows_and_paused_queues(
    app: App, database: Database, dsn: str
) -> None:
    ids = await app.aclient.insert([NewJob("t", "{}"), NewJob("t", "{}"), NewJob("t", "{}", "off")])
    await app.aclient.pause("off")
    with psycopg.connect(dsn) as other:
        other.execute("select from pgqueue.jobs where id = %s for update", (ids[0],))
        assert [j.id for j in await claim(database)] == [ids[1]]
    assert [j.id for j in await claim(database)] == [ids[0]]
    assert await app.aclient.resume("off")
    assert [j.id for j in await claim(database)] == [ids[2]]
    await database.close()


async def test_order_is_priority_then_time(app: App, database: Database) -> None:
    jobs = [NewJob("t", "{}", priority=p) for p in (0, -5, 9, 0, 9)]
    ids = await app.aclient.insert(jobs)
    order = [j.id for j in await claim(database)]
    assert order == [ids[2], ids[4], ids[0], ids[3], ids[1]]
    await database.close()


async def test_release_gives_the_attempt_back(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    await app.aclient.insert([NewJob("t", "{}"), NewJob("t", "{}")])
    jobs = await claim(database)
    released = await database.run(claims.release(jobs[0].claim_id))
    assert sorted(released) == sorted(j.id for j in jobs)
    assert conn.execute("select distinct status, attempt from pgqueue.jobs").fetchall() == [
        ("pending", 0)
    ]
    await database.close()


async def test_prune_takes_only_what_is_old_enough(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    @app.task(name="t", max_retries=1)
    def task(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ValueError

    first = (await task.aenqueue()).id
    await drain(app)
    make_due(conn)
    await drain(app)
    assert await database.run(maintenance.prune(Status.SUCCEEDED, age=3600)) == []
    assert await database.run(maintenance.prune(Status.DEAD, age=0)) == []
    assert len(await app.aclient.attempts(first)) == 1
    assert await database.run(maintenance.prune(Status.SUCCEEDED, age=0)) == [first]
    assert await app.aclient.attempts(first) == []
    await database.close()


async def test_exactly_once_effect(app: App, conn: psycopg.Connection) -> None:
    conn.execute("create table effects (job bigint)")

    @app.task(name="t")
    async def task(ctx: Context, lose: bool) -> None:
        async with ctx.transaction() as connection:
            await connection.execute("insert into effects values ($1)", ctx.id)
            if lose:
                conn.execute(
                    "update pgqueue.jobs set claim_id = %s where id = %s", (UUID(int=1), ctx.id)
                )

    kept, lost = (await task.aenqueue(False)).id, (await task.aenqueue(True)).id
    await drain(app)
    assert conn.execute("select job from effects").fetchall() == [(kept,)]
    assert statuses(conn) == {kept: "succeeded", lost: "running"}


async def test_exactly_once_effect_in_sync_and_own_transactions(
    app: App, conn: psycopg.Connection, dsn: str
) -> None:
    conn.execute("create table effects (kind text)")

    @app.task(name="with")
    def task(ctx: Context) -> None:
        with ctx.transaction() as connection:
            connection.execute("insert into effects values ('with')")

    @app.task(name="own", max_retries=0)
    def own(ctx: Context, lose: bool) -> None:
        with psycopg.connect(dsn) as connection:
            connection.execute("insert into effects values ('own')")
            if lose:
                conn.execute(
                    "update pgqueue.jobs set claim_id = %s where id = %s", (UUID(int=1), ctx.id)
                )
            with pytest.raises(ClaimLost) if lose else connection.transaction():
                ctx.complete(connection)
            if lose:
                connection.rollback()

    await task.aenqueue()
    await own.aenqueue(False)
    await own.aenqueue(True)
    await drain(app)
    assert sorted(conn.execute("select kind from effects").fetchall()) == [("own",), ("with",)]


async def test_keep_succeeded_zero_deletes(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="t", max_retries=1)
    def task(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ValueError

    await task.aenqueue()
    await drain(app)
    make_due(conn)
    await drain(app, keep_succeeded=0)
    assert statuses(conn) == {}
    assert conn.execute("select count(*) from pgqueue.attempts").fetchone() == (0,)


async def test_every_arrow_of_the_transition_table_and_no_other(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    """The trigger of the test database holds every test to the table; here each arrow is walked."""

    async def running() -> ClaimedJob:
        await app.aclient.insert([NewJob("t", "{}", max_retries=0)])
        (job,) = await claim(database)
        return job

    walked = {(Status.PENDING, Status.RUNNING)}
    job = await running()
    await database.run(claims.complete(ended(job), delete=False))
    walked.add((Status.RUNNING, Status((await app.aclient.job(job.id)).status)))
    for outcome in (RELEASED, Outcome("dead"), Outcome("cancelled")):
        job = await running()
        ((status, *_),) = (await database.run(claims.fail(ended(job, outcome)))).values()
        walked.add((Status.RUNNING, status))
        if status is not Status.PENDING:
            assert await app.aclient.retry(job.id)
            walked.add((status, (await app.aclient.job(job.id)).status))
        assert await app.aclient.cancel(job.id) == {job.id: Status.CANCELLED}
        walked.add((Status.PENDING, Status.CANCELLED))
    walked |= _blocked_moves(conn)
    assert walked == {(old, new) for old, moves in TRANSITIONS.items() for new in moves}

    for old in Status:
        for new in set(Status) - set(TRANSITIONS[old]) - {old}:
            conn.execute("truncate pgqueue.jobs")
            conn.execute("insert into pgqueue.jobs (task, status) values ('t', %s)", (old,))
            with pytest.raises(psycopg.errors.RaiseException, match="may not go"):
                conn.execute("update pgqueue.jobs set status = %s", (new,))
    await database.close()


def _blocked_moves(conn: psycopg.Connection) -> set[tuple[Status, Status]]:
    """The moves of jobs that wait for others, and of a retried workflow."""
    walked = set()
    for end in (Status.DEAD, Status.CANCELLED, Status.SUCCEEDED):
        rows = conn.execute(
            """select workflow_id, job_id from pgqueue.enqueue_workflow(
                 '[{"task": "t"}, {"task": "t", "after": [1]}, {"task": "t", "after": [2]}]')"""
        ).fetchall()
        (workflow, first), (_, second), (_, third) = rows
        conn.execute("update pgqueue.jobs set status = 'running' where id = %s", [first])
        conn.execute("update pgqueue.jobs set status = %s where id = %s", [end, first])
        conn.execute("select pgqueue.settle(%s)", [[first]])
        walked.add((Status.BLOCKED, Status(statuses(conn)[second])))
        if end is Status.DEAD:
            conn.execute("update pgqueue.jobs set status = 'pending' where id = %s", [first])
            conn.execute("update pgqueue.jobs set status = 'running' where id = %s", [first])
            conn.execute("update pgqueue.jobs set status = 'succeeded' where id = %s", [first])
            conn.execute("select pgqueue.settle(%s)", [[second]])
            conn.execute("update pgqueue.jobs set status = 'pending' where id = %s", [second])
            conn.execute("update pgqueue.jobs set status = 'running' where id = %s", [second])
            conn.execute("update pgqueue.jobs set status = 'dead' where id = %s", [second])
        before = statuses(conn)
        conn.execute(
            "update pgqueue.dependencies set parent_id = %s where job_id = %s", [third, second]
        )
        conn.execute("select pgqueue.retry_workflow(%s)", [workflow])
        after = statuses(conn)
        walked |= {(Status(before[j]), Status(after[j])) for _, j in rows if before[j] != after[j]}
    return walked


@pytest.mark.parametrize("how", ["claim", "sweep", "trade", "trade_and_delete"])
async def test_a_claim_leaves_suspects_and_what_is_for_others(
    app: App, database: Database, conn: psycopg.Connection, how: str
) -> None:
    """Suspects for the quarantine; tasks for whoever has a process free."""
    added = await app.aclient.insert([NewJob(t, "{}") for t in ("t", "crowded", "suspect", "t")])
    conn.execute("update pgqueue.jobs set quarantine = 16 where task = 'suspect'")
    taking: Taking = {"limit": 9, "claim_id": uuid4(), "worker_id": WORKER, "lease": 60}
    lanes = [Lane("default", 0, datetime(2000, 1, 1, tzinfo=UTC), 0)]
    match how:
        case "claim":
            jobs = await database.run(claims.claim(lanes, without=["crowded"], **taking))
        case "sweep":
            jobs = (await database.run(claims.sweep(None, without=["crowded"], **taking))).jobs
        case _:
            delete = how == "trade_and_delete"
            trade = claims.trade([], lanes, delete=delete, without=["crowded"], **taking)
            _, jobs = await database.run(trade)
    assert [job.id for job in jobs] == [added[0], added[3]]
