"""The command line as a person and as a machine would use it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import App
from pgqueue.schema import EXPECTED
from tests.support import drain


class Cli:
    """Runs ``python -m pgqueue`` on a database."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def __call__(
        self, *arguments: str, code: int = 0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pgqueue", *arguments], input=stdin, capture_output=True,
            text=True, check=False, env={**os.environ, "PGQUEUE_DSN": self.dsn, "COLUMNS": "160"},
        )  # fmt: skip
        assert done.returncode == code, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)


@pytest.fixture
def cli(dsn: str) -> Cli:
    return Cli(dsn)


@pytest.fixture
def dead(dsn: str) -> list[int]:
    """Two dead jobs, one pending later."""
    app = App(dsn)

    @app.task(name="mail", queue="mail", max_retries=0)
    def mail(to: str) -> None:
        raise ValueError(f"[red]no such mailbox[/red] \x1b[31m{to}")

    ids = [mail.enqueue(to).id for to in ("a", "b")]
    mail.with_delay("1h").enqueue("c")
    asyncio.run(drain(app))
    app.close()
    return ids


def test_list(cli: Cli, dead: list[int]) -> None:
    (queue,) = cli.json("list")
    assert (queue["queue"], queue["dead"], queue["scheduled"]) == ("mail", 2, 1)
    assert cli.json("stats")[0]["dead"] == 2
    assert "scheduled" in cli("list").stdout


def test_dlq_and_filters(cli: Cli, dead: list[int]) -> None:
    assert [job["id"] for job in cli.json("dlq")] == dead[::-1]
    assert cli.json("dlq", "--queue", "other") == []
    assert len(cli.json("dlq", "--task", "mail", "--error", "MAILBOX", "--since", "1h")) == 2
    text = cli("dlq").stdout
    assert "[red]no such mailbox" in text  # neither markup
    assert "\x1b[31m" not in text  # nor escape sequences of somebody else's
    assert cli("dlq", "--queue", "none").stdout == "no dead letters\n"


def test_job(cli: Cli, dead: list[int]) -> None:
    shown = cli.json("job", str(dead[0]))
    assert shown["job"]["status"] == "dead"
    assert shown["attempts"][0]["error_type"] == "ValueError"
    assert "raise ValueError" in cli("job", str(dead[0])).stdout
    assert "no job 99" in cli("job", "99", code=1).stderr


def test_retry(cli: Cli, dead: list[int], conn: psycopg.Connection) -> None:
    assert cli("retry", str(dead[0])).stdout == f"retried: 1 job ({dead[0]})\n"
    again = cli("retry", str(dead[0]), "99", code=1)
    assert f"job {dead[0]} is pending" in again.stderr
    assert "job 99 does not exist" in again.stderr
    cli("retry", str(dead[1]), "--args", '{"to": "z"}')
    assert conn.execute("select args from pgqueue.jobs where id = %s", (dead[1],)).fetchone() == (
        {"to": "z"},
    )


def test_retry_by_filter_asks(cli: Cli, dead: list[int], conn: psycopg.Connection) -> None:
    assert "aborted" in cli("retry", "--all", code=130, stdin="n\n").stderr
    assert "which jobs?" in cli("retry", code=2).stderr
    assert "not both" in cli("retry", "1", "--all", code=2).stderr
    assert cli.json("retry", "--task", "mail", "--yes")["retried"] == dead


def test_cancel_and_clear(cli: Cli, dead: list[int], conn: psycopg.Connection) -> None:
    pending = dead[1] + 1
    assert "cancelled: 1 job" in cli("cancel", str(pending)).stdout
    assert "is dead" in cli("cancel", str(dead[0]), code=1).stderr
    cli("retry", str(pending))
    assert "aborted" in cli("clear", code=130, stdin="\n").stderr
    assert cli.json("clear", "--yes") == {"cleared": 1}


def test_pause_and_resume(cli: Cli) -> None:
    assert cli("pause", "mail").stdout == "paused: mail\n"
    assert cli.json("list")[0]["paused_at"]
    assert cli("resume", "mail", "other").stdout == "resumed: mail\nwas not paused: other\n"
    assert "queue name 'a b'" in cli("pause", "a b", code=2).stderr


