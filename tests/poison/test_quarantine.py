"""Suspects run apart from other jobs: only one that kills its worker alone is dead, and nobody waits for them."""

from __future__ import annotations

import asyncio
import os
import signal

import psycopg
import pytest

from pgqueue import App, Context, Snooze
from pgqueue.worker import quarantine
from tests.poison import tasks
from tests.processes import Workers
from tests.support import drain, eventually, eventually_async, statuses, working

SUSPECTED = "update pgqueue.jobs set crashes = 2, quarantine = 16"


def pids(ledger: psycopg.Connection) -> dict[int, int]:
    """The process that ran each good job."""
    return dict(ledger.execute("select job, pid from ledger").fetchall())  # type: ignore[arg-type]


def ended(ledger: psycopg.Connection) -> bool:
    return set(statuses(ledger).values()) <= {"succeeded", "dead"}


@pytest.mark.parametrize("options", [["--workers", "2"], []], ids=["supervised", "alone"])
def test_suspects_have_a_process_of_their_own(
    workers: Workers, ledger: psycopg.Connection, options: list[str]
) -> None:
    suspects = [tasks.good.enqueue().id for _ in range(40)]
    killer = tasks.bad_async.enqueue("kill").id
    ledger.execute(SUSPECTED)
    others = [tasks.good_thread.enqueue().id for _ in range(10)]
    process = workers.start("--lease", "1s", *options)
    eventually(lambda: ended(ledger), timeout=60)
    ran = pids(ledger)
    assert [job for job, status in statuses(ledger).items() if status == "dead"] == [killer]
    assert {ran[job] for job in suspects}.isdisjoint({ran[job] for job in others})
    assert process.poll() is None  # the killer took no other process with it
    later = tasks.good.enqueue().id
    eventually(lambda: statuses(ledger)[later] == "succeeded")
    if not options:
        assert {pids(ledger)[job] for job in [*others, later]} == {process.pid}
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "starting a quarantine for suspects" in log
    assert "the quarantine (pid" in log
    assert "was killed by SIGKILL" in log
    for pid in set(ran.values()):
        assert not os.path.exists(f"/proc/{pid}")


def test_a_killer_among_many(workers: Workers, ledger: psycopg.Connection) -> None:
    innocents = [tasks.good.call() for _ in range(1000)]
    tasks.app.enqueue_many([*innocents[:500], tasks.bad_thread.call("segfault"), *innocents[500:]])
    workers.start("--lease", "1s", "--workers", "2")
    eventually(lambda: ended(ledger), timeout=90)
    dead = ledger.execute(
        "select task, crashes, last_error from pgqueue.jobs where status = 'dead'"
    ).fetchall()
    assert [row[:2] for row in dead] == [("bad_thread", 3)]
    assert "(crash 3 of 3), alone" in dead[0][2]
    assert len(pids(ledger)) == 1000


@pytest.mark.parametrize("options", [["--workers", "2"], []], ids=["supervised", "alone"])
def test_draining_includes_suspects(
    workers: Workers, ledger: psycopg.Connection, options: list[str]
) -> None:
    suspects = [tasks.good.enqueue().id for _ in range(20)]
    ledger.execute(SUSPECTED)
    others = [tasks.good.enqueue().id for _ in range(5)]
    process = workers.start("--drain", *options)
    assert process.wait(60) == 0
    assert sorted(pids(ledger)) == sorted(suspects + others)


def test_it_ends_with_the_worker(workers: Workers, ledger: psycopg.Connection) -> None:
    """SIGTERM while suspects run: they end by their handlers, or are given back, and are no crash."""
    held = tasks.held.enqueue().id
    ledger.execute(SUSPECTED)
    process = workers.start("--grace", "0.3s")
    eventually(lambda: pids(ledger))
    process.terminate()
    assert process.wait(30) == 0
    assert not os.path.exists(f"/proc/{pids(ledger)[-held]}")
    row = ledger.execute("select status, attempt, crashes, quarantine from pgqueue.jobs").fetchone()
    assert row == ("pending", 0, 2, 1)


def test_it_ends_when_its_worker_is_killed(workers: Workers, ledger: psycopg.Connection) -> None:
    tasks.held.enqueue()
    ledger.execute(SUSPECTED)
    process = workers.start("--grace", "0.3s")
    (pid,) = eventually(lambda: list(pids(ledger).values()))
    process.send_signal(signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))


