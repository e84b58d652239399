"""Killed at any message to the server, a job goes on after its last finished step, and does none twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import App
from tests.faults.proxy import Proxy
from tests.steps import tasks
from tests.support import eventually, statuses

ROOT = Path(__file__).parents[2]
FIRST = b"pgqueue.steps s where s.job_id"  # the first statement that the handler sends


def work(dsn: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "pgqueue", "work", "--app", "tests.steps.tasks:app", "--lease", "3s"],
        env={**os.environ, "PGQUEUE_DSN": dsn}, cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("message", range(0, 68, int(os.environ.get("TESTS_KILL_EVERY", "4"))))
def test_killed_at_a_message(app: App, dsn: str, conn: psycopg.Connection, message: int) -> None:
    conn.execute("create table effects (what text)")
    tasks.durable.on(conn).enqueue()
    app.emit("go", "now")
    parts = conninfo_to_dict(dsn)
    with Proxy(str(parts["host"]), int(str(parts["port"]))) as proxy:
        seen: list[bytes] = []
        worker = work(make_conninfo(dsn, host="127.0.0.1", port=proxy.port))

        def watch(data: bytes) -> None:
            if seen or FIRST in data:
                seen.append(data)
                if len(seen) == message + 1:
                    worker.kill()

        proxy.watch = watch
        eventually(lambda: worker.poll() is not None or "succeeded" in statuses(conn).values())
        worker.kill()
        worker.wait()
    other = work(dsn)
    try:
        eventually(lambda: set(statuses(conn).values()) == {"succeeded"}, timeout=40)
    finally:
        other.terminate()
        other.wait()
    assert sorted(conn.execute("select what from effects").fetchall()) == [
        ("first",),
        ("last",),
        ("second",),
    ]
    steps = conn.execute(
        "select name from pgqueue.steps where finished_at is not null order by 1"
    ).fetchall()
    assert steps == [("event go",), ("first",), ("number",), ("second",), ("sleep",)]
