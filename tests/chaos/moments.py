"""Single moments, timed: ``python -m tests.chaos.moments [--rounds N]``. Prints one JSON object.

failover: from the end of the primary, after which the standby is promoted, to the first second with 95 % of
the throughput before. sigterm_idle: from SIGTERM of an idle worker to the end of its process. half_open: from
the moment an idle worker's connections carry nothing any more, though they stay open, to new ones. killed: from
SIGKILL of one of two busy workers to the start of the last of the jobs it held.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import App, schema
from pgqueue.embedded import embedded_postgres
from tests.chaos.recovery import recovery, throughput
from tests.faults.proxy import Proxy
from tests.servers.pair import pair
from tests.support import eventually, eventually_async, working

JOBS = """
import asyncio
from pgqueue import App
app = App()
@app.task(name="short")
async def short() -> None:
    await asyncio.sleep(0.02)
"""
BACKLOG = 12_000
FINISHED = "select count(*) from pgqueue.jobs where status = 'succeeded'"
HELD = """
    select j.id from pgqueue.jobs j join pgqueue.workers w on w.id = j.worker_id where w.pid = %s
"""
STILL_HELD = (
    "select 1 from pgqueue.jobs where id = any (%s) and attempt = 1 and status <> 'succeeded'"
)
LAST_START = """
    select extract(epoch from max(claimed_at))::float8 from pgqueue.jobs where id = any (%s) and crashes > 0
"""
TENTHS = """
    select floor(extract(epoch from finished_at) * 10)::bigint, count(*)
      from pgqueue.jobs where status = 'succeeded' group by 1
"""


@contextmanager
def worker(dsn: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process of the jobs above."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "short_jobs.py").write_text(JOBS)
        process = subprocess.Popen(
            [sys.executable, "-m", "pgqueue", "work", "--app", "short_jobs", "--dsn", dsn,
             "--lease", "5s", "--log-level", "error"], cwd=folder,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def failover() -> float:
    with pair(None) as servers, worker(servers.dsn(uri=True)):
        with psycopg.connect(servers.primary) as conn:
            conn.execute("select pgqueue.enqueue('short') from generate_series(1, %s)", [BACKLOG])
        with psycopg.connect(servers.primary, autocommit=True) as conn:
            eventually(lambda: _one(conn, FINISHED) > 100)
            begun = time.time()
            eventually(lambda: time.time() > begun + 4)
            calm = throughput(_tenths(conn), begun, time.time())
        killed = time.time()
        servers.kill_primary()
        servers.promote()
        with psycopg.connect(servers.standby, autocommit=True) as conn:
            back: list[float | None] = []

            def returned() -> bool:
                back.append(recovery(_tenths(conn), killed, calm=calm, until=time.time()))
                return back[-1] is not None

            eventually(returned, timeout=60)
        print(f"failover: {calm:.0f} jobs/s before, back after {back[-1]:.2f} s", file=sys.stderr)
        return float(back[-1] or 0.0)


def _tenths(conn: psycopg.Connection) -> dict[int, int]:
    return dict(conn.execute(TENTHS.encode()).fetchall())


def _one(conn: psycopg.Connection, query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def sigterm_idle() -> float:
    with embedded_postgres() as dsn:
        schema.upgrade(dsn)
        with worker(dsn) as process, psycopg.connect(dsn, autocommit=True) as conn:
            eventually(lambda: _one(conn, "select count(*) from pgqueue.workers"))
            begun = time.monotonic()
            process.terminate()
            process.wait(60)
            return time.monotonic() - begun


def half_open() -> float:
    with embedded_postgres() as dsn:
        schema.upgrade(dsn)
        to = conninfo_to_dict(dsn)
        with Proxy(str(to["host"]), int(str(to["port"]))) as proxy:
            return asyncio.run(_half_open(make_conninfo(dsn, port=proxy.port), proxy))


async def _half_open(dsn: str, proxy: Proxy) -> float:
    async with working(App(dsn)) as runtime:
        await eventually_async(lambda: runtime.notifier and runtime.notifier.works)
        notifier = runtime.notifier
        assert notifier is not None
        databases = (runtime.database, notifier._database)
        await eventually_async(lambda: all(each.session == 1 for each in databases))
        begun = time.monotonic()
        proxy.cut()
        await eventually_async(lambda: all(each.session > 1 for each in databases), timeout=60)
        return time.monotonic() - begun


def killed() -> float:
    with embedded_postgres() as dsn:
        schema.upgrade(dsn)
        with worker(dsn) as victim, worker(dsn), psycopg.connect(dsn, autocommit=True) as conn:
            eventually(lambda: _one(conn, "select count(*) from pgqueue.workers") == 2)
            conn.execute("select pgqueue.enqueue('short') from generate_series(1, %s)", [BACKLOG])
            eventually(lambda: _one(conn, FINISHED) > 1000)
            eventually(lambda: len(conn.execute(HELD, [victim.pid]).fetchall()) > 10)
            begun = time.time()
            victim.kill()
            victim.wait()
            held = conn.execute(HELD, [victim.pid]).fetchall()
            ids = [row[0] for row in held]
            eventually(lambda: not conn.execute(STILL_HELD, [ids]).fetchone(), timeout=120)
            (last,) = conn.execute(LAST_START, [ids]).fetchone() or (None,)
            assert last is not None, "it held nothing"
            seconds = float(last) - begun
        print(f"killed: it held {len(held)} jobs, back after {seconds:.2f} s", file=sys.stderr)
        return seconds


def measured(moment: Callable[[], float], rounds: int) -> dict[str, float]:
    """Seconds: the median and the worst of some rounds."""
    seconds = [moment() for _ in range(rounds)]
    return {"median": round(statistics.median(seconds), 2), "worst": round(max(seconds), 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    moments = {
        each.__name__: measured(each, rounds)
        for each in (failover, sigterm_idle, half_open, killed)
    }
    print(json.dumps({**moments, "settings": {"rounds": rounds, "lease": 5.0}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
