"""Drain rate of one worker beside bare SQL: ``python -m benchmarks.smoke --json``.

Both drain the same number of rows on one server in one run, by turns; bare SQL claims and completes on one
connection, in batches of the worker's concurrency, with nothing around it. Medians of several rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg

import pgqueue
from pgqueue import App, Worker, schema
from pgqueue.connect import asyncpg_uri, libpq_dsn
from pgqueue.embedded import embedded_postgres
from pgqueue.operations import Operation, claims
from pgqueue.operations.claims import Finished, Lane
from pgqueue.outcome import SUCCEEDED
from pgqueue.pinning import pin_async
from pgqueue.sql import load

SETTINGS = {"fsync": "on", "shared_buffers": "1GB", "max_wal_size": "4GB"}


def fill(dsn: str, jobs: int) -> None:
    """Fresh jobs with a small argument, the table vacuumed as autovacuum would have."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("truncate pgqueue.jobs, pgqueue.attempts")
        conn.execute(
            "insert into pgqueue.jobs (task, args)"
            " select 'noop', jsonb_build_object('number', i) from generate_series(1, %s::int) i",
            (jobs,),
        )
        conn.execute("vacuum analyze pgqueue.jobs")
        conn.execute("checkpoint")


def drain(dsn: str, jobs: int, concurrency: int) -> tuple[float, bool]:
    """Jobs per second of one worker, and whether each ran exactly once by its own count."""
    app = App(dsn)
    runs = [0] * (jobs + 1)

    @app.task(name="noop")
    async def noop(number: int) -> None:
        runs[number] += 1

    start = time.perf_counter()
    Worker(app, drain=True, concurrency=concurrency).run()
    seconds = time.perf_counter() - start
    return jobs / seconds, runs[1:] == [1] * jobs


async def bare(dsn: str, batch: int) -> float:
    """Jobs per second of the same statements in the same batches on one connection."""
    connection = await asyncpg.connect(asyncpg_uri(dsn))
    await pin_async(connection, "pin_session", limit="1min")

    async def run(operation: Operation[Any]) -> list[Any]:
        statement = load()[operation.statement]
        values = [operation.values[name] for name in statement.parameters]
        rows: list[Any] = await connection.fetch(statement.numbered, *values)
        return rows

    done, start = 0, time.perf_counter()
    lane = Lane("default", 0, datetime.fromtimestamp(0, UTC), 0)
    common: dict[str, Any] = {"limit": batch, "worker_id": uuid4(), "lease": 60.0}
    while True:
        claim_id = uuid4()
        rows = await run(claims.claim([lane], claim_id=claim_id, **common))
        if not rows:
            break
        after_at, after_id = max((row[-1], row[0]) for row in rows)
        lane = replace(lane, after_at=after_at, after_id=after_id)
        await run(
            claims.complete([Finished(r[0], claim_id, SUCCEEDED, 0.0) for r in rows], delete=False)
        )
        done += len(rows)
    seconds = time.perf_counter() - start
    await connection.close()
    return done / seconds


def measure(dsn: str, jobs: int, concurrency: int, rounds: int) -> dict[str, Any]:
    """The medians of both, by turns."""
    rates, bares, exact = [], [], True
    for _ in range(rounds):
        fill(dsn, jobs)
        rate, once = drain(dsn, jobs, concurrency)
        rates.append(rate)
        exact = exact and once
        fill(dsn, jobs)
        bares.append(asyncio.run(bare(dsn, concurrency)))
    with psycopg.connect(dsn) as conn:
        names = ("server_version", "fsync", "synchronous_commit", "shared_buffers")
        shown = {n: conn.execute(f"show {n}".encode()).fetchone()[0] for n in names}  # type: ignore[index]
    rate, bare_rate = statistics.median(rates), statistics.median(bares)
    return {
        "jobs_per_s": round(rate),
        "bare_sql_per_s": round(bare_rate),
        "ratio": round(rate / bare_rate, 3),
        "ran_exactly_once": exact,
        "rounds": {"worker": [round(r) for r in rates], "bare": [round(r) for r in bares]},
        "settings": {
            "jobs": jobs, "concurrency": concurrency, "batch": concurrency, "rounds": rounds,
            "pgqueue": pgqueue.__version__, "python": platform.python_version(), **shown,
        },
    }  # fmt: skip


def main() -> int:
    """Print the result; with --json as one object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dsn", help="a database that may be emptied; default: an embedded server")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    if chosen.dsn:
        schema.upgrade(chosen.dsn)
        result = measure(libpq_dsn(chosen.dsn), chosen.jobs, chosen.concurrency, chosen.rounds)
    else:
        with embedded_postgres(settings=SETTINGS) as dsn:
            schema.upgrade(dsn)
            result = measure(dsn, chosen.jobs, chosen.concurrency, chosen.rounds)
    if chosen.json:
        print(json.dumps(result))
    else:
        print(json.dumps(result, indent=2))
    return 0 if result["ran_exactly_once"] else 1


if __name__ == "__main__":
    sys.exit(main())
