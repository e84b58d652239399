"""Several apps in one schema and one queue, and tasks that only newer workers know."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App, Keys, Secret
from pgqueue.operations import claims
from pgqueue.operations.claims import Finished
from pgqueue.outcome import RELEASED
from pgqueue.worker import unknown
from pgqueue.worker.unknown import Unknown
from tests.cli.support import Cli
from tests.model.machine import perform
from tests.support import drain, eventually, eventually_async, working

FEW = {"concurrency": 10, "prefetch": 0}


def touched(conn: psycopg.Connection) -> int:
    """How many jobs some worker has claimed for nothing, once or more."""
    row = conn.execute("select coalesce(sum(cardinality(left_by)), 0) from pgqueue.jobs").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[App]:
    app = App(dsn)
    yield app
    await app.aclose()


async def test_two_apps_with_disjoint_tasks(app: App, other: App, conn: psycopg.Connection) -> None:
    """Jobs of each are run as if the other were not there: few are claimed by the wrong one, none waits."""
    ran: list[str] = []

    @app.task(name="mine")
    async def mine() -> None:
        ran.append("mine")

    @other.task(name="theirs")
    async def theirs() -> None:
        ran.append("theirs")

    async with working(app, **FEW), working(other, **FEW):
        for _ in range(20):
            app.enqueue_many([mine.call() for _ in range(50)])
            other.enqueue_many([theirs.call() for _ in range(50)])
            await asyncio.sleep(0)
        await eventually_async(lambda: len(ran) == 2000)
        assert conn.execute(
            "select count(*) from pgqueue.jobs where status = 'pending' and run_at > now()"
        ).fetchone() == (0,)
    assert ran.count("mine") == 1000
    assert touched(conn) <= 100


async def test_a_known_job_behind_a_deep_backlog(app: App, conn: psycopg.Connection) -> None:
    ran: list[int] = []

    @app.task(name="good")
    async def good() -> None:
        ran.append(1)

    conn.execute("insert into pgqueue.jobs (task) select 'new' from generate_series(1, 100000)")
    conn.execute("select pgqueue.enqueue('good')")
    conn.execute("analyze pgqueue.jobs")
    async with working(app, **FEW):
        await eventually_async(lambda: ran, timeout=60)
        assert touched(conn) <= 50, "no more than the first claims met"


async def test_many_names(app: App, conn: psycopg.Connection) -> None:
    """Whatever others call their tasks, a claim names only those of its own app."""
    ran: list[int] = []

    @app.task(name="good", aliases=["better"])
    async def good() -> None:
        ran.append(1)

    conn.execute(
        "insert into pgqueue.jobs (task) select 'new' || n from generate_series(1, 5000) n"
    )
    conn.execute("select pgqueue.enqueue('good'), pgqueue.enqueue('better')")
    async with working(app, **FEW) as runtime:
        await eventually_async(lambda: len(ran) == 2)
        assert set(runtime.unknown.only or []) == app.names()
    assert touched(conn) <= 50


async def test_under_limits(app: App, other: App, conn: psycopg.Connection) -> None:
    ran: list[str] = []
    for one, name in ((app, "mine"), (other, "theirs")):
        one.queue("narrow", limit=3)

        def run(key: str, name: str = name) -> None:
            ran.append(name)

        task = one.task(name=name, queue="narrow", limit=2, per="key")(run)
        one.enqueue_many([task.call(f"k{n % 30}") for n in range(60)])
        conn.execute(
            "insert into pgqueue.jobs (task, queue) select %s, 'narrow'", (f"plain {name}",)
        )
        one.task(name=f"plain {name}")(lambda name=name: ran.append(f"plain {name}"))
    await drain(app)
    assert (ran.count("mine"), len(ran)) == (60, 61)
    await drain(other)
    assert (ran.count("theirs"), len(ran)) == (60, 122)
    assert touched(conn) <= 40


async def test_a_task_that_comes_to_be_known_is_picked_up(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same process: its jobs that were not met are taken at once, those that were after a while."""
    ran: list[int] = []
    app.task(name="old")(lambda: None)
    conn.execute("select pgqueue.enqueue('new') from generate_series(1, 500)")
    async with working(app, poll=0.05, **FEW):
        await eventually_async(lambda: touched(conn))
        app.task(name="new")(lambda: ran.append(1))
        await eventually_async(lambda: len(ran) >= 500 - touched(conn) > 0)
        conn.execute("update pgqueue.jobs set left_until = now()")
        await eventually_async(lambda: len(ran) == 500)


