"""Which suspects are claimed, and how many together: the guards of the statement, one by one."""

from __future__ import annotations

from uuid import UUID, uuid4

import psycopg
import pytest

from pgqueue import App
from pgqueue.job import NewJob
from pgqueue.operations import maintenance, quarantine
from pgqueue.worker.database import Database
from tests.worker.test_fences import database

__all__ = ["database"]

WORKER = UUID(int=7)
LEFT = f"left_by = array['{WORKER}'::uuid], left_at = now(), left_until = now()"
NOT_CLAIMED = {
    "it is no suspect": "update pgqueue.jobs set quarantine = null",
    "it is not due": "update pgqueue.jobs set run_at = now() + interval '1 h'",
    "it has expired": "update pgqueue.jobs set expires_at = now() - interval '1 s'",
    "it runs": "update pgqueue.jobs set status = 'running', claim_id = gen_random_uuid()",
    "it is cancelled": "update pgqueue.jobs set status = 'cancelled', finished_at = now()",
    "its queue is paused": "insert into pgqueue.queues (name, paused_at) values ('default', now())",
    "all are paused": "insert into pgqueue.queues (name, paused_at) values ('*', now())",
    "its task is paused": "insert into pgqueue.tasks (name, paused_at) values ('t', now())",
    "this worker has left it": f"update pgqueue.jobs set {LEFT} + interval '1 h'",
    "it has a key": "update pgqueue.jobs set limit_key = 'k'",
    "its queue has a limit": "insert into pgqueue.queues (name, max_running) values ('default', 1)",
    "its queue has a rate": "insert into pgqueue.queues (name, rate) values ('default', 1)",
}
CLAIMED = {
    "nothing is against it": "select",
    "it expires later": "update pgqueue.jobs set expires_at = now() + interval '1 h'",
    "another queue is paused": "insert into pgqueue.queues (name, paused_at) values ('other', now())",
    "another task is paused": "insert into pgqueue.tasks (name, paused_at) values ('other', now())",
    "another worker has left it": f"update pgqueue.jobs set {LEFT} + interval '1 h'".replace("-000000000007", "-000000000008"),
    "this worker left it long ago": f"update pgqueue.jobs set {LEFT} - interval '1 s'",
    "another queue has a limit": "insert into pgqueue.queues (name, max_running) values ('other', 1)",
}  # fmt: skip


async def claimed(
    database: Database, *, limit: int = 16, queues: list[str] | None = None
) -> list[int]:
    operation = quarantine.claim_suspects(
        queues, limit=limit, claim_id=uuid4(), worker_id=WORKER, lease=60
    )
    return sorted(job.id for job in await database.run(operation))


async def suspects(app: App, conn: psycopg.Connection, *company: int) -> list[int]:
    """Suspects that are due one after another, each with how many may run beside it."""
    added = await app.aclient.insert([NewJob("t", "{}") for _ in company])
    ids = list(added)
    for place, (job, number) in enumerate(zip(ids, company, strict=True)):
        conn.execute(
            "update pgqueue.jobs set quarantine = %s, crashes = 2, run_at = now() - make_interval(secs => %s)"
            " where id = %s",
            (number, 100 - place, job),
        )
    return ids


@pytest.mark.parametrize("why", NOT_CLAIMED)
@pytest.mark.parametrize("place", [1, 2])
async def test_not_claimed_when(
    app: App, database: Database, conn: psycopg.Connection, why: str, place: int
) -> None:
    (job,) = await suspects(app, conn, 16)
    conn.execute(NOT_CLAIMED[why].encode())
    before = []
    if place == 2 and "update" in NOT_CLAIMED[why]:  # behind another, which is claimed
        before = await suspects(app, conn, 16)
        conn.execute("update pgqueue.jobs set run_at = now() - interval '1 d' where id = any (%s)", (before,))  # fmt: skip
    assert await claimed(database) == before
    assert job not in before


@pytest.mark.parametrize("why", CLAIMED)
async def test_claimed_when(
    app: App, database: Database, conn: psycopg.Connection, why: str
) -> None:
    ids = await suspects(app, conn, 16, 16)
    conn.execute(CLAIMED[why].encode())
    assert await claimed(database) == ids


