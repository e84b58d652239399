"""One worker process under a steady load, its connections cut now and then."""

from __future__ import annotations

import time

import psutil
import psycopg

from tests.processes import Workers
from tests.soak import tasks
from tests.soak.samples import Sample, take
from tests.support import eventually

SAMPLE_EVERY = 1.0
CUT_EVERY = 5.0
TICK = 0.1


def soak(dsn: str, *, seconds: float, rate: int) -> list[Sample]:
    """Enqueue ``rate`` jobs a second for so long; return a sample a second once it runs.

    Raises:
        AssertionError: the worker ended, or does not finish what was enqueued.
    """
    tasks.app.use(dsn=dsn)
    workers = Workers(dsn, "tests.soak.tasks:app")
    conn = psycopg.connect(dsn, autocommit=True, application_name="soak")
    conn.execute(
        "create table probes (id bigint generated always as identity, pid int, tasks int, threads int)"
    )
    process = workers.start(
        "--queue", "soak:20", "--keep-succeeded", "10s", "--log-level", "critical"
    )
    try:
        tasks.processed.on(conn).enqueue(0)
        eventually(
            lambda: conn.execute("select 1 from pgqueue.jobs where status = 'succeeded'").fetchone()
        )
        samples = load(conn, psutil.Process(process.pid), seconds, rate)
        assert process.poll() is None, "the worker ended"
        eventually(lambda: not unfinished(conn), timeout=120)
    finally:
        workers.end()
        tasks.app.close()
        conn.close()
    return samples


def unfinished(conn: psycopg.Connection) -> bool:
    """Is any job still to run?"""
    row = conn.execute("select 1 from pgqueue.jobs where status in ('pending', 'running') limit 1")
    return row.fetchone() is not None


def load(
    conn: psycopg.Connection, worker: psutil.Process, seconds: float, rate: int
) -> list[Sample]:
    """Enqueue, cut and measure, each in its turn."""
    start = time.monotonic()
    sent, samples = 0, []
    next_sample, next_cut = SAMPLE_EVERY, CUT_EVERY
    while (now := time.monotonic() - start) < seconds:
        wanted = int(now * rate) - sent
        if wanted > 0:
            calls = [tasks.MIX[(sent + i) % 100].call(number=sent + i) for i in range(wanted)]
            tasks.app.enqueue_many(calls, on=conn)
            sent += wanted
        if now >= next_cut:
            next_cut += CUT_EVERY
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
                " and datname = current_database() and application_name <> 'soak'"
            )
        if now >= next_sample:
            next_sample += SAMPLE_EVERY
            tasks.probe.on(conn).enqueue()
            samples.append(take(worker, conn, now))
        time.sleep(TICK)
    return samples