def test_the_same_worker_reloaded_picks_them_up(
    dsn: str, conn: psycopg.Connection, tmp_path: Path
) -> None:
    """By --watch: the file gets the task, the worker starts again, and its jobs run."""
    pytest.importorskip("watchfiles")
    file = tmp_path / "shop.py"
    file.write_text(
        "from pgqueue import App\napp = App()\n@app.task(name='old')\ndef old(): pass\n"
    )
    conn.execute("select pgqueue.enqueue('new') from generate_series(1, 100)")
    environ = {"PGQUEUE_DSN": dsn, "PATH": "", "PYTHONPATH": str(tmp_path)}
    worker = subprocess.Popen(
        [sys.executable, "-m", "pgqueue", "work", "--app", "shop:app", "--watch"],
        cwd=tmp_path, env=environ, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(lambda: touched(conn), timeout=90)
        with file.open("a") as text:
            text.write("@app.task(name='new')\ndef new(): pass\n")
        eventually(
            lambda: (
                conn.execute(
                    "select count(*) from pgqueue.jobs where status = 'succeeded'"
                ).fetchone()
                == (100,)
            )
        )
    finally:
        worker.terminate()
        worker.wait(30)


async def test_a_key_that_is_missing(dsn: str, conn: psycopg.Connection) -> None:
    pytest.importorskip("cryptography")
    ran: list[str] = []
    first, second = Keys.generate(), Keys.generate()
    apps = [App(dsn, keys=Keys(first)), App(dsn, keys=Keys(second))]
    tasks = []
    for app in apps:

        @app.task(name="sealed")
        async def sealed(password: Secret[str]) -> None:
            ran.append(password)

        tasks.append(sealed)
    apps[0].enqueue_many([tasks[0].call("one")] * 50)
    apps[1].enqueue_many([tasks[1].call("two")] * 50)
    await drain(apps[0])
    assert ran == ["one"] * 50
    row = apps[0].client.jobs(limit=1)[0]
    assert "is encrypted with key" in str(row.waiting_because)
    await drain(apps[1])
    assert ran == ["one"] * 50 + ["two"] * 50
    for app in apps:
        await app.aclose()


async def test_why_a_job_waits_is_told_of_those_that_nobody_has_met(
    app: App, dsn: str, conn: psycopg.Connection
) -> None:
    app.task(name="known")(lambda: None)
    conn.execute("insert into pgqueue.jobs (task) select 'new' from generate_series(1, 1000)")
    conn.execute(
        "select pgqueue.enqueue('known', queue => 'far'), pgqueue.enqueue('new', delay => '1h')"
    )
    async with working(app, ["default"]):
        await eventually_async(lambda: touched(conn))
        away, far = app.client.jobs(limit=2)
        assert (away.task, away.waiting_because) == ("new", None), "it is not due"
        assert far.waiting_because == "no running worker works on this queue"
        unmet = conn.execute("select max(id) from pgqueue.jobs where left_at is null and task = 'new'"
                             " and run_at < now()").fetchone()  # fmt: skip
        assert unmet is not None
        assert app.client.job(unmet[0]).waiting_because == "no running worker has this task"
        assert "no running worker" in Cli(dsn)("jobs").stdout
        [worker] = app.client.workers()
        assert worker.tasks is not None
        assert "known" in worker.tasks
    first = app.client.job(1)
    assert "no task 'new' in this worker" in str(first.waiting_because)


def test_claims_are_narrowed_only_while_something_unknown_was_met_lately(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(unknown.time, "monotonic", lambda: now)
    names = {"a", "b"}
    met = Unknown(lambda: names, patience=60)
    assert met.only is None
    met.key("a", ValueError("no key"))
    met.arguments("a", ValueError("more"))
    assert met.only is None
    outcome = met.task("new")
    assert (outcome.kind, outcome.delay, outcome.error_type) == ("leave", None, None)
    assert met.only == ["a", "b"]
    names.add("new")
    assert met.only == ["a", "b", "new"]
    now += unknown.LATELY
    assert met.only is None
    for _ in range(100):
        met.task("new")
    assert caplog.text.count("no task 'new'") == 2


async def test_many_that_leave_it(app: App, conn: psycopg.Connection) -> None:
    """The list of those that left a job is bounded; then it is looked at once a minute."""
    app.task(name="known")(lambda: None)
    conn.execute("select pgqueue.enqueue('new')")
    await drain(app)
    conn.execute(
        "update pgqueue.jobs set left_by = array(select gen_random_uuid() from generate_series(1, 64))"
    )
    await drain(app)
    assert conn.execute(
        "select cardinality(left_by), status, run_at > now() + interval '50 s' from pgqueue.jobs"
    ).fetchone() == (1, "pending", True)


async def test_a_stopping_worker_keeps_what_is_known_of_a_job(
    app: App, conn: psycopg.Connection
) -> None:
    """Given back before it started, a job is still one that others have left."""
    app.task(name="known")(lambda: None)
    conn.execute("select pgqueue.enqueue('known')")
    conn.execute(
        "update pgqueue.jobs set left_by = array[gen_random_uuid()],"
        " left_at = now() - interval '1 min', left_until = now() + interval '1 h'"
    )
    taking: claims.Taking = {"limit": 9, "claim_id": uuid4(), "worker_id": uuid4(), "lease": 60.0}
    [job] = perform(conn, claims.sweep(None, **taking)).jobs
    perform(conn, claims.fail([Finished(job.id, job.claim_id, RELEASED, 0.0, False, job)]))
    assert conn.execute(
        "select cardinality(left_by), left_at < now() - interval '50 s' from pgqueue.jobs"
    ).fetchone() == (1, True)
