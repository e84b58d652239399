"""Where a job's microseconds and WAL bytes go: ``python -m benchmarks.profile [--jobs N]``.

Drains no-op async jobs with one worker process at concurrency 100 while py-spy looks at it 100 times a second, C code
included (500 times kept a machine of two cores from working at all), and prints per job: the worker's CPU by place
(samples on the CPU only, shares of the CPU time the kernel counted), the server's time by statement
(pg_stat_statements, planning included, other work of the backends not), and the WAL by statement and by kind of
record (pg_walinspect).
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psycopg

from benchmarks.environments import FOLDER, python_of
from benchmarks.smoke import fill
from pgqueue import schema
from pgqueue.embedded import embedded_postgres

SETTINGS = {
    "fsync": "on", "shared_buffers": "1GB", "max_wal_size": "4GB",
    "shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track_planning": "on",
}  # fmt: skip
APP = """
from pgqueue import App
app = App()
@app.task(name="noop")
async def noop(number: int) -> None: ...
"""
PLACES = (
    ("asyncpg", "asyncpg: encode, send, receive, decode"),
    ("pgqueue/operations", "rows to jobs, jobs to values"),
    ("pgqueue/codec", "arguments decoded and checked"),
    ("pgqueue/worker/executor", "start and end of a run"),
    ("pgqueue/worker/handlers", "around the handler"),
    ("pgqueue/context", "around the handler"),
    ("pgqueue/task", "around the handler"),
    ("pgqueue/worker", "the rest of the worker"),
    ("pgqueue", "the rest of the worker"),
    ("uvloop", "event loop"),
    ("asyncio", "event loop"),
)
STATEMENTS = """
    select case when query like '%as done%' then 'complete and claim (trade)'
                when query like '%recursive slice%' then 'sweep'
                when query like '%update pgqueue.jobs%' and query like '%order by e.id%' then 'complete'
                when query like '%insert into pgqueue.jobs%' then 'enqueue' else 'everything else' end,
           sum(calls), sum(total_exec_time + total_plan_time) * 1000, sum(wal_bytes)
      from pg_stat_statements
     where query not like '%pg_stat%' and query not like 'select count(*) from pgqueue.jobs%' group by 1 order by 3 desc
"""
RECORDS = """
    select "resource_manager/record_type", combined_size::bigint, count, fpi_size::bigint
      from pg_get_wal_stats(%s, %s, true) where count > 0 order by 2 desc limit 10
"""


def main() -> int:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=150_000)
    jobs = parser.parse_args().jobs
    spy = Path(python_of("profile")).with_name("py-spy")
    with embedded_postgres(settings=SETTINGS) as dsn:
        schema.upgrade(dsn)
        fill(dsn, jobs)
        with psycopg.connect(dsn, autocommit=True) as conn:
            for name in ("pg_stat_statements", "pg_walinspect"):
                conn.execute(f"create extension {name}".encode())
            conn.execute("select pg_stat_statements_reset()")
            start = _lsn(conn)
            samples, cpu = drained(dsn, spy, jobs, conn)
            end = _lsn(conn)
            worker(samples, cpu, jobs)
            server(conn, jobs, start, end)
    return 0


def _lsn(conn: psycopg.Connection) -> str:
    row = conn.execute("select pg_current_wal_flush_lsn()::text").fetchone()
    assert row is not None
    return str(row[0])


def drained(dsn: str, spy: Path, jobs: int, conn: psycopg.Connection) -> tuple[Counter[str], float]:
    """Samples by place while a worker drains the queue, and its CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "profiled.py").write_text(APP)
        out = Path(folder) / "stacks"
        process = subprocess.Popen(
            [sys.executable, "-m", "pgqueue", "work", "--app", "profiled", "--dsn", dsn,
             "--concurrency", "100", "--log-level", "warning"], cwd=folder,
        )  # fmt: skip
        while _left(conn) == jobs:
            time.sleep(0.01)
        watching = subprocess.Popen(
            [spy, "record", "--native", "-r", "100", "-d", "600", "-f", "raw",
             "-o", out, "--pid", str(process.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while _left(conn):
            time.sleep(0.3)
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        watching.send_signal(signal.SIGINT)
        watching.wait(60)
        process.terminate()
        process.wait(30)
        return places(out.read_text()), sum(map(int, ticks)) / 100


def _left(conn: psycopg.Connection) -> int:
    row = conn.execute(
        "select count(*) from pgqueue.jobs where status in ('pending', 'running')"
    ).fetchone()
    assert row is not None
    return int(row[0])


def places(stacks: str) -> Counter[str]:
    """Samples by the innermost place on each stack that is known; waiting threads are left out."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if "epoll" in frames[-1] or ("run_once" not in stack and "uvloop" not in stack):
            continue
        for frame in reversed(frames):
            place = next((what for where, what in PLACES if where in frame), None)
            if place is not None:
                found[place] += int(count)
                break
    return found


def worker(samples: Counter[str], cpu: float, jobs: int) -> None:
    """The worker's table."""
    total = sum(samples.values()) or 1
    print(f"worker: {cpu / jobs * 1e6:.1f} µs of CPU per job, of which")
    for place, count in samples.most_common():
        print(f"  {count / total * cpu / jobs * 1e6:6.1f} µs  {place}")


def server(conn: psycopg.Connection, jobs: int, start: str, end: str) -> None:
    """The server's tables."""
    print("server, per job:")
    for name, calls, micros, wal in conn.execute(STATEMENTS.encode()).fetchall():
        print(f"  {micros / jobs:6.1f} µs {wal / jobs:7.0f} bytes of WAL  {name} ({calls:,} times)")
    print("WAL per job by record:")
    for name, size, count, images in conn.execute(RECORDS, (start, end)).fetchall():
        print(f"  {size / jobs:7.1f} bytes {count / jobs:5.2f} records  {name}"
              f"{f', {images / jobs:.0f} bytes of page images' if images else ''}")  # fmt: skip
    print("settings:", {**SETTINGS, "server_version": conn.info.parameter_status("server_version"),
                        "jobs": jobs, "concurrency": 100, "environments": FOLDER.name})  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
