"""A job that the database refuses to let run stops no claim: the jobs beside it run, and it does when it may."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App, Context
from pgqueue.operations import claims, limits, quarantine
from pgqueue.operations.claims import Candidate, Finished, Lane
from pgqueue.outcome import SUCCEEDED
from pgqueue.worker import lanes, unstartable
from pgqueue.worker.database import Database, DatabaseAway, StatementRefused
from pgqueue.worker.exchange import Exchange
from pgqueue.worker.trail import FRONT
from pgqueue.worker.unstartable import Unstartable
from tests.support import eventually_async, insert, statuses, working

Connection = psycopg.Connection[Any]

FORBID = """
    create table public.forbidden (id bigint primary key);
    create function public.forbid() returns trigger language plpgsql as $$
    begin
        if new.status = 'running' and old.status <> 'running'
           and exists (select from public.forbidden f where f.id = new.id) then
            raise exception 'not you' using errcode = '{code}';
        end if;
        return new;
    end $$;
    create trigger forbid before update on pgqueue.jobs for each row execute function public.forbid();
"""
CODES = ["P0001", "42501", "23514", "22001"]
TAKING: dict[str, Any] = {"limit": 100, "worker_id": uuid4(), "lease": 60.0}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refused is tried again soon."""
    monkeypatch.setattr(unstartable, "LEFT_ALONE", (0.1, 0.2))
    monkeypatch.setattr(lanes, "LONGEST_BETWEEN_SWEEPS", 0.1)


@contextmanager
def forbidden(conn: Connection, *ids: int, code: str = "P0001") -> Iterator[Callable[[], object]]:
    """These may not run, until what is given is called."""
    conn.execute(FORBID.format(code=code).encode())
    conn.execute("insert into public.forbidden select unnest(%s::bigint[])", (list(ids),))
    yield lambda: conn.execute("delete from public.forbidden")
    conn.execute("delete from public.forbidden")


def pending(conn: Connection) -> list[int]:
    return [i for i, s in statuses(conn).items() if s != "succeeded"]


def is_said(caplog: pytest.LogCaptureFixture, job_id: int) -> bool:
    says = [record.getMessage() for record in caplog.records]
    return any(f"job {job_id} (task t)" in text and "not you" in text for text in says)


