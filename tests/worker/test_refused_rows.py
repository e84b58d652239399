"""A row that the database refuses to change, whatever its code, stops no maintenance: the rows beside it go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App, Context
from pgqueue.job import NewJob, Status
from pgqueue.operations import claims, workflows
from pgqueue.worker import heartbeat, maintenance, parts, settler
from pgqueue.worker.database import Database, StatementRefused
from pgqueue.worker.maintenance import Pruner
from pgqueue.worker.run import Run
from tests.support import eventually_async, insert, statuses, working

Connection = psycopg.Connection[Any]

FORBID = """
    create table public.forbidden (id bigint primary key);
    create function public.forbid() returns trigger language plpgsql as $$
    begin
        if exists (select from public.forbidden f where f.id = old.id) then
            raise exception 'not you' using errcode = '{code}';
        end if;
        return case when tg_op = 'DELETE' then old else new end;
    end $$;
    create trigger forbid before update or delete on pgqueue.{table}
        for each row execute function public.forbid();
"""
CODES = ["42501", "P0001", "23514", "22001"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks come at once, and what was refused is tried again soon."""
    monkeypatch.setattr(maintenance, "PRUNE_INTERVAL", 0.05)
    monkeypatch.setattr(maintenance, "EXPIRE_INTERVAL", 0.05)
    monkeypatch.setattr(settler, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(parts, "LEFT_ALONE", (0.1, 0.2))


@contextmanager
def forbidden(
    conn: Connection, *ids: int, code: str = "42501", table: str = "jobs"
) -> Iterator[None]:
    conn.execute(FORBID.format(code=code, table=table).encode())
    conn.execute("insert into public.forbidden select unnest(%s::bigint[])", (list(ids),))
    yield
    conn.execute("delete from public.forbidden")


OLD = {
    "status": "'succeeded'",
    "finished_at": "now() - interval '1 hour' + i * interval '1 ms'",
}
LAPSED = {
    "status": "'running'",
    "attempt": "1",
    "claim_id": "gen_random_uuid()",
    "worker_id": "gen_random_uuid()",
    "claimed_at": "now() - interval '1 hour'",
    "lease_expires_at": "now() - interval '1 hour'",
}
LATE = {"expires_at": "now() - interval '1 hour'"}


def is_said(caplog: pytest.LogCaptureFixture, job_id: int) -> bool:
    says = [record.getMessage() for record in caplog.records]
    return any(f"job {job_id}" in text and "not you" in text for text in says)


@pytest.mark.parametrize("code", CODES)
async def test_rescue(
    app: App, conn: Connection, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="t")
    async def task() -> None: ...

    ids = insert(conn, 30, **LAPSED)
    bad = {ids[0], ids[11]}
    with forbidden(conn, *bad, code=code):
        async with working(app, lease=1.0, notify=False):
            await eventually_async(
                lambda: {i for i, s in statuses(conn).items() if s == "running"} == bad
            )
            await eventually_async(lambda: is_said(caplog, ids[0]))
            assert "dead" not in statuses(conn).values()
            conn.execute("delete from public.forbidden")
            await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})


