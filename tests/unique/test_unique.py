"""Unique jobs on a real server: who is let in, what a conflict leaves, and that no later move meets one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pgqueue import App, Backoff, Context, Dead, JobExists, Snooze, Task
from tests.support import drain, eventually, eventually_async, statuses, working


@pytest.fixture
def touch(app: App) -> Task[Any, Any]:
    @app.task(name="touch", unique=["n"], backoff=Backoff.constant("0s"))
    async def touch(n: int, how: str = "") -> None:
        if how:
            raise {"fail": ValueError, "dead": Dead}[how]("as told")

    return touch


def rows(conn: psycopg.Connection) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select id, args ->> 'how', status from pgqueue.jobs order by id"
    ).fetchall()


def test_a_second_is_not_inserted(touch: Task[Any, Any], conn: psycopg.Connection) -> None:
    first, second, other = touch.enqueue(1), touch.enqueue(1, "fail"), touch.enqueue(2)
    assert (first.placed, second.placed, other.placed) == ("inserted", "existing", "inserted")
    assert second.id == first.id
    assert (first.inserted, second.inserted) == (True, False)
    assert len(statuses(conn)) == 2


async def test_the_key_is_free_once_it_has_finished(
    app: App, touch: Task[Any, Any], conn: psycopg.Connection
) -> None:
    first = await touch.aenqueue(1)
    await drain(app)
    second = await touch.aenqueue(1)
    assert second.inserted
    assert second.id != first.id


@pytest.mark.parametrize(
    ("until", "held"),
    [
        ("started", {"pending"}),
        ("finished", {"pending", "retrying", "running"}),
        ("succeeded", {"pending", "retrying", "running", "dead", "cancelled"}),
        ("removed", {"pending", "retrying", "running", "dead", "cancelled", "succeeded"}),
    ],
)
@pytest.mark.parametrize(
    "status", ["pending", "retrying", "running", "dead", "cancelled", "succeeded"]
)
def test_how_long_it_is_held(
    touch: Task[Any, Any], conn: psycopg.Connection, until: Any, held: set[str], status: str
) -> None:
    keyed = touch.with_unique(until=until)
    first = keyed.enqueue(1)
    stored = "pending" if status == "retrying" else status
    claimed = None if status == "pending" else "2026-01-01"
    conn.execute("alter table pgqueue.jobs disable trigger user")
    conn.execute(
        "update pgqueue.jobs set status = %s, claimed_at = %s where id = %s",
        (stored, claimed, first.id),
    )
    assert keyed.enqueue(1).inserted == (status not in held)


def test_for_a_time(touch: Task[Any, Any], conn: psycopg.Connection) -> None:
    hourly = touch.with_unique(within="1h")
    first = hourly.enqueue(1)
    conn.execute("update pgqueue.jobs set status = 'cancelled'")
    assert hourly.enqueue(1).id == first.id
    conn.execute(
        "update pgqueue.jobs set unique_expires_at = unique_expires_at - interval '1 hour'"
    )
    second = hourly.enqueue(1)
    assert second.inserted
    assert hourly.enqueue(1).id == second.id


def test_replace_leaves_the_time(touch: Task[Any, Any], conn: psycopg.Connection) -> None:
    latest = touch.with_unique(until="started", on_conflict="replace")
    first = latest.with_delay("1h").enqueue(1, "old")
    second = latest.with_queue("other").with_priority(5).with_delay("2h").enqueue(1, "new")
    assert (second.id, second.placed) == (first.id, "replaced")
    found = conn.execute(
        "select args ->> 'how', queue, priority, run_at < clock_timestamp() + interval '61 min'"
        " from pgqueue.jobs"
    ).fetchall()
    assert found == [("new", "other", 5, True)]


def test_reschedule_is_a_debounce(touch: Task[Any, Any], conn: psycopg.Connection) -> None:
    edit = touch.with_unique(until="started", on_conflict="reschedule").with_delay("15m")
    first = edit.enqueue(1, "a")
    conn.execute("update pgqueue.jobs set run_at = run_at - interval '10 min'")
    second = edit.enqueue(1, "b")
    assert (second.id, second.placed) == (first.id, "rescheduled")
    found = conn.execute(
        "select args ->> 'how', run_at > clock_timestamp() + interval '14 min' from pgqueue.jobs"
    ).fetchall()
    assert found == [("b", True)]


async def test_once_it_runs_the_next_call_queues_another(
    app: App, conn: psycopg.Connection
) -> None:
    ran: list[str] = []

    @app.task(name="save")
    async def save(text: str) -> None:
        ran.append(text)
        if text == "a":
            await edit.aenqueue("b")
            await edit.aenqueue("c")

    edit = save.with_unique("doc", until="started", on_conflict="replace")
    await edit.aenqueue("a")
    await drain(app, concurrency=1, prefetch=0)  # nobody takes b before c is there
    assert ran == ["a", "c"]


def test_raise_leaves_the_transaction_usable(
    touch: Task[Any, Any], conn: psycopg.Connection, dsn: str
) -> None:
    strict = touch.with_unique(on_conflict="raise")
    first = strict.enqueue(1)
    with psycopg.connect(dsn) as mine:
        with pytest.raises(JobExists, match=f"job {first.id} has the unique key") as caught:
            strict.on(mine).enqueue(1)
        assert caught.value.job_id == first.id
        strict.on(mine).enqueue(2)
    assert len(statuses(conn)) == 2


def test_raise_in_a_batch_inserts_none(
    app: App, touch: Task[Any, Any], conn: psycopg.Connection
) -> None:
    strict = touch.with_unique(on_conflict="raise")
    strict.enqueue(1)
    with pytest.raises(JobExists):
        app.enqueue_many([touch.call(0), strict.call(1), touch.call(2)])
    assert len(statuses(conn)) == 1


def test_within_a_batch(app: App, touch: Task[Any, Any], conn: psycopg.Connection) -> None:
    handles = app.enqueue_many([touch.call(n % 3) for n in (5, 4, 3, 2, 1, 0)])
    assert [h.inserted for h in handles] == [True] * 3 + [False] * 3
    assert [h.id for h in handles[:3]] == [h.id for h in handles[3:]]
    assert len(app.enqueue_many([touch.call(n % 50) for n in range(600)])) == 600
    assert len(statuses(conn)) == 50


def test_eight_at_once(app: App, touch: Task[Any, Any], conn: psycopg.Connection) -> None:
    """The gate: however they interleave, one job per key, and nobody's transaction is aborted."""
    together = threading.Barrier(8)

    def send(seed: int) -> list[tuple[int, int]]:
        sent = []
        for wave in range(10):
            together.wait()
            keys = [(wave, n) for n in range(5)]
            calls = [touch.call(w * 10 + n) for w, n in (keys if seed % 2 else reversed(keys))]
            sent += [(c.key, h.id) for c, h in zip(calls, app.enqueue_many(calls), strict=True)]
        return sent

    with ThreadPoolExecutor(8) as pool:
        found = [pair for each in pool.map(send, range(8)) for pair in each]
    assert len(statuses(conn)) == 50
    assert len(set(found)) == 50