@pytest.fixture
def task(app: App) -> None:
    @app.task(name="t")
    async def task() -> None: ...


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize("code", CODES)
async def test_a_sweep(
    app: App, conn: Connection, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The first claim of a worker."""
    ids = insert(conn, 60)
    bad = [ids[0], ids[17], ids[18], ids[59]]
    with forbidden(conn, *bad, code=code) as allow:
        async with working(app, concurrency=100, notify=False):
            await eventually_async(lambda: pending(conn) == bad)
            await eventually_async(lambda: is_said(caplog, bad[0]))
            allow()
            await eventually_async(lambda: pending(conn) == [])
    rows = conn.execute("select max(attempt), max(crashes) from pgqueue.jobs").fetchone()
    assert rows == (1, 0)


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize("keep", [None, 0])
async def test_trades(app: App, conn: Connection, keep: int | None) -> None:
    """Claims that record what succeeded: also the outcomes are recorded, once."""
    ids = insert(conn, 300)
    bad = [ids[40], ids[41], ids[200]]
    settings: dict[str, Any] = {} if keep is None else {"keep_succeeded": keep}
    with forbidden(conn, *bad) as allow:
        async with working(app, concurrency=10, notify=False, **settings) as runtime:
            await eventually_async(lambda: pending(conn) == bad)
            assert runtime.exchanges[0].recorder.lost == 0
            allow()
            await eventually_async(lambda: pending(conn) == [])
    assert conn.execute("select max(attempt), max(crashes) from pgqueue.jobs").fetchone() in ((1, 0), (None, None))  # fmt: skip


async def test_a_refused_claim_records_the_outcomes_of_its_trade(
    app: App, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is left is refused: what has run is recorded at once, and the service has not failed."""
    failed: list[BaseException] = []
    original = Exchange._failed

    async def note(self: Exchange, error: Exception, failures: int) -> None:
        failed.append(error)
        await original(self, error, failures)

    monkeypatch.setattr(Exchange, "_failed", note)

    @app.task(name="t")
    async def task() -> None: ...

    first = insert(conn, 20)
    rest = insert(conn, 5)
    with forbidden(conn, *rest):
        async with working(app, concurrency=4, notify=False):
            await eventually_async(lambda: pending(conn) == rest)
            assert [statuses(conn)[i] for i in first] == ["succeeded"] * 20
    assert failed == []


@pytest.mark.usefixtures("task")
async def test_several_workers(app: App, conn: Connection) -> None:
    ids = insert(conn, 200)
    bad = [ids[3], ids[100]]
    with forbidden(conn, *bad) as allow:
        async with working(app, concurrency=10, notify=False), working(app, concurrency=10, notify=False):  # fmt: skip
            await eventually_async(lambda: pending(conn) == bad)
            allow()
            await eventually_async(lambda: pending(conn) == [])
    assert conn.execute("select max(attempt), max(crashes) from pgqueue.jobs").fetchone() == (1, 0)


@pytest.mark.parametrize(
    "limit", [{"max_running": 3}, {"rate": 1000}, {"max_running": 3, "rate": 1000}]
)
@pytest.mark.usefixtures("task")
async def test_a_queue_under_limits(app: App, conn: Connection, limit: dict[str, Any]) -> None:
    """And it stops neither the lanes nor other queues."""
    for queue in ("default", "other"):
        conn.execute("insert into pgqueue.queues (name, max_running, rate) values (%s, %s, %s)",
                     (queue, limit.get("max_running"), limit.get("rate")))  # fmt: skip
    ids = insert(conn, 20)
    bad = [ids[0], ids[1], ids[2], ids[10]]
    insert(conn, 10, queue="'other'")
    insert(conn, 10, queue="'free'")
    with forbidden(conn, *bad) as allow:
        async with working(app, concurrency=20, notify=False):
            await eventually_async(lambda: pending(conn) == bad)
            allow()
            await eventually_async(lambda: pending(conn) == [])
    assert conn.execute("select max(attempt) from pgqueue.jobs").fetchone() == (1,)


@pytest.mark.parametrize("ordered", [None, "skip", "strict"])
@pytest.mark.usefixtures("task")
async def test_keys_under_limits(app: App, conn: Connection, ordered: str | None) -> None:
    """One that is refused holds up others of its key only where they are strictly to wait for it."""
    conn.execute("insert into pgqueue.tasks (name, max_running, ordered) values ('t', 1, %s)", (ordered,))  # fmt: skip
    ids = insert(conn, 12, limit_key="'t:' || i % 3")
    bad = [ids[0]]
    left = [ids[0], ids[3], ids[6], ids[9]] if ordered == "strict" else bad
    with forbidden(conn, *bad) as allow:
        async with working(app, concurrency=20, notify=False):
            await eventually_async(lambda: pending(conn) == left)
            allow()
            await eventually_async(lambda: pending(conn) == [])


@pytest.mark.parametrize("limited", [False, True])
async def test_suspects(app: App, conn: Connection, limited: bool) -> None:
    """In a worker that a program runs. Of a group whose claim is refused one part runs, and each knows how many run."""
    beside: list[tuple[int, int]] = []

    @app.task(name="t")
    async def task() -> None:
        row = conn.execute("select count(*), min(quarantine) from pgqueue.jobs where status = 'running'").fetchone()  # fmt: skip
        assert row is not None
        beside.append((row[0], row[1] or 100))

    if limited:
        conn.execute("insert into pgqueue.queues (name, max_running) values ('default', 5)")
    ids = insert(conn, 6, quarantine="16", crashes="2")
    others = insert(conn, 4)
    bad = [ids[0], ids[4]]
    with forbidden(conn, *bad) as allow:
        async with working(app, concurrency=20, notify=False):
            await eventually_async(lambda: pending(conn) == bad)
            assert [statuses(conn)[i] for i in others] == ["succeeded"] * 4
            allow()
            await eventually_async(lambda: pending(conn) == [])
    assert len(beside) == 10
    assert all(running <= known for running, known in beside), beside


@pytest.mark.usefixtures("task")
async def test_a_task_of_which_very_many_are_refused_holds_up_no_other(
    app: App, conn: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unstartable, "LEFT_ALONE", (3600.0, 3600.0))
    monkeypatch.setattr(unstartable, "MOST_OF_A_TASK", 10)

    @app.task(name="other")
    async def other() -> None: ...

    bad = insert(conn, 100)
    for _ in range(5):
        await other.aenqueue()
    with forbidden(conn, *bad):
        async with working(app, concurrency=5, notify=False):
            await eventually_async(lambda: pending(conn) == bad)
    assert any("jobs of task t run" in record.getMessage() for record in caplog.records)


@pytest.mark.usefixtures("task")
async def test_no_more_than_a_bounded_number_is_left_alone(
    app: App, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes behind those is claimed all the same, from the cursors on."""
    monkeypatch.setattr(unstartable, "LEFT_ALONE", (3600.0, 3600.0))
    monkeypatch.setattr(unstartable, "MOST_LEFT_ALONE", 5)
    ids = insert(conn, 40)
    bad = [*ids[:9], *ids[20:24]]
    with forbidden(conn, *bad):
        async with working(app, concurrency=50, notify=False) as runtime:
            await eventually_async(lambda: pending(conn) == bad)
            assert len(runtime.exchanges[0]._unstartable.resting()[0]) == 5


async def test_they_are_claimed_in_the_order_they_come_in_and_once() -> None:
    """Whatever is refused; and those that are refused are known from then on."""
    everything = [Candidate(i, "t") for i in range(20)]
    for bad in ({0}, {19}, {3, 4}, {0, 9, 19}, set(range(20)), set[int]()):
        known, got = Unstartable(logging.getLogger("test")), list[int]()

        async def claim(job_ids: list[int], bad: set[int] = bad, got: list[int] = got) -> int:
            if bad & set(job_ids):
                raise StatementRefused("not you", "P0001")
            got.extend(job_ids)
            return len(job_ids)

        await known.claim(everything, claim)
        assert got == [i for i in range(20) if i not in bad]
        assert known.resting() == (sorted(bad), [])
        assert known.found == bool(bad)


async def test_a_lock_of_the_table_is_no_matter_of_a_job() -> None:
    known = Unstartable(logging.getLogger("test"))
    tried: list[int] = []

    async def claim(job_ids: list[int]) -> int:
        tried.append(len(job_ids))
        raise StatementRefused("lock timeout", "55P03")

    with pytest.raises(StatementRefused):
        await known.claim([Candidate(i, "t") for i in range(20)], claim)
    assert tried == [20]
    assert known.resting() == ([], [])


async def test_the_looks_see_what_the_claims_take(app: App, conn: Connection, dsn: str) -> None:
    ids = insert(conn, 4)
    insert(conn, 1, run_at="now() + interval '1 hour'")
    insert(conn, 1, queue="'slow'")
    key = insert(conn, 1, queue="'slow'", limit_key="'t:1'")
    suspects = insert(conn, 3, quarantine="2")
    conn.execute("insert into pgqueue.queues (name, max_running) values ('slow', 5)")
    where = [Lane("default", 0, *FRONT)]
    database = Database(dsn, app.schema)
    taking = {**TAKING, "claim_id": uuid4(), "not_ids": [ids[1]]}
    try:
        seen = [each.id for each in await database.run(claims.look_ahead(where, **taking))]
        behind = await database.run(claims.look_behind(None, **taking))
        assert seen == [each.id for each in behind.jobs] == [ids[0], *ids[2:]]
        assert ("default", 0) in behind.lanes
        limited = await database.run(limits.look("slow", **{**taking, "not_ids": key}))
        assert [each.task for each in limited] == ["t"]
        assert limited[0].id not in key
        group = await database.run(quarantine.look(None, **{**taking, "not_ids": suspects[:1]}))
        assert [each.id for each in group] == suspects[1:]
        assert set(statuses(conn).values()) == {"pending"}
    finally:
        await database.close()


CHANGES = {
    "paused queue": "insert into pgqueue.queues (name, paused_at) values ('default', now())",
    "all paused": "insert into pgqueue.queues (name, paused_at) values ('*', now())",
    "paused task": "insert into pgqueue.tasks (name, paused_at) values ('t', now())",
    "limited queue": "insert into pgqueue.queues (name, rate) values ('default', 5)",
    "a key": "update pgqueue.jobs set limit_key = 't:1'",
    "suspects": "update pgqueue.jobs set quarantine = 2",
    "late": "update pgqueue.jobs set expires_at = now() - interval '1 s'",
    "later": "update pgqueue.jobs set run_at = now() + interval '1 h'",
    "ended": "update pgqueue.jobs set status = 'cancelled', finished_at = now()",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_changed_since_the_look_is_not_claimed(
    app: App, conn: Connection, dsn: str, change: str
) -> None:
    ids = insert(conn, 3)
    database = Database(dsn, app.schema)
    taking = {**TAKING, "claim_id": uuid4()}
    try:
        jobs = await database.run(claims.claim_these(ids[:1], **taking))
        assert [job.id for job in jobs] == ids[:1]
        conn.execute(b"delete from pgqueue.jobs where status = 'running'")
        conn.execute(CHANGES[change].encode())
        assert await database.run(claims.claim_these(ids, **taking)) == []
    finally:
        await database.close()


async def test_what_was_claimed_before_an_outage_is_given_back(
    app: App, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the parts of a claim the first succeeded, and the last was not answered: no attempt is used up."""
    attempts: list[int] = []

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        attempts.append(ctx.attempt)

    ids = insert(conn, 8)
    original, away = Database.run, False

    async def run(self: Database, operation: Any, **more: Any) -> Any:
        nonlocal away
        these = operation.values["ids"] if operation.statement == "claim_these" else []
        if ids[-1] in these and len(these) < len(ids) and not away:
            away = True
            raise DatabaseAway("gone", sent=False)
        return await original(self, operation, **more)

    monkeypatch.setattr(Database, "run", run)
    with forbidden(conn, ids[2]) as allow:
        async with working(app, concurrency=20, notify=False):
            await eventually_async(lambda: pending(conn) == [ids[2]])
            allow()
            await eventually_async(lambda: pending(conn) == [])
    assert away
    assert attempts == [1] * 8


async def test_a_job_that_cannot_be_given_back_keeps_no_other(
    app: App, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a claim whose answer was lost all others run at once; and the worker goes on."""
    runs: list[int] = []

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        runs.append(ctx.id)

    ids = insert(conn, 8)
    conn.execute(
        f"""create function public.keep() returns trigger language plpgsql as $$
        begin
            if new.id = {ids[3]} and new.status = 'pending' then raise exception 'not you'; end if;
            return new;
        end $$;
        create trigger keep before update on pgqueue.jobs for each row execute function public.keep()""".encode()
    )
    original, away = Database.run, False

    async def run(self: Database, operation: Any, **more: Any) -> Any:
        nonlocal away
        answer = await original(self, operation, **more)
        if operation.statement == "sweep" and not away:
            away = True
            raise DatabaseAway("no answer", sent=True)
        return answer

    monkeypatch.setattr(Database, "run", run)
    others = [i for i in ids if i != ids[3]]
    async with working(app, concurrency=20, notify=False, lease=60.0):
        await eventually_async(lambda: sorted(runs) == others)
        assert statuses(conn)[ids[3]] == "running"
        await task.aenqueue()
        await eventually_async(lambda: len(runs) == 8)


async def test_claims_of_parts_take_no_others(app: App, conn: Connection, dsn: str) -> None:
    """Suspects, and jobs under limits; a look takes none."""
    suspects = insert(conn, 3, quarantine="16")
    plain = insert(conn, 3, queue="'slow'")
    keyed = insert(conn, 3, queue="'slow'", limit_key="'t:1'")
    conn.execute("insert into pgqueue.queues (name, rate, burst) values ('slow', 1000, 100)")
    database = Database(dsn, app.schema)
    taking = {**TAKING, "claim_id": uuid4()}
    try:
        for only in (suspects[1:], [suspects[0]]):
            group = await database.run(quarantine.claim_suspects(None, only_ids=only, **taking))
            assert [job.id for job in group] == only
        await database.run(limits.look("slow", **taking))
        for only in ([plain[1], keyed[2]], [plain[0]]):
            found = await database.run(limits.claim("slow", only_ids=only, **taking))
            # Those without a key come first half of the time.
            assert sorted(job.id for job in found.jobs) == sorted(only)
        without = {**taking, "not_ids": [plain[2], keyed[0]]}
        found = await database.run(limits.claim("slow", **without))
        assert [job.id for job in found.jobs] == [keyed[1]]
        assert found.wait is None, "those left alone are not waited for"
    finally:
        await database.close()


@pytest.mark.parametrize(("ordered", "next_one"), [("skip", 1), ("strict", None)])
async def test_the_order_of_a_key(
    app: App, conn: Connection, dsn: str, ordered: str, next_one: int | None
) -> None:
    conn.execute("insert into pgqueue.tasks (name, ordered) values ('t', %s)", (ordered,))
    ids = insert(conn, 3, limit_key="'t:1'")
    database = Database(dsn, app.schema)
    taking = {**TAKING, "claim_id": uuid4(), "not_ids": ids[:1]}
    try:
        found = await database.run(limits.claim("default", **taking))
        expected = [] if next_one is None else [ids[next_one]]
        assert [job.id for job in found.jobs] == expected
    finally:
        await database.close()


@pytest.mark.parametrize("tick", ["294000-01-01", "4000-01-01 BC", "infinity"])
@pytest.mark.parametrize("kind", ["plain", "limited", "suspect"])
async def test_a_tick_that_no_driver_can_read(
    app: App, conn: Connection, dsn: str, tick: str, kind: str
) -> None:
    """It comes after the claim is carried out, so nothing could tell which row it was."""
    columns = {"limited": {"limit_key": "'t:1'"}, "suspect": {"quarantine": "16"}}.get(kind, {})
    ids = insert(conn, 1, tick=f"'{tick}'", **columns) + insert(
        conn, 1, tick="'2026-01-01 UTC'", **columns
    )
    ended = insert(conn, 1, status="'running'")
    database = Database(dsn, app.schema)
    taking = {**TAKING, "claim_id": uuid4()}
    where = [Lane("default", 0, *FRONT)]
    done = [Finished(ended[0], uuid4(), SUCCEEDED, 0.1)]
    try:
        if kind == "plain":
            _, jobs = await database.run(claims.trade(done, where, delete=False, **taking))
            conn.execute("update pgqueue.jobs set status = 'pending', claim_id = null, worker_id = null, lease_expires_at = null where id <> %s", (ended[0],))  # fmt: skip
            assert [j.tick for j in await database.run(claims.claim(where, **taking))] == [j.tick for j in jobs]  # fmt: skip
        elif kind == "limited":
            jobs = (await database.run(limits.claim("default", **taking))).jobs
        else:
            jobs = await database.run(quarantine.claim_suspects(None, **taking))
        ticks = {job.id: job.tick for job in jobs}
        nearest = (
            datetime(1, 1, 2, tzinfo=UTC) if "BC" in tick else datetime(9999, 12, 30, tzinfo=UTC)
        )
        assert ticks == {ids[0]: nearest, ids[1]: datetime(2026, 1, 1, tzinfo=UTC)}
    finally:
        await database.close()