@pytest.mark.parametrize("code", CODES)
async def test_expiry(
    app: App, conn: Connection, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    ids = insert(conn, 30, **LATE)
    with forbidden(conn, ids[0], ids[29], code=code):
        async with working(app, notify=False):
            await eventually_async(lambda: list(statuses(conn).values()).count("cancelled") == 28)
            await eventually_async(lambda: is_said(caplog, ids[0]))
            assert statuses(conn)[ids[0]] == statuses(conn)[ids[29]] == "pending"
            conn.execute("delete from public.forbidden")
            await eventually_async(lambda: set(statuses(conn).values()) == {"cancelled"})


@pytest.mark.parametrize("status", ["succeeded", "dead", "cancelled"])
async def test_pruning(
    app: App, conn: Connection, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A foreign key of the user's, without ``on delete``."""
    ids = insert(conn, 1500, **(OLD | {"status": f"'{status}'"}))
    conn.execute("insert into pgqueue.attempts (job_id, attempt, outcome) select unnest(%s::bigint[]), 1, 'retry'", (ids,))  # fmt: skip
    bad = [ids[0], ids[700], ids[701], ids[1499]]
    conn.execute("create table lines (job_id bigint references pgqueue.jobs (id))")
    conn.execute("insert into lines select unnest(%s::bigint[])", (bad,))
    keep: dict[str, Any] = {f"keep_{status}": 60}
    async with working(app, notify=False, **keep):
        await eventually_async(lambda: sorted(statuses(conn)) == bad)
        kept = conn.execute("select distinct job_id from pgqueue.attempts order by 1").fetchall()
        assert [row[0] for row in kept] == bad, "what stays keeps its attempts"
        assert any('violates foreign key constraint "lines' in r.getMessage() for r in caplog.records)  # fmt: skip
        conn.execute("delete from lines")
        await eventually_async(lambda: not statuses(conn))


def flows(app: App, conn: Connection, count: int) -> list[list[int]]:
    """Ended workflows of three jobs each, and the ids of their jobs."""

    @app.task(name="t")
    async def task() -> None: ...

    made = [app.batch([task.call()] * 3).enqueue() for _ in range(count)]
    conn.execute(
        "update pgqueue.jobs set status = 'running'; update pgqueue.jobs set status = 'succeeded', finished_at = now();"
        "update pgqueue.workflows set status = 'succeeded', watched = null, finished_at = now() - interval '1 hour' + id * interval '1 s'"
    )
    return [[job.id for job in each.jobs] for each in made]


async def test_pruning_of_workflows(app: App, conn: Connection) -> None:
    ids = flows(app, conn, 5)
    bad = [ids[0][1], ids[3][0]]
    conn.execute("create table lines (job_id bigint references pgqueue.jobs (id))")
    conn.execute("insert into lines select unnest(%s::bigint[])", (bad,))
    async with working(app, notify=False, keep_succeeded=60):
        await eventually_async(lambda: sorted(statuses(conn)) == bad)
        await eventually_async(lambda: len(app.client.workflows()) == 2)
        conn.execute("delete from lines")
        await eventually_async(lambda: not statuses(conn))
        await eventually_async(lambda: not app.client.workflows())


def test_a_workflow_whose_job_is_locked_loses_the_others(
    app: App, conn: Connection, dsn: str
) -> None:
    ids = flows(app, conn, 2)
    prune = workflows.prune(Status.SUCCEEDED, age=1.0)
    with psycopg.connect(dsn) as other:
        other.execute("select from pgqueue.jobs where id = %s for key share", (ids[0][1],))
        app.client._run(prune, None)
        assert list(statuses(conn)) == [ids[0][1]]
        assert len(app.client.workflows()) == 1
    app.client._run(prune, None)
    assert app.client.workflows() == []
    conn.execute("delete from pgqueue.workflow_jobs")


async def test_pruning_of_events(app: App, conn: Connection) -> None:
    for name in "abcde":
        app.emit(name)
    conn.execute("update pgqueue.events set delivered_at = now(), created_at = now() - interval '1 h'")  # fmt: skip
    rows = conn.execute("select id from pgqueue.events order by id").fetchall()
    with forbidden(conn, rows[0][0], table="events"):
        async with working(app, notify=False, keep_events=60):
            await eventually_async(
                lambda: conn.execute("select id from pgqueue.events").fetchall() == rows[:1]
            )


async def test_a_kind_that_cannot_be_pruned_at_all_keeps_no_other(
    app: App, conn: Connection, dsn: str
) -> None:
    """All that succeeded is refused, and more than is narrowed down in one pass: the dead ones go."""
    insert(conn, 100, **OLD)
    dead = insert(conn, 10, **(OLD | {"status": "'dead'"}))
    conn.execute(FORBID.format(code="42501", table="jobs").encode())
    conn.execute("insert into public.forbidden select id from pgqueue.jobs where status = 'succeeded'")  # fmt: skip
    database = Database(dsn, app.schema)
    pruner = Pruner(
        database=database,
        keep={Status.SUCCEEDED: 60.0, Status.DEAD: 60.0, Status.CANCELLED: 60.0},
        keep_events=60.0,
    )
    with pytest.raises(StatementRefused, match="not you"):
        await pruner.run_once()
    assert not set(dead) & set(statuses(conn))
    await database.close()


async def test_a_missing_privilege_is_no_matter_of_a_row(
    app: App, conn: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised, so that the service tries again later, after a bounded number of statements."""
    monkeypatch.setattr(parts, "LEFT_ALONE", (3600.0, 3600.0))
    insert(conn, 100, **OLD)
    conn.execute("create role weak; grant usage on schema pgqueue to weak")
    conn.execute("grant select, update on all tables in schema pgqueue to weak")
    database = Database(dsn, app.schema)
    try:
        await database.run(workflows.results(None, []))
        assert database._link is not None
        await database._link._connection.execute("set role weak")  # type: ignore[attr-defined]
        pruner = Pruner(database=database, keep={Status.SUCCEEDED: 60.0}, keep_events=None)
        with pytest.raises(StatementRefused, match="permission denied"):
            await pruner.run_once()
        assert len(pruner._jobs.resting()) == parts.MOST_IN_A_ROW
    finally:
        await database.close()
        conn.execute("drop owned by weak; drop role weak")


def graph(app: App, task: Any, count: int) -> list[tuple[int, list[int]]]:
    """Workflows of a job and three that wait for it."""
    made = []
    for _ in range(count):
        flow = app.workflow()
        first = flow.add(task.call())
        others = [first.then(task.call()) for _ in range(3)]
        enqueued = flow.enqueue()
        made.append((enqueued[first].id, [enqueued[each].id for each in others]))
    return made


async def test_waiting_jobs(app: App, conn: Connection, caplog: pytest.LogCaptureFixture) -> None:
    """Also those that wait for the same job as the one that is refused."""

    @app.task(name="t")
    async def task() -> None: ...

    made = graph(app, task, 4)
    bad = [made[1][1][0], made[2][1][1]]
    with forbidden(conn, *bad):
        async with working(app, concurrency=4, notify=False) as runtime:
            await eventually_async(
                lambda: [i for i, s in statuses(conn).items() if s != "succeeded"] == bad
            )
            assert {statuses(conn)[i] for i in bad} == {"blocked"}
            await eventually_async(lambda: is_said(caplog, bad[0]))
            await eventually_async(lambda: runtime.settler.at_rest)
            conn.execute("delete from public.forbidden")
            await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})


async def test_a_workflow_that_may_not_end(app: App, conn: Connection) -> None:
    @app.task(name="t")
    async def task() -> None: ...

    made = [app.batch([task.call()]).enqueue() for _ in range(4)]
    with forbidden(conn, made[1].id, table="workflows"):
        async with working(app, notify=False):
            await eventually_async(
                lambda: [w.id for w in app.client.workflows(status="running")] == [made[1].id]
            )
            conn.execute("delete from public.forbidden")
            await eventually_async(lambda: not app.client.workflows(status="running"))


async def test_events(app: App, conn: Connection, caplog: pytest.LogCaptureFixture) -> None:
    """One that waits for an event and may not be woken holds up none of those that wait for it as well."""
    got: list[int] = []

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        await ctx.wait_for_event("go", timeout=3600)
        got.append(ctx.id)

    ids = [(await task.aenqueue()).id for _ in range(5)]
    async with working(app, notify=False):
        waiting = "select count(*) from pgqueue.steps s join pgqueue.jobs j on j.id = s.job_id where j.status = 'pending'"
        await eventually_async(lambda: conn.execute(waiting.encode()).fetchone() == (5,))
        with forbidden(
            conn, ids[2]
        ):  # nothing is refused yet: no lock is held between two messages
            # As emit() does, whose look comes to nothing where a job is not asleep yet.
            conn.execute("insert into pgqueue.events (name, payload) values ('go', '1')")
            await eventually_async(lambda: sorted(got) == [ids[0], ids[1], ids[3], ids[4]])
            await eventually_async(lambda: is_said(caplog, ids[2]))
        await eventually_async(lambda: sorted(got) == ids)


REFUSE_LEASE = """
    create function public.refuse() returns trigger language plpgsql as $$
    begin
        if old.id = {id} and old.status = new.status and old.{column} is distinct from new.{column} then
            raise exception 'not you' using errcode = 'P0001';
        end if;
        return new;
    end $$;
    create trigger refuse before update on pgqueue.jobs for each row execute function public.refuse();
"""


async def test_renewals(app: App, conn: Connection) -> None:
    """One lease that cannot be renewed costs no other job its own."""
    go = asyncio.Event()

    @app.task(name="t")
    async def task() -> None:
        await go.wait()

    ids = [(await task.aenqueue()).id for _ in range(4)]
    async with working(app, concurrency=4, lease=2.0, notify=False) as runtime:
        runs: dict[int, Run] = {}
        await eventually_async(
            lambda: runs.update({run.job.id: run for run in runtime._held()}) or len(runs) == 4
        )
        refuse = REFUSE_LEASE.format(id=ids[1], column="lease_expires_at")
        await asyncio.to_thread(conn.execute, refuse.encode())  # the worker may hold a lock
        await eventually_async(lambda: runs[ids[1]].reason == "lost")
        assert [runs[i].reason for i in ids if i != ids[1]] == [None] * 3
        go.set()
        await eventually_async(
            lambda: [s for i, s in statuses(conn).items() if i != ids[1]] == ["succeeded"] * 3
        )
        await asyncio.to_thread(conn.execute, "drop trigger refuse on pgqueue.jobs")
    rows = conn.execute("select max(attempt), max(crashes) from pgqueue.jobs where id <> %s", (ids[1],))  # fmt: skip
    assert rows.fetchone() == (1, 0)


async def test_progress(
    app: App, conn: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heartbeat, "TELL_EVERY", 0.01)
    go = asyncio.Event()

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        ctx.progress(1, 2)
        await go.wait()

    ids = await app.aclient.insert([NewJob("t", "{}")] * 4)
    conn.execute(REFUSE_LEASE.format(id=ids[1], column="progress").encode())
    said = "select id from pgqueue.jobs where progress is not null order by id"
    with caplog.at_level(logging.ERROR):
        async with working(app, concurrency=4, notify=False):
            await eventually_async(
                lambda: [row[0] for row in conn.execute(said.encode())] == [ids[0], *ids[2:]]
            )
            go.set()
    assert any(f"job {ids[1]}" in record.getMessage() for record in caplog.records)


async def test_in_parts_acts_on_each_item_once() -> None:
    """Whatever is refused: all others are acted on, and nothing stays."""
    for refused in ({0}, {9}, {3, 4}, {0, 5, 9}, set(range(10)), set[int]()):
        acted: list[int] = []
        left: list[int] = []

        async def act(some: Any, refused: set[int] = refused, acted: list[int] = acted) -> None:
            if refused & set(some):
                raise StatementRefused("no", "P0001")
            acted.extend(some)

        async def leave(item: int, error: object, left: list[int] = left) -> None:
            left.append(item)

        items = list(range(10))
        await parts.in_parts(items, act, leave)
        assert (items, sorted(acted), sorted(left)) == (
            [],
            sorted(set(range(10)) - refused),
            sorted(refused),
        )


def test_a_claim_whose_row_is_locked_is_given_back_in_parts(
    app: App, conn: Connection, dsn: str
) -> None:
    """An unanswered claim: the rows that others have locked are given back the next time."""
    claim = uuid4()
    ids = insert(conn, 5, **(LAPSED | {"claim_id": f"'{claim}'"}))
    with psycopg.connect(dsn) as other:
        other.execute("select from pgqueue.jobs where id = %s for update", (ids[2],))
        assert sorted(app.client._run(claims.release(claim), None)) == [i for i in ids if i != ids[2]]  # fmt: skip
    assert app.client._run(claims.release(claim), None) == [ids[2]]
