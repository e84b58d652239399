"""The database carried something out and the worker did not hear of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import psycopg
import pytest

from pgqueue import App, Context, Dead
from pgqueue.operations import claims
from pgqueue.worker import unanswered
from pgqueue.worker.database import Database
from pgqueue.worker.exchange import Exchange
from pgqueue.worker.unanswered import Unanswered
from tests.faults.proxy import Mode, Proxy
from tests.support import eventually_async, make_due, statuses, working

pytestmark = pytest.mark.usefixtures("impatient")


class Shop:
    """An app behind the proxy whose jobs end when told to."""

    def __init__(self, through: str) -> None:
        self.app = App(through)
        self.ran: list[str] = []
        self.go: dict[str, asyncio.Event] = {}

        @self.app.task(max_retries=5)
        async def wait(name: str, fails: bool = False) -> None:
            self.ran.append(name)
            self.go[name] = asyncio.Event()
            await self.go[name].wait()
            if fails:
                raise Dead("as told")

        self.wait = wait

    @asynccontextmanager
    async def working(self, conn: psycopg.Connection) -> AsyncIterator[Exchange]:
        """A worker that has prepared its statements: the next ones are a single message each."""
        async with exchange(self.app) as traffic:
            for name, fails in (("ok", False), ("not", True)):
                self.wait.on(conn).enqueue(name, fails)
                await eventually_async(lambda name=name: name in self.go)
                self.go[name].set()
                await eventually_async(
                    lambda: traffic.empty and traffic._executor.at_rest and not traffic.busy
                )
            conn.execute("truncate pgqueue.jobs, pgqueue.attempts")
            self.ran.clear()
            yield traffic


def break_at(proxy: Proxy, token: UUID, mode: Mode, first: Callable[[], object] = bool) -> None:
    """Break the network with the next statement that holds this id; ``first`` runs before it."""

    def watch(data: bytes) -> None:
        if token.bytes in data and proxy.mode == "pass":
            proxy.watch = lambda data: None
            first()
            proxy.mode = mode

    proxy.watch = watch


def claim_of(conn: psycopg.Connection, job_id: int) -> UUID:
    row = conn.execute("select claim_id from pgqueue.jobs where id = %s", (job_id,)).fetchone()
    assert row is not None
    return row[0]


@asynccontextmanager
async def exchange(app: App) -> AsyncIterator[Exchange]:
    async with working(app, poll=0.05, concurrency=10) as runtime:
        yield runtime.exchanges[0]
    await app.aclose()


async def test_an_unanswered_claim_is_given_back_with_its_attempts(
    proxy: Proxy, through: str, conn: psycopg.Connection
) -> None:
    shop = Shop(through)
    async with shop.working(conn) as traffic:

        def enqueue() -> None:
            for name in "abcde":
                shop.wait.on(conn).enqueue(name)

        break_at(proxy, traffic._worker_id, "drop_replies", enqueue)
        await eventually_async(lambda: list(statuses(conn).values()) == ["running"] * 5)
        assert shop.ran == []
        proxy.mode = "pass"
        await eventually_async(lambda: sorted(shop.ran) == list("abcde"))
        await eventually_async(lambda: len(shop.go) == 5 + 2)
        for event in shop.go.values():
            event.set()
        await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"] * 5)
    rows = conn.execute("select attempt, crashes from pgqueue.jobs").fetchall()
    assert rows == [(1, 0)] * 5


async def test_a_claim_that_commits_after_its_release_is_given_back(
    dsn: str, app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unanswered, "AGAIN_AFTER", 0.05)

    @app.task
    async def noop() -> None: ...

    claim_id, released = uuid4(), []
    async with _database(dsn) as late, working(app, ["other"], poll=0.05) as runtime:
        claimed = runtime.exchanges[0]._unanswered
        original = claimed.released
        monkeypatch.setattr(claimed, "released", lambda *a: (released.append(a), original(*a)))
        claimed.add(claim_id, until=time.monotonic() + 60)
        await eventually_async(lambda: released)
        job = await noop.aenqueue()
        found = await late.run(
            claims.sweep(None, limit=1, claim_id=claim_id, worker_id=uuid4(), lease=60)
        )
        # Not by a look at the row: it may have been given back already.
        assert [claimed.id for claimed in found.jobs] == [job.id]
        await eventually_async(lambda: statuses(conn) == {job.id: "pending"})
    assert conn.execute("select attempt from pgqueue.jobs").fetchone() == (0,)


@asynccontextmanager
async def _database(dsn: str) -> AsyncIterator[Database]:
    database = Database(dsn, "pgqueue")
    try:
        yield database
    finally:
        await database.close()


def test_releases_are_repeated_until_the_lease_has_passed() -> None:
    waiting, claim_id = Unanswered(), uuid4()
    waiting.add(claim_id, until=60.0)
    times = []
    for now in range(200):
        if waiting.due(float(now)):
            waiting.released(claim_id, float(now))
            times.append(now)
    assert times == [*range(0, 61, 5), 65]
    assert len(waiting) == 0


@pytest.mark.parametrize("fails", [False, True])
async def test_an_unanswered_result_is_recorded_once_and_never_run_again(
    proxy: Proxy, through: str, conn: psycopg.Connection, fails: bool
) -> None:
    shop = Shop(through)
    async with shop.working(conn) as traffic:
        job = shop.wait.on(conn).enqueue("a", fails).id
        await eventually_async(lambda: "a" in shop.go)
        break_at(proxy, claim_of(conn, job), "drop_replies")
        shop.go["a"].set()
        expected = "dead" if fails else "succeeded"
        await eventually_async(lambda: list(statuses(conn).values()) == [expected])
        proxy.mode = "pass"
        await eventually_async(lambda: traffic.recorder.unknown)
        assert (traffic.recorder.unknown, traffic.recorder.lost) == (1, 0)
    assert shop.ran == ["a"]
    attempts = conn.execute("select count(*) from pgqueue.attempts").fetchone()
    assert attempts == (1 if fails else 0,)


async def test_an_unanswered_result_that_never_arrived_is_recorded(
    proxy: Proxy, through: str, conn: psycopg.Connection
) -> None:
    shop = Shop(through)
    async with shop.working(conn) as traffic:
        job = shop.wait.on(conn).enqueue("a").id
        await eventually_async(lambda: "a" in shop.go)
        break_at(proxy, claim_of(conn, job), "blackhole")
        shop.go["a"].set()
        await eventually_async(
            lambda: traffic._executor.ended and traffic._executor.ended[0].doubtful
        )
        proxy.mode = "pass"
        await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"])
        assert (traffic.recorder.unknown, traffic.recorder.lost) == (0, 0)
    assert shop.ran == ["a"]


async def test_only_what_was_not_answered_is_unknown(
    proxy: Proxy, through: str, conn: psycopg.Connection
) -> None:
    """A stale claim in the same batch, or in a later one, is still reported as lost."""
    shop = Shop(through)
    async with shop.working(conn) as traffic:
        ids = {name: shop.wait.on(conn).enqueue(name).id for name in "abc"}
        await eventually_async(lambda: len(shop.go) == 3 + 2)
        break_at(proxy, claim_of(conn, ids["a"]), "drop_replies")
        shop.go["a"].set()
        await eventually_async(lambda: statuses(conn)[ids["a"]] == "succeeded")
        conn.execute(
            "update pgqueue.jobs set claim_id = gen_random_uuid() where id = any(%s)",
            ([ids["b"], ids["c"]],),
        )
        shop.go["b"].set()
        await eventually_async(lambda: len(traffic._executor.ended) == 2)
        proxy.mode = "pass"
        await eventually_async(lambda: traffic.recorder.unknown + traffic.recorder.lost == 2)
        assert (traffic.recorder.unknown, traffic.recorder.lost) == (1, 1)
        shop.go["c"].set()
        await eventually_async(lambda: traffic.recorder.lost == 2)
        assert traffic.recorder.unknown == 1
    assert sorted(shop.ran) == list("abc")


@pytest.mark.parametrize("arrives", [True, False], ids=["committed", "not-committed"])
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_an_unanswered_commit_has_its_effect_once(
    proxy: Proxy, through: str, conn: psycopg.Connection, arrives: bool, kind: str
) -> None:
    conn.execute("create table effects (job bigint)")
    app, runs = App(through), []

    def break_the_first_commit(data: bytes) -> None:
        if b"COMMIT" in data and len(runs) == 1:
            proxy.mode = "drop_replies" if arrives else "blackhole"

    async def with_asyncpg(ctx: Context) -> None:
        async with ctx.transaction() as connection:
            await connection.execute("insert into effects values ($1)", ctx.id)
            runs.append(ctx.attempt)
            proxy.watch = break_the_first_commit

    def with_psycopg(ctx: Context) -> None:
        with ctx.transaction() as connection:
            connection.execute("insert into effects values (%s)", (ctx.id,))
            runs.append(ctx.attempt)
            proxy.watch = break_the_first_commit

    pay = app.task(with_asyncpg if kind == "async" else with_psycopg)
    async with exchange(app) as traffic:
        pay.on(conn).enqueue()
        await eventually_async(lambda: proxy.mode != "pass")
        if arrives:
            await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"])
        proxy.mode = "pass"
        proxy.reset()
        if arrives:
            await eventually_async(lambda: runs and traffic._executor.at_rest)
            assert traffic.recorder.unknown == 0  # it looks what became of the job
        else:  # another broken connection of the pool may cost a further attempt
            await eventually_async(lambda: _succeeded_again(conn))
        assert traffic.recorder.lost == 0
    assert (runs[0], len(runs)) == (1, 1 if arrives else 2)
    assert conn.execute("select count(*) from effects").fetchone() == (1,)


def _succeeded_again(conn: psycopg.Connection) -> bool:
    make_due(conn)
    row = conn.execute("select status, attempt > 1 from pgqueue.jobs").fetchone()
    return row == ("succeeded", True)
