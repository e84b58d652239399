"""Where the command line finds itself: streams, encodings, users, directories."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

NO_PASSWD = """
import pwd, sys
def nobody(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = nobody
from pgqueue.cli import main
main(sys.argv[1:])
"""
COMMANDS = [
    ("list",),
    ("jobs",),
    ("dlq",),
    ("job", "1"),
    ("cron", "list"),
    ("workers",),
    ("tasks",),
]


@pytest.fixture
def awkward(conn: psycopg.Connection) -> None:
    """A name and an error that no ASCII has, and columns that ask for an ellipsis."""
    conn.execute(
        "insert into pgqueue.jobs (task, status, attempt, finished_at, last_error, args) values"
        " ('größe', 'dead', 1, now(), 'Fehler: ' || repeat('übergroß ', 80), '{\"n\": \"é\"}')"
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "ascii:strict"])
def test_any_encoding(dsn: str, awkward: None, encoding: str) -> None:
    env = {**os.environ, "PGQUEUE_DSN": dsn, "PGQUEUE_APP": "tests.schedules.declaring:app",
           "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "COLUMNS": "90"}  # fmt: skip

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pgqueue", *command], env=env, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
        # Where stdout says ASCII, which hardly any terminal is, click writes UTF-8.
        return done.stdout.decode("utf-8" if "ascii" in encoding else encoding)

    for command in COMMANDS:
        assert run(*command)
    assert json.loads(run("jobs", "--json"))[0]["task"] == "größe"
    assert ("gr\\xf6\\xdfe" if "ascii" in encoding else "größe") in run("jobs")


@pytest.mark.parametrize(
    "closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/null", "2>/dev/null"]
)
def test_closed_streams(dsn: str, awkward: None, conn: psycopg.Connection, closed: str) -> None:
    env = {**os.environ, "PGQUEUE_DSN": dsn}
    for command, code in (
        ("list", 0), ("jobs --json", 0), ("job 999", 1), ("retry --all --yes", 0), ("pause nowhere", 0),
        ("work --app tests.worker.apps:app --drain --queue none", 0),
    ):  # fmt: skip
        done = subprocess.run(
            ["sh", "-c", f"exec {sys.executable} -m pgqueue {command} {closed}"],
            env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, (command, done.stderr)
        assert "Traceback" not in done.stderr
        assert "Traceback" not in done.stdout
    assert conn.execute("select status from pgqueue.jobs").fetchall() == [("pending",)]


@pytest.mark.parametrize(
    "command", ["list", "migrate --check", "work --app tests.worker.apps:app --drain"]
)
def test_a_uid_without_a_name_and_without_a_home(dsn: str, command: str) -> None:
    env = {
        k: v
        for k, v in os.environ.items()
        if k not in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
    }

    def run(to: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", NO_PASSWD, *command.split()], env=env | {"PGQUEUE_DSN": to},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = run(dsn)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


async def test_who_has_no_name_must_name_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    from pgqueue import App, ConfigError

    def nobody(uid: int) -> object:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("PGUSER", raising=False)
    with pytest.raises(ConfigError, match=r"no database user given.*has no name: put user="):
        await App("host=127.0.0.1 port=1 dbname=x").aclient.stats()


def test_a_directory_that_is_gone(dsn: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", f"cd {gone} && rmdir {gone} && exec {sys.executable} -m pgqueue list"],
        env={**os.environ, "PGQUEUE_DSN": dsn, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
