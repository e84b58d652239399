"""Bulk commands: each job that matched when one began is touched once, and an interrupt says how far it came."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from pgqueue import App, Dead
from pgqueue.operations.jobs import Change, Filter
from tests.cli.support import Cli
from tests.support import eventually, heed_interrupts, working

DEAD = {"status": "'dead'", "attempt": "1", "finished_at": "clock_timestamp()"}
STOP_AT = 1500
HOLD = f"""
create function public.hold() returns trigger language plpgsql as $$
begin perform pg_advisory_xact_lock(7); return case tg_op when 'DELETE' then old else new end; end $$;
create trigger hold before update or delete on pgqueue.jobs for each row when (old.id = {STOP_AT})
    execute function public.hold();
"""


def fill(conn: psycopg.Connection, count: int, **columns: str) -> None:
    columns = {"task": "'t'", **columns}
    conn.execute(
        f"insert into pgqueue.jobs ({', '.join(columns)})"
        f" select {', '.join(columns.values())} from generate_series(1, {count}) i".encode()
    )


@pytest.mark.parametrize("face", ["command", "client", "async client"])
async def test_jobs_that_fail_again_meanwhile_are_retried_once(
    app: App, cli: Cli, conn: psycopg.Connection, face: str
) -> None:
    fill(conn, 2500, **DEAD, last_error="'Boom: x'")

    @app.task(name="t")
    async def t() -> None:
        raise Dead("x")

    async with working(app, concurrency=50):
        if face == "command":
            command = ("retry", "--error", "x", "--yes", "--json")
            done = (await asyncio.to_thread(cli.json, *command[:-1]))["retried"]
        elif face == "client":
            done = await asyncio.to_thread(app.client.retry_many, None, Filter(error="x"))
        else:
            done = await app.aclient.retry_many(None, Filter(error="x"))
    assert done == list(range(1, 2501))


@pytest.mark.parametrize("verb", ["cancel", "change", "clear", "retry"])
async def test_what_matched_when_it_began(app: App, conn: psycopg.Connection, verb: str) -> None:
    """What comes in meanwhile, or comes back, is left alone; what no longer matches as well."""
    fill(conn, 2500, **(DEAD if verb == "retry" else {}), queue="'a'")
    status = "dead" if verb == "retry" else "pending"
    where = Filter(queue="a")
    ids = app.client.matching(where, status)
    conn.execute("update pgqueue.jobs set queue = 'b' where id = 7")
    fill(conn, 10, **(DEAD if verb == "retry" else {}), queue="'a'")
    client, aclient = app.client, app.aclient
    to = Change(priority=3)
    done = {
        "cancel": lambda: client.cancel_many(where, job_ids=ids),
        "change": lambda: client.change(ids, where, to=to),
        "clear": lambda: client.clear(where, job_ids=ids),
        "retry": lambda: client.retry_many(ids, where),
    }[verb]()
    assert list(done) == [i for i in range(1, 2501) if i != 7]
    again = {
        "cancel": lambda: aclient.cancel_many(where),
        "change": lambda: aclient.change(None, Filter(queue="a"), to=to),
        "clear": lambda: aclient.clear(where),
        "retry": lambda: aclient.retry_many(None, where),
    }[verb]
    new = list(range(2501, 2511))
    assert list(await again()) == (new if verb != "change" else [i for i in ids if i != 7] + new)


@pytest.mark.parametrize("on", [False, True])
async def test_at_most_so_many_and_in_the_callers_transaction(
    app: App, dsn: str, conn: psycopg.Connection, on: bool
) -> None:
    fill(conn, 1200)
    with psycopg.connect(dsn) as mine:
        given = mine if on else None
        assert len(app.client.change(None, to=Change(priority=1), limit=1100, on=given)) == 1100
        assert len(app.client.cancel_many(Filter(), after=100, limit=1050, on=given)) == 1050
        assert len(app.client.clear(status="cancelled", limit=1010, on=given)) == 1010
        mine.rollback()
    found = conn.execute("select count(*) from pgqueue.jobs").fetchone()
    assert found == ((1200,) if on else (190,))


@pytest.fixture
def held(dsn: str, conn: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """Whoever touches one job of the second batch waits for this connection's lock."""
    conn.execute(HOLD.encode())
    with psycopg.connect(dsn, autocommit=True) as holder:
        holder.execute("select pg_advisory_lock(7)")
        yield holder


@pytest.mark.parametrize(
    ("command", "verb", "columns"),
    [
        (["cancel", "--all"], "cancelled", {}),
        (["change", "--all", "--priority", "3"], "changed", {}),
        (["clear"], "cleared", {}),
        (["clear", "--status", "dead"], "cleared", DEAD),
        (["retry", "--all"], "retried", DEAD),
    ],
)
@pytest.mark.parametrize("presses", [1, 2])
def test_an_interrupt_says_how_many_were_done_and_how_to_go_on(
    dsn: str,
    conn: psycopg.Connection,
    held: psycopg.Connection,
    command: list[str],
    verb: str,
    columns: dict[str, str],
    presses: int,
) -> None:
    fill(conn, 3200, **columns)
    process = subprocess.Popen(
        [sys.executable, "-m", "pgqueue", *command, "--yes"], text=True,
        env={**os.environ, "PGQUEUE_DSN": dsn}, stderr=subprocess.PIPE, preexec_fn=heed_interrupts,
    )  # fmt: skip
    waits = "select 1 from pg_stat_activity where datname = current_database() and wait_event = 'advisory'"
    with process:
        assert process.stderr is not None
        eventually(lambda: conn.execute(waits.encode()).fetchone())
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
            assert process.stderr.readline()
        if presses == 1:
            held.execute("select pg_advisory_unlock(7)")
        said = process.stderr.read()
        assert process.wait(20) == 130
    if presses == 1:
        assert said == (
            f"pgqueue: interrupted: {verb} 2,000 of 3,200 jobs; the others are as they were. To go on,"
            " run the same command again\n"
        )
    held.execute("select pg_advisory_unlock_all()")
    rest = Cli(dsn)(*command, "--yes").stdout
    left = {(1, "changed"): 3200, (2, "changed"): 3200}.get(
        (presses, verb), 3200 - 1000 * (3 - presses)
    )
    assert rest.startswith(f"{verb}: {left:,} jobs")


def test_an_error_on_the_way_says_how_many_were_done(cli: Cli, conn: psycopg.Connection) -> None:
    conn.execute(HOLD.replace("perform pg_advisory_xact_lock(7)", "raise 'no'").encode())
    fill(conn, 3200)
    said = cli("cancel", "--all", "--yes", code=1).stderr
    assert said.startswith("cancelled 1,000 of 3,200 jobs before this error:\n")


def test_a_running_job_is_never_cleared(app: App, conn: psycopg.Connection) -> None:
    from dataclasses import replace

    from pgqueue.operations import jobs as operations
    from tests.model.machine import perform

    fill(conn, 1, status="'running'", attempt="1", worker_id="gen_random_uuid()")
    operation = operations.clear([1])
    assert perform(conn, operation) == []
    values = {**operation.values, "status": "running"}
    assert perform(conn, replace(operation, values=values)) == []