@pytest.mark.parametrize(
    ("dsn", "code", "says"),
    [
        ("postgresql://u:hunter2@127.0.0.1:1/x", 3, "cannot reach the database"),
        ("nonsense hunter2", 2, "the DSN is not one PostgreSQL reads"),
    ],
)
def test_bad_databases(dsn: str, code: int, says: str) -> None:
    commands = [["list"], ["migrate"], ["dlq"]]
    if code == 2:  # a worker waits for a database that is away
        commands.append(["work", "--app", "tests.worker.apps:app", "-w", "2"])
    for command in commands:
        done = Cli(dsn)(*command, code=code)
        assert says in done.stderr
        assert "hunter2" not in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_missing_schema(empty_dsn: str) -> None:
    for command in (["list"], ["migrate", "--check"], ["work", "--app", "tests.worker.apps:app"]):
        done = Cli(empty_dsn)(*command, code=4)
        assert "run: pgqueue migrate" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("stamp", [0, EXPECTED + 1])
def test_an_older_or_newer_schema(cli: Cli, conn: psycopg.Connection, stamp: int) -> None:
    conn.execute(f"comment on schema pgqueue is 'pgqueue schema {stamp}'".encode())
    done = cli("work", "--app", "tests.worker.apps:app", "--drain", code=4)
    assert f"pgqueue schema {stamp}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "which app?"),
        (["--app", "no.such:app"], "no module 'no'"),
        (["--app", "tests.support:drain"], "is not a pgqueue App"),
        (["--app", "tests.worker.apps:app", "-q", "a:3", "-q", "b"], "give every queue a number"),
        (["--app", "tests.worker.apps:app", "-q", "a b"], "queue name"),
        (["--app", "tests.worker.apps:app", "-q", "mail:zero"], "'zero' is no number"),
        (["--app", "tests.worker.apps:app", "--lease", "forever"], "lease cannot be for ever"),
        (["--app", "tests.worker.apps:app", "--grace", "forever"], "grace cannot be for ever"),
        (["--app", ":app"], "module:name"),
        (["--app", "tests.cli.broken:app"], "tests.cli.broken cannot be imported: NameError"),
        (
            ["--app", "tests.cli.lacking:app"],
            "tests.cli.lacking cannot be imported: ModuleNotFound",
        ),
        (["--app", "tests.worker.apps:app", "--lease", "soon"], "lease must look like"),
        (["--app", "tests.worker.apps:app", "-c", "0"], "concurrency must be"),
    ],
)
def test_work_refuses_what_is_wrong(cli: Cli, arguments: list[str], says: str) -> None:
    assert says in cli("work", *arguments, code=2).stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_work_on_a_database_that_is_not_there_ends_at_once(server: str, workers: str) -> None:
    cli = Cli(make_conninfo(server, dbname="pgqueue_no_such_database"))
    done = cli("work", "--app", "tests.worker.apps:app", "--workers", workers, code=3)
    assert 'database "pgqueue_no_such_database" does not exist' in done.stderr


def test_migrate_there_and_back(empty_dsn: str) -> None:
    cli = Cli(empty_dsn)
    assert f"none -> {EXPECTED}" in cli("migrate").stdout
    assert f"{EXPECTED} -> {EXPECTED}" in cli("migrate").stdout
    assert "as needed" in cli("migrate", "--check").stdout
    assert "aborted" in cli("migrate", "--to", "base", code=130, stdin="n\n").stderr
    assert f"{EXPECTED} -> none" in cli("migrate", "--to", "base", "--yes").stdout
    cli("migrate", "--check", code=4)
    assert "cannot migrate" in cli("migrate", "--to", "77", code=1).stderr


def test_help_and_completion(cli: Cli) -> None:
    overview = cli("--help").stdout
    for command in ("work", "list", "dlq", "retry", "clear", "migrate", "dev"):
        assert f"  {command} " in overview
        assert "Usage" in cli(command, "--help").stdout
    assert "_PGQUEUE_COMPLETE" in cli("completion", "bash").stdout


def test_configuration_files(dsn: str, tmp_path: Any) -> None:
    (tmp_path / "pyproject.toml").write_text(f'[tool.pgqueue]\ndsn = "{dsn}"\n')
    env = {k: v for k, v in os.environ.items() if not k.startswith("PGQUEUE_")}
    run = [sys.executable, "-m", "pgqueue", "list"]
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "no jobs yet\n"
    (tmp_path / "pgqueue.toml").write_text('colour = "red"\n')
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, "no setting colour" in done.stderr) == (2, True)
