"""What is said of workers: which are there, which are lost, which run suspects, and for whom none is there."""

from __future__ import annotations

from uuid import uuid4

import psycopg

from pgqueue import App
from tests.cli.support import Cli
from tests.model.machine import perform
from tests.support import alive


def silent(conn: psycopg.Connection, pid: int) -> None:
    """A worker was killed a while ago: its lease has run out."""
    conn.execute(
        "update pgqueue.workers set seen_at = seen_at - interval '80 s', live_until = live_until - interval '80 s'"
        " where pid = %s",
        [pid],
    )


async def test_lost_workers_and_those_for_suspects(
    app: App, dsn: str, conn: psycopg.Connection
) -> None:
    for pid in (1, 2):
        perform(conn, alive(uuid4(), pid=pid))
    perform(conn, alive(uuid4(), pid=3, state="stopping", quarantine=True))
    silent(conn, 2)
    found = {w.pid: (w.state, w.quarantine) for w in app.client.workers()}
    assert found == {1: ("running", False), 2: ("lost", False), 3: ("stopping", True)}
    assert await app.aclient.workers() == app.client.workers()
    one, two, three = Cli(dsn)("workers").stdout.splitlines()[2:]
    assert "running" in one
    assert "quarantine" not in one
    assert "lost, silent for 1m" in two
    assert "stopping" in three
    assert "quarantine" in three
    listed = {w["pid"]: w for w in Cli(dsn).json("workers")}
    assert (listed[2]["state"], listed[3]["quarantine"]) == ("lost", True)


async def test_why_a_job_that_is_due_waits(app: App, dsn: str, conn: psycopg.Connection) -> None:
    @app.task(name="t", queue="q")
    def t() -> None: ...

    job = t.enqueue().id
    later = t.with_delay("1h").enqueue().id

    def why() -> str | None:
        assert app.client.job(later).waiting_because is None
        assert app.client.jobs(limit=2)[1].waiting_because == app.client.job(job).waiting_because
        return app.client.job(job).waiting_because

    assert why() == "no worker is running"
    assert (await app.aclient.job(job)).waiting_because == why()
    assert "no worker is running" in Cli(dsn)("job", str(job)).stdout
    assert "no worker is running" in Cli(dsn)("jobs").stdout
    perform(conn, alive(uuid4(), pid=1, tasks=["t"]))
    assert why() is None
    silent(conn, 1)
    assert why() == "no worker is running"
    perform(conn, alive(uuid4(), pid=2, tasks=["t"], quarantine=True))
    assert why() == "no worker is running"
    perform(conn, alive(uuid4(), pid=3, tasks=["t"], queues=["other"]))
    assert why() == "no running worker works on this queue"
    perform(conn, alive(uuid4(), pid=4, tasks=["u"], queues=["q"]))
    assert why() == "none of the workers that are alive has this task and works on this queue"
    conn.execute("delete from pgqueue.workers where pid = 3")
    assert why() == "no running worker has this task"
