"""Drain rate and CPU of this code beside another revision's: ``python -m benchmarks.paired REVISION [--rounds 7]``.

One worker drains the same no-op jobs with each code by turns, each in a process and an environment of its own, on a
database that its own code has migrated, on one server in one run. The CPU is that of the worker's process and of the server.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

ROOT = Path(__file__).parents[1]
TICKS = os.sysconf("SC_CLK_TCK")


def drain_once(dsn: str, jobs: int, concurrency: int) -> dict[str, Any]:
    """In a process of its own, with the code that is first in its path."""
    from pgqueue import App, Worker

    app, runs = App(dsn), [0] * (jobs + 1)

    @app.task(name="noop")
    async def noop(number: int) -> None:
        runs[number] += 1

    cpu, begun = time.process_time(), time.perf_counter()
    Worker(app, drain=True, concurrency=concurrency).run()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    assert runs[1:] == [1] * jobs, "a job was lost or repeated"
    return {"jobs_per_s": jobs / seconds, "worker_us": cpu / jobs * 1e6}


def server_seconds(dsn: str) -> float:
    """CPU seconds of the server: its main process, those that have ended, and those that live."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute("select current_setting('data_directory')").fetchone()
    assert row is not None
    main = int((Path(row[0]) / "postmaster.pid").read_text().splitlines()[0])
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


def run(code: Path, *arguments: str) -> str:
    """Run this file, or ``-c`` and so on, with the code of a checkout and what that needs."""
    done = subprocess.run(
        [code / ".venv/bin/python", *arguments], cwd=code, env={**os.environ, "PYTHONPATH": str(code)},
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return done.stdout


def measure(codes: dict[str, Path], jobs: int, concurrency: int, rounds: int) -> dict[str, Any]:
    from benchmarks.smoke import SETTINGS, fill
    from pgqueue.embedded import embedded_postgres

    found: dict[str, list[dict[str, float]]] = {name: [] for name in codes}
    with embedded_postgres(settings=SETTINGS) as server:
        dsns = {}
        for name, code in codes.items():
            with psycopg.connect(server, autocommit=True) as conn:
                conn.execute(f"create database {name}".encode())
            dsns[name] = make_conninfo(server, dbname=name)
            run(code, "-c", f"from pgqueue import schema; schema.upgrade({dsns[name]!r})")
        for turn in range(rounds):
            for name in list(codes)[:: 1 if turn % 2 else -1]:
                fill(dsns[name], jobs)
                used = server_seconds(server)
                once = json.loads(run(codes[name], __file__, "--once", dsns[name], "--jobs", str(jobs),
                                      "--concurrency", str(concurrency)))  # fmt: skip
                once["server_us"] = (server_seconds(server) - used) / jobs * 1e6
                found[name].append(once)
    medians = {
        name: {key: round(statistics.median(each[key] for each in turns), 2) for key in turns[0]}
        for name, turns in found.items()
    }
    ratios = {
        key: round(statistics.median(
            now[key] / before[key] for now, before in zip(found["now"], found["before"], strict=True)
        ), 3) for key in medians["now"]
    }  # fmt: skip
    return {"medians": medians, "ratio_now_to_before": ratios,
            "settings": {"jobs": jobs, "concurrency": concurrency, "rounds": rounds, **SETTINGS,
                         "python": platform.python_version()}}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", nargs="?", default="HEAD~1", help="a git revision")
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--once", metavar="DSN", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.once:
        print(json.dumps(drain_once(chosen.once, chosen.jobs, chosen.concurrency)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", before, chosen.revision], check=True)
        try:
            codes = {"before": before, "now": ROOT}
            for code in codes.values():
                subprocess.run(["make", "-C", code, ".venv/ready"], check=True, stdout=sys.stderr)
            print(json.dumps(measure(codes, chosen.jobs, chosen.concurrency, chosen.rounds)))
        finally:
            subprocess.run([*git, "remove", "--force", before], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
