"""Memory of a worker whose jobs hold 20 MB each and fail, beside one whose jobs succeed: ``python -m benchmarks.held``.

Each worker is a process of its own; printed are its peak, and what is resident when it has nothing left to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys

import psutil
import psycopg

from pgqueue import App, Worker, schema
from pgqueue.embedded import embedded_postgres

app = App()


@app.task(name="thread", max_retries=0)
def thread(size: int, fails: bool) -> None:
    big = bytearray(size)
    if fails:
        try:
            raise ValueError(len(big))
        except ValueError as error:
            kept = error  # noqa: F841
            raise


@app.task(name="async", max_retries=0)
async def coroutine(size: int, fails: bool) -> None:
    big = bytearray(size)
    await asyncio.sleep(0)
    if fails:
        raise ValueError(len(big))


TASKS = {"thread": thread, "async": coroutine}


def run_here() -> None:
    """In the process of a worker: drain, and print what it took."""
    asyncio.run(Worker(app, drain=True, concurrency=4).arun())
    # Linux: in KB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"peak_mb": peak, "idle_mb": psutil.Process().memory_info().rss // 2**20}))


def measured(dsn: str, kind: str, *, jobs: int, size: int, fails: bool) -> dict[str, int]:
    """The memory of a worker that runs so many jobs, in MB."""
    app.use(dsn=dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("truncate pgqueue.jobs, pgqueue.attempts")
    app.enqueue_many([TASKS[kind].call(size, fails) for _ in range(jobs)])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.held", "--here"], env={**os.environ, "PGQUEUE_DSN": dsn},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
    )  # fmt: skip
    figures: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--size", type=int, default=20_000_000)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        run_here()
        return
    with embedded_postgres() as dsn:
        schema.upgrade(dsn)
        for kind in TASKS:
            for fails in (False, True):
                found = measured(dsn, kind, jobs=given.jobs, size=given.size, fails=fails)
                what = "fail" if fails else "succeed"
                print(f"{given.jobs} {kind} jobs that {what}: {found}", flush=True)


if __name__ == "__main__":
    main()
