"""What suspects and killers cost the jobs beside them: ``python -m benchmarks.quarantine [case ...]``.

Each case prints its settings and figures. The database is PGQUEUE_DSN, or an embedded PostgreSQL.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import click
import psycopg

from pgqueue import App, Snooze, schema
from pgqueue.embedded import embedded_postgres

app = App()
OPTIONS = ["--workers", "4", "--concurrency", "10", "--lease", "2s", "--log-level", "error"]
ENDED = "select count(*) from pgqueue.jobs where task = %s and status = 'succeeded'"
OPEN = "select count(*) from pgqueue.jobs where status in ('pending', 'running')"


@app.task(name="suspect")
async def suspect() -> None:
    await asyncio.sleep(0.01)


@app.task(name="ordinary")
async def ordinary() -> None:
    await asyncio.sleep(0.05)


@app.task(name="innocent", backoff=0)
async def innocent() -> None: ...


@app.task(name="killer")
async def killer() -> None:
    os._exit(9)


@app.task(name="poller", backoff=0)
async def poller() -> None:
    raise Snooze(0.2)


@contextmanager
def working() -> Iterator[None]:
    """Workers that are ready, on the database of the app."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pgqueue", "work", "--app", "benchmarks.quarantine:app", *OPTIONS]
    )
    try:
        until(lambda conn: one(conn, "select count(*) from pgqueue.workers") >= 4)
        yield
    finally:
        process.terminate()
        process.wait()


def one(conn: psycopg.Connection, query: str, *values: object) -> float:
    row = conn.execute(query.encode(), values).fetchone()
    return float(row[0]) if row and row[0] is not None else 0.0


def until(condition: object, *, timeout: float = 600.0) -> float:
    """The seconds until it holds."""
    begun = time.monotonic()
    with connect() as conn:
        while not condition(conn):  # type: ignore[operator]
            if time.monotonic() - begun > timeout:
                raise TimeoutError
            time.sleep(0.01)
    return time.monotonic() - begun


def connect() -> psycopg.Connection:
    return psycopg.connect(app.dsn, autocommit=True)


def clear() -> None:
    with connect() as conn:
        conn.execute("truncate pgqueue.jobs, pgqueue.attempts, pgqueue.workers")


def suspects(jobs: int, ordinary_jobs: int, rounds: int) -> None:
    """Many short suspects beside ordinary work, and the same work without them."""
    print(f"{jobs} suspects of 10 ms beside {ordinary_jobs} jobs of 50 ms; {' '.join(OPTIONS)}")
    took: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for beside in (False, True):
            clear()
            with working():
                if beside:
                    with connect() as conn, conn.transaction():
                        app.enqueue_many([suspect.call() for _ in range(jobs)], on=conn)
                        conn.execute("update pgqueue.jobs set crashes = 2, quarantine = 16")
                app.enqueue_many([ordinary.call() for _ in range(ordinary_jobs)])
                begun = time.monotonic()
                if beside:
                    until(lambda conn: one(conn, ENDED, "suspect") == jobs)
                    print(f"  suspects done after {time.monotonic() - begun:.2f} s")
                until(lambda conn: one(conn, ENDED, "ordinary") == ordinary_jobs)
                with connect() as conn:
                    took[beside].append(one(conn, SPAN))
    without, with_them = statistics.median(took[False]), statistics.median(took[True])
    print(f"  ordinary jobs: {without:.2f} s without, {with_them:.2f} s beside suspects"
          f" ({with_them / without - 1:+.1%})")  # fmt: skip


SPAN = "select extract(epoch from max(finished_at) - min(claimed_at)) from pgqueue.jobs where task = 'ordinary'"


def needle(jobs: int) -> None:
    """One killer among many innocents."""
    print(f"1 killer among {jobs} innocents; {' '.join(OPTIONS)}")
    clear()
    half = [innocent.call() for _ in range(jobs // 2)]
    app.enqueue_many([*half, killer.call(), *half])
    with working():
        took = until(lambda conn: one(conn, OPEN) == 0)
    with connect() as conn:
        dead = conn.execute("select task, last_error from pgqueue.jobs where status = 'dead'")
        print(f"  all ended after {took:.1f} s; dead: {dead.fetchall()}")


def many_killers(jobs: int, innocents: int) -> None:
    """Many killers at once, and an innocent each second."""
    print(f"{jobs} killers at once, an innocent each second for {innocents} s; {' '.join(OPTIONS)}")
    clear()
    with working():
        app.enqueue_many([killer.call() for _ in range(jobs)])
        for _ in range(innocents):
            innocent.enqueue()
            time.sleep(1)
        took = until(lambda conn: one(conn, OPEN) == 0)
    with connect() as conn:
        waits = conn.execute(WAITS).fetchone()
        dead = conn.execute(
            "select task, count(*) from pgqueue.jobs where status = 'dead' group by 1"
        )
        print("  innocents waited p50 {:.3f}, p90 {:.3f}, at most {:.3f} s".format(*waits or ()))
        print(f"  all ended {took:.1f} s after the last innocent; dead: {dead.fetchall()}")


WAITS = """select percentile_cont(0.5) within group (order by wait), percentile_cont(0.9) within group (order by wait), max(wait)
             from (select extract(epoch from finished_at - created_at)::float8 as wait from pgqueue.jobs where task = 'innocent') w"""


def polling(innocents: int) -> None:
    """A poller with two crashes, and what others wait beside it and without it."""
    print(
        f"a poller with two crashes that snoozes for 0.2 s, {innocents} innocents; {' '.join(OPTIONS)}"
    )
    for beside in (False, True):
        clear()
        with working():
            if beside:
                with connect() as conn, conn.transaction():
                    poller.on(conn).enqueue()
                    conn.execute("update pgqueue.jobs set crashes = 2, quarantine = 16")
            for _ in range(innocents):
                innocent.enqueue()
                time.sleep(0.02)
            until(lambda conn: one(conn, ENDED, "innocent") == innocents)
        with connect() as conn:
            mean = one(conn, "select avg(extract(epoch from claimed_at - created_at)) from pgqueue.jobs"
                             " where task = 'innocent'")  # fmt: skip
            print(
                f"  mean wait {'beside the poller' if beside else 'without'}: {mean * 1000:.1f} ms"
            )


CASES = {
    "suspects": lambda: suspects(500, 4000, 3),
    "needle": lambda: needle(10_000),
    "killers": lambda: many_killers(50, 60),
    "poller": lambda: polling(200),
}


@click.command()
@click.argument("cases", nargs=-1, type=click.Choice(list(CASES)))
def main(cases: tuple[str, ...]) -> None:
    """Run the cases, all of them unless some are named."""
    with ExitStack() as stack:
        if not os.environ.get("PGQUEUE_DSN"):
            os.environ["PGQUEUE_DSN"] = stack.enter_context(embedded_postgres())
        app.use(dsn=os.environ["PGQUEUE_DSN"])
        schema.upgrade(app.dsn)
        for case in cases or CASES:
            CASES[case]()


if __name__ == "__main__":
    main()
