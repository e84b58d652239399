"""``pgqueue dev``: everything at once, and again whenever the code changes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support import eventually, heed_interrupts

APP = """
from pgqueue import App
app = App()
@app.task(name="say")
def say() -> None:
    with app.connections.sync() as conn:
        conn.execute("insert into said values ('{word}')")
"""


@pytest.fixture
def project() -> Iterator[Path]:
    # Not tmp_path: PostgreSQL runs as another user when we are root, and pytest keeps others out.
    with tempfile.TemporaryDirectory(prefix="pgqueue-dev-") as folder:
        (Path(folder) / "shop.py").write_text(APP.format(word="one"))
        yield Path(folder)


@pytest.fixture
def dev(project: Path) -> Iterator[subprocess.Popen[str]]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PGQUEUE_", "PG"))}
    with subprocess.Popen(
        [sys.executable, "-m", "pgqueue", "dev", "shop:app"], cwd=project, text=True,
        env=env | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=heed_interrupts,
    ) as process:  # fmt: skip
        yield process
        process.send_signal(signal.SIGINT)


def test_it_works_and_takes_up_changed_code(dev: subprocess.Popen[str], project: Path) -> None:
    assert dev.stdout is not None
    first_line = dev.stdout.readline()
    dsn = re.search(r"PGQUEUE_DSN=(\S+)", first_line)
    assert dsn is not None, first_line
    with psycopg.connect(dsn[1], autocommit=True) as conn:
        conn.execute("create table said (word text)")
        eventually(
            lambda: conn.execute("select to_regclass('pgqueue.workers')").fetchone() != (None,)
        )
        workers = lambda: conn.execute("select id from pgqueue.workers").fetchall()  # noqa: E731
        first = eventually(workers)
        conn.execute("select pgqueue.enqueue('say')")
        said = lambda: [row[0] for row in conn.execute("select word from said")]  # noqa: E731
        eventually(lambda: said() == ["one"])
        (project / "shop.py").write_text("this is no Python\n")
        eventually(lambda: workers() == [])
        (project / "shop.py").write_text(APP.format(word="two"))
        eventually(lambda: (again := workers()) and again != first)
        conn.execute("select pgqueue.enqueue('say')")
        eventually(lambda: said() == ["one", "two"])
    dev.send_signal(signal.SIGINT)
    log = dev.stdout.read()
    assert dev.wait(30) == 0, log
    assert "shop.py changed" in log
    assert dsn[1] not in log  # said once
    assert (project / ".pgqueue" / ".gitignore").read_text() == "*\n"
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn[1], connect_timeout=2)