def test_a_conflict_waits_for_the_other_transaction(
    touch: Task[Any, Any], dsn: str, conn: psycopg.Connection
) -> None:
    """One that rolls back leaves the key to the one that waited."""
    with ThreadPoolExecutor(1) as pool, psycopg.connect(dsn) as other:
        touch.on(other).enqueue(1)
        second = pool.submit(touch.enqueue, 1)
        eventually(lambda: conn.execute("select from pg_locks where not granted").fetchone() == ())
        other.rollback()
        assert second.result(timeout=20).inserted


def test_repeatable_read_is_not_aborted(touch: Task[Any, Any], dsn: str) -> None:
    """Its snapshot cannot see the other job, so there is no id to give; but it goes on."""
    with psycopg.connect(dsn) as mine:
        mine.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        mine.execute("select count(*) from pgqueue.jobs")
        touch.enqueue(1)
        handle = touch.on(mine).enqueue(1)
        assert (handle.id, handle.placed) == (None, "existing")
        assert touch.on(mine).enqueue(2).inserted


@pytest.mark.parametrize("until", ["started", "finished", "succeeded", "removed"])
async def test_no_later_move_meets_a_conflict(
    app: App, conn: psycopg.Connection, until: Any
) -> None:
    """Retry, snooze, rescue and release, with another call of the same key before each of them."""

    @app.task(name="moves", backoff=Backoff.constant("0s"))
    async def moves(ctx: Context) -> None:
        await keyed.aenqueue()
        if ctx.attempt == 1:
            raise ValueError
        if ctx.attempt == 2 and not snoozed:
            snoozed.append(ctx.id)
            raise Snooze("0s")

    snoozed: list[int] = []
    keyed = moves.with_unique("k", until=until)
    first = (await keyed.aenqueue()).id
    for _ in range(4):
        await drain(app, max_jobs=1)
    conn.execute(
        "update pgqueue.jobs set status = 'running', claim_id = gen_random_uuid(),"
        " worker_id = gen_random_uuid(), claimed_at = now(), lease_expires_at = '2020-01-01'"
        " where status = 'pending'"
    )
    await keyed.aenqueue()
    async with working(app, max_jobs=5):
        await eventually_async(
            lambda: (
                not conn.execute(
                    "select 1 from pgqueue.jobs where crashes = 1 and status = 'running'"
                ).fetchone()
            )
        )
    assert snoozed == [first]
    held = conn.execute(
        "select count(*) from pgqueue.jobs where unique_key is not null"
        " and pgqueue.held_key(unique_key, unique_until, status, claimed_at) is not null"
    ).fetchone()
    assert held is not None
    assert held[0] <= 1