async def test_inside_of_one_process_a_suspect_is_alone(app: App, conn: psycopg.Connection) -> None:
    """Not for long: the others have as much time."""
    now: set[int] = set()
    company: list[int] = []

    @app.task(name="suspect")
    async def suspect() -> None:
        company.append(len(now))

    @app.task(name="other")
    async def other(number: int) -> None:
        now.add(number)
        await asyncio.sleep(0)
        now.remove(number)

    app.enqueue_many(suspect.call() for _ in range(50))
    conn.execute(SUSPECTED)
    app.enqueue_many(other.call(number) for number in range(50))
    async with working(app, concurrency=10):
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"}, timeout=60)
    assert company == [0] * 50
    assert conn.execute("select max(attempt) from pgqueue.jobs").fetchone() == (1,)


async def test_a_long_suspect_does_not_hold_the_others_up(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "ALONE", 0.1)
    let_go = asyncio.Event()
    began: list[int] = []

    @app.task(name="suspect")
    async def suspect(ctx: Context) -> None:
        began.append(ctx.id)
        await let_go.wait()

    @app.task(name="other")
    async def other() -> None: ...

    suspect.on(conn).enqueue()
    conn.execute(SUSPECTED)
    async with working(app, concurrency=4):
        await eventually_async(lambda: began)
        job = other.on(conn).enqueue().id
        await eventually_async(lambda: statuses(conn)[job] == "succeeded")
        # From now on it has company, and is not dead for a crash.
        held = conn.execute("select quarantine from pgqueue.jobs where status = 'running'")
        assert held.fetchone() == (2,)
        let_go.set()
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})


async def test_long_jobs_do_not_hold_a_suspect_up(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "PATIENCE", 0.1)
    let_go = asyncio.Event()
    began: list[int] = []

    @app.task(name="long")
    async def long() -> None:
        began.append(1)
        await let_go.wait()

    @app.task(name="suspect")
    async def suspect() -> None:
        await let_go.wait()

    long.on(conn).enqueue()
    async with working(app, concurrency=4, poll=0.1, lease=60) as runtime:
        await eventually_async(lambda: began)
        with conn.transaction():
            job = suspect.on(conn).enqueue().id
            conn.execute("update pgqueue.jobs set quarantine = 1 where id = %s", (job,))
        runtime._suspected()
        held = "select quarantine from pgqueue.jobs where status = 'running' and id = %s"
        await eventually_async(lambda: conn.execute(held, (job,)).fetchone() == (2,))
        let_go.set()
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})


async def test_who_makes_progress_is_no_suspect(app: App, conn: psycopg.Connection) -> None:
    """A poller that snoozes, a durable job killed at one step after the other: their crashes do not add up."""

    @app.task(name="poller", max_retries=5)
    async def poller() -> None:
        raise Snooze(3600)

    @app.task(name="steps", max_retries=5)
    async def steps(ctx: Context) -> None:
        await ctx.sleep("nap", 3600)

    @app.task(name="failing", max_retries=5)
    async def failing() -> None:
        raise ValueError

    for task in (poller, steps, failing):
        await task.aenqueue()
    conn.execute(SUSPECTED)
    await drain(app)
    rows = conn.execute("select status, crashes, quarantine from pgqueue.jobs").fetchall()
    assert rows == [("pending", 0, None)] * 3


@pytest.mark.parametrize("how", ["limit", "order"])
async def test_suspects_keep_limits_and_order(app: App, conn: psycopg.Connection, how: str) -> None:
    running: list[int] = []
    most: list[int] = []
    order: list[int] = []
    options = {"limit": 1} if how == "limit" else {"order_by": "key"}

    @app.task(name="t", **options)  # type: ignore[arg-type]
    async def limited(key: str, number: int) -> None:
        running.append(number)
        most.append(len(running))
        order.append(number)
        await asyncio.sleep(0.001)
        running.remove(number)

    for number in range(20):
        await limited.aenqueue("a", number)
    # Every other one, and the first, is a suspect.
    conn.execute(f"{SUSPECTED} where id % 2 = (select min(id) % 2 from pgqueue.jobs)".encode())
    async with working(app, concurrency=10, poll=0.05):
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"}, timeout=60)
    assert max(most) == 1
    if how == "order":
        assert order == list(range(20))


async def test_max_jobs_counts_suspects(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="suspect")
    async def suspect() -> None: ...

    app.enqueue_many(suspect.call() for _ in range(20))
    conn.execute(SUSPECTED)
    await drain(app, concurrency=4, max_jobs=6)
    assert list(statuses(conn).values()).count("succeeded") == 6