async def test_of_the_workers_queues(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    ids = await suspects(app, conn, 16)
    assert await claimed(database, queues=["other"]) == []
    assert await claimed(database, queues=["other", "default"]) == ids


async def test_as_many_as_each_may_have_beside_it(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    first, small, *others = await suspects(app, conn, 4, 1, 4, 16, 4, 4)
    assert await claimed(database) == [first, *others[:3]]
    noted = conn.execute("select distinct quarantine from pgqueue.jobs where status = 'running'")
    assert noted.fetchall() == [(4,)]  # how many run together
    assert await claimed(database) == [small]
    assert await claimed(database, limit=3) == others[3:]


async def test_no_more_than_there_is_room_for(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    ids = await suspects(app, conn, 16, 16, 16)
    assert await claimed(database, limit=2) == ids[:2]
    noted = conn.execute("select distinct quarantine from pgqueue.jobs where status = 'running'")
    assert noted.fetchall() == [(2,)]


@pytest.mark.parametrize("locked", [0, 1], ids=["the first", "another"])
async def test_those_that_others_have_locked_are_left(
    app: App, database: Database, conn: psycopg.Connection, locked: int
) -> None:
    ids = await suspects(app, conn, 16, 16, 16)
    with psycopg.connect(app.dsn) as other:
        other.execute("select from pgqueue.jobs where id = %s for update", (ids[locked],))
        assert await claimed(database) == [job for job in ids if job != ids[locked]]


async def test_company_comes_to_one_that_runs_alone_only(
    app: App, database: Database, conn: psycopg.Connection
) -> None:
    ids = await suspects(app, conn, 1, 16, 1, 1)
    held = [(job, uuid4()) for job in ids]
    for job, claim in held:
        conn.execute(
            "update pgqueue.jobs set status = 'running', claim_id = %s where id = %s", (claim, job)
        )
    conn.execute("update pgqueue.jobs set status = 'succeeded' where id = %s", (ids[2],))
    held[3] = (ids[3], uuid4())
    with psycopg.connect(app.dsn) as other:
        other.execute("select from pgqueue.jobs where id = %s for update", (ids[0],))
        assert await database.run(quarantine.end_isolation(held)) == [ids[0]]  # alone still
    assert await database.run(quarantine.end_isolation(held)) == []
    noted = conn.execute("select quarantine from pgqueue.jobs order by id").fetchall()
    assert noted == [(2,), (16,), (1,), (1,)]


# Of a run that its worker did not survive, with max_crashes=3: attempt, max_retries, crashes, quarantine, and then the
# status, crashes and quarantine of the job that is taken back.
RESCUED = {
    "a first crash": (1, 5, 0, None, "pending", 1, None),
    "the last but one": (1, 5, 1, None, "pending", 2, 16),
    "among all, with its last chance": (1, 5, 2, None, "pending", 2, 16),
    "in a large group": (1, 5, 2, 16, "pending", 2, 4),
    "in a small group": (1, 5, 2, 4, "pending", 2, 1),
    "in a group of two": (1, 5, 2, 2, "pending", 2, 1),
    "alone": (1, 5, 2, 1, "dead", 3, None),
    "alone, with a chance left": (1, 5, 0, 1, "pending", 1, 1),
    "out of retries among all": (6, 5, 0, None, "pending", 1, 16),
    "out of retries in a group": (6, 5, 0, 16, "pending", 1, 4),
    "out of retries, alone": (6, 5, 0, 1, "dead", 1, None),
    "never to run twice": (1, 0, 0, None, "dead", 1, None),
}


@pytest.mark.parametrize("which", RESCUED)
@pytest.mark.parametrize("cancelled", [False, True], ids=["", "cancelled"])
async def test_a_crash(
    app: App, database: Database, conn: psycopg.Connection, which: str, cancelled: bool
) -> None:
    attempt, most, crashes, company, *expected = RESCUED[which]
    await app.aclient.insert([NewJob("t", "{}")])
    conn.execute(
        "update pgqueue.jobs set status = 'running', attempt = %s, max_retries = %s, crashes = %s, quarantine = %s,"
        " cancel_requested = %s, claim_id = gen_random_uuid(), worker_id = gen_random_uuid(),"
        " lease_expires_at = now() - interval '1 s'",
        (attempt, most, crashes, company, cancelled),
    )
    await database.run(maintenance.rescue(max_crashes=3))
    became = conn.execute("select status, crashes, quarantine from pgqueue.jobs").fetchone()
    assert became == (("cancelled", expected[1], None) if cancelled else tuple(expected))
