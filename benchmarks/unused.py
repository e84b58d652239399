"""What features cost that nobody uses: ``python -m benchmarks.unused [--since 3] [--rounds 7]``.

One worker drains no-op jobs on a database with the schema as it was before, and on one with the newest, by
turns, on one server in one run; on the old one the worker uses the statements as they were. CPU is that of
this process and of the server's, which the noise of a shared machine moves less than rates.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

import pgqueue
from benchmarks.smoke import SETTINGS, drain, fill
from pgqueue import schema
from pgqueue.embedded import embedded_postgres

TICKS = os.sysconf("SC_CLK_TCK")


def postmaster(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        row = conn.execute("select current_setting('data_directory')").fetchone()
    assert row is not None
    return int((Path(row[0]) / "postmaster.pid").read_text().splitlines()[0])


def server_seconds(main: int) -> float:
    """CPU seconds of the server: its main process, those that have ended, and those that live."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(entry.name) == main:
            total += sum(map(int, fields[11:15]))
        elif int(fields[1]) == main:
            total += sum(map(int, fields[11:13]))
    return total / TICKS


def once(dsn: str, main: int, jobs: int) -> dict[str, float]:
    """Microseconds a job of this process and of the server, and jobs a second."""
    fill(dsn, jobs)
    server, own = server_seconds(main), time.process_time()
    rate, exact = drain(dsn, jobs, 100)
    assert exact, "a job was lost or repeated"
    own, server = time.process_time() - own, server_seconds(main) - server
    return {"jobs_per_s": rate, "worker_us": own / jobs * 1e6, "server_us": server / jobs * 1e6}


def measure(jobs: int, rounds: int, since: int) -> dict[str, Any]:
    with embedded_postgres(settings=SETTINGS) as server:
        main = postmaster(server)
        dsns = {}
        for name, to in (("before", str(since)), ("now", "head")):
            with psycopg.connect(server, autocommit=True) as conn:
                conn.execute(f"create database {name}".encode())
            dsns[name] = make_conninfo(server, dbname=name)
            schema.upgrade(dsns[name], to=to)
        found: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
        for turn in range(rounds):
            for name in ("before", "now") if turn % 2 else ("now", "before"):
                found[name].append(once(dsns[name], main, jobs))
    medians = {
        name: {key: round(statistics.median(each[key] for each in runs), 2) for key in runs[0]}
        for name, runs in found.items()
    }
    cpu = {name: each["worker_us"] + each["server_us"] for name, each in medians.items()}
    return {
        **medians,
        "rate_ratio": round(medians["now"]["jobs_per_s"] / medians["before"]["jobs_per_s"], 3),
        "cpu_ratio": round(cpu["now"] / cpu["before"], 3),
        "settings": {
            "jobs": jobs, "rounds": rounds, "concurrency": 100, "before": f"schema {since}",
            "pgqueue": pgqueue.__version__, "python": platform.python_version(), **SETTINGS,
        },
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--since", type=int, default=3, help="the schema to compare with")
    chosen = parser.parse_args()
    print(json.dumps(measure(chosen.jobs, chosen.rounds, chosen.since)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
