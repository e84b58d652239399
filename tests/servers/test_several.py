"""One worker for several databases, on three servers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import App, ConfigError, Context, PgQueueError, Worker, schema
from pgqueue.worker import several
from tests.chaos.server import Server, running
from tests.faults.proxy import Proxy
from tests.support import eventually_async

QUICK = {"fsync": "off", "shared_buffers": "16MB"}
JOBS = "from pgqueue import App, Context\napp = App()\n@app.task(name='noop')\ndef noop(): ...\n"


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    with ExitStack() as stack:
        yield [stack.enter_context(running(QUICK)) for _ in range(3)]


@pytest.fixture
def dsns(servers: list[Server]) -> list[str]:
    for server in servers:
        schema.upgrade(server.dsn)
        with psycopg.connect(server.dsn) as conn:
            conn.execute("truncate pgqueue.jobs restart identity")
    return [server.dsn for server in servers]


def app_of(dsns: list[str]) -> App:
    app = App(dsns)

    @app.task(name="noop")
    async def noop() -> None: ...

    @app.task(name="parent")
    async def parent(ctx: Context) -> None:
        await app.aenqueue_many([noop.call()])
        async with ctx.transaction() as connection:
            await connection.execute("select 1")

    @app.task(name="thread")
    def thread(ctx: Context) -> None:
        noop.enqueue()

    return app


def enqueue(dsn: str, task: str, count: int = 1) -> None:
    with psycopg.connect(dsn) as shard:
        shard.execute("select pgqueue.enqueue(%s) from generate_series(1, %s)", (task, count))


def counts(dsn: str) -> dict[tuple[str, str], int]:
    with psycopg.connect(dsn) as shard:
        rows = shard.execute("select task, status, count(*) from pgqueue.jobs group by 1, 2")
        return {(task, status): count for task, status, count in rows}


async def done(dsn: str, jobs: int) -> None:
    await eventually_async(lambda: counts(dsn).get(("noop", "succeeded")) == jobs, timeout=60)


async def test_each_job_runs_on_the_database_it_is_in(dsns: list[str]) -> None:
    app = app_of(dsns)
    for number, dsn in enumerate(dsns, 1):
        with psycopg.connect(dsn) as shard:
            for _ in range(number):
                shard.execute("select pgqueue.enqueue('parent')")
        enqueue(dsn, "thread", number)
    await Worker(app, drain=True, concurrency=2).arun()
    for number, dsn in enumerate(dsns, 1):
        assert counts(dsn) == {
            ("parent", "succeeded"): number, ("thread", "succeeded"): number,
            ("noop", "succeeded"): 2 * number,
        }  # fmt: skip


async def test_one_that_is_away_does_not_stop_the_others(dsns: list[str]) -> None:
    parts = conninfo_to_dict(dsns[1])
    with Proxy(str(parts["host"]), int(str(parts["port"]))) as proxy:
        app = app_of([dsns[0], make_conninfo(dsns[1], port=proxy.port)])
        proxy.refuse = True
        worker = Worker(app)
        running = asyncio.create_task(worker.arun())
        enqueue(dsns[0], "noop")
        enqueue(dsns[1], "noop")
        await done(dsns[0], 1)
        assert counts(dsns[1]) == {("noop", "pending"): 1}
        proxy.refuse = False
        await done(dsns[1], 1)
        worker.stop()
        await running


async def test_a_crashed_server_is_taken_up_again(dsns: list[str], servers: list[Server]) -> None:
    worker = Worker(app_of(dsns))
    running = asyncio.create_task(worker.arun())
    for dsn in dsns:
        enqueue(dsn, "noop", 10)
    for dsn in dsns:
        await done(dsn, 10)
    await asyncio.to_thread(servers[2].crash)
    for dsn in dsns:
        enqueue(dsn, "noop", 10)
        await done(dsn, 20)
    worker.stop()
    await running


async def test_one_that_refuses_is_reported_and_tried_again(
    dsns: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(several, "AGAIN", 0.1)
    schema.downgrade(dsns[1])
    worker = Worker(app_of(dsns[:2]))
    running = asyncio.create_task(worker.arun())
    enqueue(dsns[0], "noop")
    await done(dsns[0], 1)
    await eventually_async(lambda: "no pgqueue schema" in caplog.text)
    schema.upgrade(dsns[1])
    enqueue(dsns[1], "noop")
    await done(dsns[1], 1)
    worker.stop()
    await running


async def test_when_none_can_be_worked_on_it_ends(dsns: list[str]) -> None:
    for dsn in dsns[:2]:
        schema.downgrade(dsn)
    with pytest.raises(PgQueueError, match="schema"):
        async with asyncio.timeout(30):
            await Worker(app_of(dsns[:2])).arun()


async def test_draining_does_not_wait_for_one_that_refuses(dsns: list[str]) -> None:
    schema.downgrade(dsns[1])
    enqueue(dsns[0], "noop")
    with pytest.raises(PgQueueError, match="schema"):
        async with asyncio.timeout(30):
            await Worker(app_of(dsns[:2]), drain=True).arun()
    assert counts(dsns[0]) == {("noop", "succeeded"): 1}


def test_an_enqueue_must_say_where(dsns: list[str]) -> None:
    app = app_of(dsns)
    with pytest.raises(ConfigError, match="3 databases, and nothing says which"):
        app.enqueue_many([app.tasks["noop"].options.new_job("noop", "{}")])
    with psycopg.connect(dsns[1]) as shard:
        app.enqueue_many([app.tasks["noop"].options.new_job("noop", "{}")], on=shard)
    assert [sum(counts(dsn).values()) for dsn in dsns] == [0, 1, 0]


@pytest.mark.parametrize("dsn", [[], ["a", "a"], [1]])
def test_lists_that_are_no_list_of_databases(dsn: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"DSN"):
        App(dsn)


def test_the_command_line(dsns: list[str], tmp_path: Path) -> None:
    (tmp_path / "several_jobs.py").write_text(JOBS)
    both = ["--dsn", dsns[0], "--dsn", dsns[1]]

    def pgqueue(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pgqueue", *arguments, *both], cwd=tmp_path, check=False,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    assert pgqueue("migrate").stdout.count("nothing to do") == 2
    assert pgqueue("migrate", "--check").stdout.count("as needed") == 2
    for dsn in dsns[:2]:
        enqueue(dsn, "noop", 3)
    worked = pgqueue("work", "--app", "several_jobs", "--drain", "--workers", "2")
    assert worked.returncode == 0, worked.stderr
    ports = [conninfo_to_dict(dsn)["port"] for dsn in dsns[:2]]
    unnamed = [p for p in ports if f"[postgres at 127.0.0.1:{p}] " not in worked.stderr]
    assert not unnamed, worked.stderr
    listed = pgqueue("list")
    assert listed.stderr.splitlines() == [f"postgres at 127.0.0.1:{port}:" for port in ports]
    assert listed.stdout.count("succeeded") >= 2
    refused = pgqueue("job", "1")
    assert refused.returncode == 2
    assert "an id belongs to one database: give one --dsn" in refused.stderr
