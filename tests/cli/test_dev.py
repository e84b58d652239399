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
from click.testing import CliRunner
from psycopg.conninfo import conninfo_to_dict

from pgqueue import config
from pgqueue.cli import group
from pgqueue.cli.dev import found_from
from pgqueue.embedded import kept_dsn
from pgqueue.worker.supervisor import Supervisor
from tests.cli.support import clean
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
        password = conninfo_to_dict(dsn[1])["password"]
        for pid in conn.execute("select pid from pgqueue.workers").fetchall():
            # Every user of the machine may read this.
            assert str(password) not in Path(f"/proc/{pid[0]}/cmdline").read_text()
        assert kept_dsn(project / ".pgqueue") == dsn[1]
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


def test_its_worker_is_not_killed_before_the_grace_time_is_over(
    dsn: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graces: list[float] = []

    class Told(Supervisor):
        def run(self) -> int:
            graces.append(self._grace)
            self._wake.close()
            return 0

    monkeypatch.setattr("pgqueue.cli.dev.Supervisor", Told)
    monkeypatch.setattr("pgqueue.cli.dev.logs.set_up", lambda style, level: None)
    monkeypatch.setenv("PGQUEUE_GRACE", "1h")
    monkeypatch.syspath_prepend(str(project))
    (project / "graced.py").write_text(APP.format(word="one"))
    done = CliRunner().invoke(group, ["dev", "graced:app", "--dsn", dsn], catch_exceptions=False)
    assert done.exit_code == 0
    assert graces == [3600.0]


USE = """
import asyncio
from shop import app, say
say.enqueue()
asyncio.run(say.aenqueue())
print(len(app.client.jobs()))
"""


def here(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the project's directory, where nothing says which database it is."""
    env = clean() | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_found_from_its_directory(
    dev: subprocess.Popen[str], project: Path, tmp_path: Path
) -> None:
    assert dev.stdout is not None
    dev.stdout.readline()
    listed = eventually(
        lambda: (done := here(project, "-m", "pgqueue", "list")).returncode == 0 and done,
        timeout=60,
    )
    assert listed.stdout == "no jobs yet\n"
    used = here(project, "-c", USE)
    assert used.stdout == "2\n", used.stderr
    file = project / ".pgqueue" / "dev.json"
    assert file.stat().st_mode & 0o777 == 0o600
    # One that others could have written, or whose server is gone, leads nowhere.
    file.chmod(0o644)
    assert config.load(project, {}).dsn is None
    file.chmod(0o600)
    assert config.load(project, {}).dsn is not None
    assert config.load(project, {"PGHOST": "elsewhere"}).dsn is None
    assert config.load(project, {"PGQUEUE_DSN": "host=x"}).dsn == "host=x"
    assert config.load(tmp_path, {}).dsn is None
    dev.send_signal(signal.SIGINT)
    dev.stdout.read()
    assert dev.wait(30) == 0
    assert not file.exists()


def test_a_server_that_was_killed_is_not_found(project: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        with found_from(project, "host=nowhere", "other"):
            found = config.load(project, {})
            assert (found.dsn, found.schema) == ("host=nowhere", "other")
            text = (project / ".pgqueue" / "dev.json").read_text()
        assert not (project / ".pgqueue").exists()
        process.kill()
    (project / ".pgqueue").mkdir()
    left = project / ".pgqueue" / "dev.json"
    left.write_text(text.replace(str(os.getpid()), str(process.pid)))
    left.chmod(0o600)
    assert config.load(project, {}).dsn is None


@pytest.mark.parametrize("call", ["say.enqueue()", "asyncio.run(say.aenqueue())", "app.client.stats()",
                                  "asyncio.run(app.aclient.stats())"])  # fmt: skip
def test_python_says_what_to_set(project: Path, call: str) -> None:
    env = clean() | {"PYTHONPATH": str(Path(__file__).parents[2])} | {
        "PGUSER": "nobody", "PGPASSWORD": "x", "PGPASSFILE": "/dev/null"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", f"import asyncio\nfrom shop import app, say\n{call}"],
        cwd=project, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = done.stderr.rstrip().splitlines()[-1]
    if "role" in last or "password" in last or "authentication" in last or done.returncode == 0:
        pytest.skip("a server listens where libpq looks")
    assert last.startswith(
        "pgqueue.errors.DatabaseNotGiven: no database given: set PGQUEUE_DSN, give App(dsn)"
    )
    assert done.stderr.count("Traceback") == 1
    assert "pgqueue dev" in last
