"""A script that runs a worker as it is imported: with process tasks it is refused, and says what to write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from pgqueue.worker.main_guard import LINES
from tests.support import statuses

TASKS = """
import asyncio, sys
from pgqueue import App, Worker

app = App()

@app.task(name="plain")
async def plain() -> None: ...

@app.task(name="process", run="process")
def process() -> None:
    print("ran", flush=True)

def main():
    Worker(app, drain=True, processes=1).run()

"""
PLAIN = TASKS.replace(', run="process"', "")
UNGUARDED = {
    "run": "Worker(app, drain=True).run()",
    "function": "main()",
    "asyncio": "asyncio.run(Worker(app, drain=True).arun())",
    "with": "import contextlib\nwith contextlib.nullcontext():\n    main()",
    "process": "Worker(app, drain=True).run_as_process()",
}
GUARDED = {
    "plain": 'if __name__ == "__main__":\n    main()',
    "reversed": 'if "__main__" == __name__:\n    asyncio.run(Worker(app, drain=True).arun())',
    "early": 'if __name__ == "__mp_main__":\n    app.left = True\nif not hasattr(app, "left"):\n    main()',
}


def run(tmp_path: Path, dsn: str, text: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(text)
    return subprocess.run(
        [sys.executable, str(script)], env={**os.environ, "PGQUEUE_DSN": dsn, "PYTHONPATH": os.getcwd()},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def enqueue(conn: psycopg.Connection, task: str) -> int:
    row = conn.execute("select pgqueue.enqueue(%s)", [task]).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("how", UNGUARDED)
def test_without_the_line(tmp_path: Path, dsn: str, conn: psycopg.Connection, how: str) -> None:
    job = enqueue(conn, "process")
    done = run(tmp_path, dsn, TASKS + UNGUARDED[how])
    assert done.returncode != 0
    assert "ConfigError: line " in done.stderr
    assert LINES in done.stderr
    assert statuses(conn) == {job: "pending"}


@pytest.mark.parametrize("how", GUARDED)
def test_with_it(tmp_path: Path, dsn: str, conn: psycopg.Connection, how: str) -> None:
    job = enqueue(conn, "process")
    done = run(tmp_path, dsn, TASKS + GUARDED[how])
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    assert statuses(conn) == {job: "succeeded"}


def test_without_process_tasks_it_is_not_needed(
    tmp_path: Path, dsn: str, conn: psycopg.Connection
) -> None:
    job = enqueue(conn, "plain")
    done = run(tmp_path, dsn, PLAIN + UNGUARDED["run"])
    assert done.returncode == 0, done.stderr
    assert statuses(conn) == {job: "succeeded"}


def test_a_child_never_runs_a_worker(tmp_path: Path, dsn: str, conn: psycopg.Connection) -> None:
    """Behind a condition that the child meets too, which no reader of the source can tell."""
    enqueue(conn, "process")
    text = TASKS.replace("drain=True", "drain=True, max_jobs=1") + "if app:\n    main()"
    script = tmp_path / "script.py"
    script.write_text(text)
    with subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PGQUEUE_DSN": dsn, "PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        seen = ""
        for line in process.stderr:
            seen += line
            if "ConfigError: this process was started for a process task" in line:
                break
        assert LINES.splitlines()[0] in seen + process.stderr.readline() + process.stderr.readline()
        process.terminate()
        process.terminate()
        process.stderr.read()
    workers = conn.execute("select count(*) from pgqueue.workers").fetchone()
    assert workers is not None
    assert workers[0] <= 1


def test_process_tasks_in_the_main_module_of_a_package(
    dsn: str, conn: psycopg.Connection, tmp_path: Path
) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("""
from pgqueue import App, Job, Worker

app = App()

@app.task(run="process", max_retries=0)
def task() -> None: ...

class Task(Job):
    run = "process"
    max_retries = 0

    def handle(self) -> None: ...

if __name__ == "__main__":
    task.enqueue()
    app.dispatch(Task()).enqueue()
    Worker(app, drain=True).run()
""")
    subprocess.run(
        [sys.executable, "-m", "shop"],
        cwd=tmp_path,
        env=os.environ | {"PGQUEUE_DSN": dsn},
        check=True,
        timeout=60,
    )
    rows = conn.execute("select task, status from pgqueue.jobs order by id").fetchall()
    assert rows == [("shop.task", "succeeded"), ("shop.Task", "succeeded")]