def test_a_dead_job_does_not_take_its_key_back(
    app: App, touch: Task[Any, Any], conn: psycopg.Connection
) -> None:
    dead = touch.enqueue(1).id
    plain = touch.with_unique("other").enqueue(3).id
    conn.execute("update pgqueue.jobs set status = 'cancelled', finished_at = now()")
    holder = touch.enqueue(1).id
    assert app.client.retry(dead) is False
    # The statement looks first; somebody may take the key just then.
    assert conn.execute("select pgqueue.retry_keyed(%s)", [dead]).fetchone() == (False,)
    assert app.client.retry_many([dead, plain]) == [plain]
    assert statuses(conn) == {dead: "cancelled", plain: "pending", holder: "pending"}
    conn.execute("delete from pgqueue.jobs where id = %s", (holder,))
    assert app.client.retry(dead) is True
    assert not touch.enqueue(1).inserted


def test_two_tasks_may_use_the_same_key(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="one")
    def one() -> None: ...

    @app.task(name="two")
    def two() -> None: ...

    assert one.with_unique("k").enqueue().inserted
    assert two.with_unique("k").enqueue().inserted


def test_from_sql(conn: psycopg.Connection) -> None:
    call = b"select pgqueue.enqueue('t', '{}', unique_key => 'k')"
    first = conn.execute(call).fetchone()
    assert conn.execute(call).fetchone() == first
    with pytest.raises(psycopg.Error, match="has the unique key") as caught:
        conn.execute("select pgqueue.enqueue('t', unique_key => 'k', on_conflict => 'raise')")
    assert caught.value.sqlstate == "PQ002"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("unique_key => ''", "1 to 300 characters"),
        ("unique_for => '1h'", "needs a unique_key"),
        ("unique_key => 'k', unique_until => 'done'", "unique_until must be"),
        ("unique_key => 'k', on_conflict => 'skip'", "on_conflict must be"),
        ("unique_key => 'k', on_conflict => 'replace'", "needs unique_until started"),
        ("unique_key => 'k', unique_for => '-1s'", "unique_for must be"),
        ("expires => '-1s'", "expires must be"),
    ],
)
def test_refused_in_sql(conn: psycopg.Connection, arguments: str, words: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=words):
        conn.execute(f"select pgqueue.enqueue('t', {arguments})".encode())


async def test_a_worker_is_woken(app: App, touch: Task[Any, Any], conn: psycopg.Connection) -> None:
    async with working(app, poll="60s") as runtime:
        await eventually_async(lambda: runtime.notifier and runtime.notifier.works)
        job = (await touch.aenqueue(1)).id
        await eventually_async(lambda: statuses(conn)[job] == "succeeded")
