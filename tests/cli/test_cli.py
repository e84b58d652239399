"""The command line as a person and as a machine would use it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue.schema import EXPECTED
from tests.cli.support import Cli
from tests.support import set_schema_version


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


def test_a_job_with_progress_log_and_result(
    cli: Cli, dead: list[int], conn: psycopg.Connection
) -> None:
    conn.execute(
        "update pgqueue.jobs set result = '[1, 2]',"
        """ progress = '{"done": 3, "total": 4, "message": "rows"}' where id = %s""",
        (dead[0],),
    )
    conn.execute("update pgqueue.attempts set log = 'INFO hello' where job_id = %s", (dead[0],))
    text = cli("job", str(dead[0]), "--show-args").stdout
    assert "progress     3 of 4 (75%) rows\n" in text
    assert "result       [1, 2]\n" in text
    assert "  INFO hello\n" in text
    conn.execute("update pgqueue.jobs set progress = '[]' where id = %s", (dead[0],))
    assert "progress     []\n" in cli("job", str(dead[0])).stdout


def test_retry(cli: Cli, dead: list[int], conn: psycopg.Connection) -> None:
    assert cli("retry", str(dead[0])).stdout == f"retried: 1 job ({dead[0]})\n"
    again = cli("retry", str(dead[0]), "99", code=1)
    assert f"job {dead[0]} is pending" in again.stderr
    assert "job 99 does not exist" in again.stderr
    edit = ("retry", str(dead[1]), "--args", '{"to": "z"}')
    assert "which arguments of mail are secret" in cli(*edit, code=2).stderr
    cli(*edit, "--app", "tests.cli.support:app")
    assert conn.execute("select args from pgqueue.jobs where id = %s", (dead[1],)).fetchone() == (
        {"to": "z"},
    )


def test_retry_of_a_unique_job(cli: Cli, dead: list[int], conn: psycopg.Connection) -> None:
    conn.execute(
        "update pgqueue.jobs set unique_key = 'mail:k', unique_until = 'finished' where id = %s",
        (dead[0],),
    )
    conn.execute("select pgqueue.enqueue('mail', unique_key => 'k')")
    assert "unique_key   mail:k" in cli("job", str(dead[0])).stdout
    refused = cli("retry", str(dead[0]), code=1).stderr
    assert f"job {dead[0]} is dead, and another job has its unique key: cancel that one" in refused
    assert cli.json("retry", "--all", "--yes")["retried"] == [dead[1]]


def test_retry_by_filter_asks(cli: Cli, dead: list[int], conn: psycopg.Connection) -> None:
    asked = cli("retry", "--all", code=130, stdin="n\n").stderr
    assert "Retry 2 dead jobs?" in asked
    assert "aborted" in asked
    assert "which jobs?" in cli("retry", code=2).stderr
    assert "not both" in cli("retry", "1", "--all", code=2).stderr
    assert cli.json("retry", "--task", "mail", "--yes")["retried"] == dead


def test_cancel_and_clear(cli: Cli, dead: list[int], conn: psycopg.Connection) -> None:
    pending = dead[1] + 1
    assert "cancelled: 1 job" in cli("cancel", str(pending)).stdout
    assert "is dead" in cli("cancel", str(dead[0]), code=1).stderr
    cli("retry", str(pending))
    asked = cli("clear", code=130, stdin="\n").stderr
    assert "Delete 1 pending job?" in asked
    assert "aborted" in asked
    assert cli("clear", "--dry-run").stdout == "would delete: 1 pending job\n"
    assert cli("clear", "--yes").stdout == "cleared: 1 job\n"
    assert cli.json("clear", "--yes") == {"cleared": 0}


def test_clear_by_status(cli: Cli, dead: list[int], conn: psycopg.Connection) -> None:
    assert cli.json("clear", "--status", "dead", "--dry-run") == {"would_clear": 2}
    assert cli.json("clear", "--status", "dead", "--error", "other", "--yes") == {"cleared": 0}
    assert cli.json("clear", "--status", "dead", "--task", "mail", "--yes") == {"cleared": 2}
    assert conn.execute("select status from pgqueue.jobs").fetchall() == [("pending",)]
    assert conn.execute("select count(*) from pgqueue.attempts").fetchone() == (0,)
    assert "'running' is not one of" in cli("clear", "--status", "running", code=2).stderr


def test_workers(cli: Cli, conn: psycopg.Connection) -> None:
    assert cli("workers").stdout == "no workers\n"
    conn.execute(
        "insert into pgqueue.workers (id, host, pid, version, queues)"
        " values (gen_random_uuid(), 'box', 4242, '1.2.3', '{mail,billing}')"
    )
    (worker,) = cli.json("workers")
    assert (worker["host"], worker["pid"], worker["version"]) == ("box", 4242, "1.2.3")
    assert worker["queues"] == ["mail", "billing"]
    assert {"id", "started_at", "seen_at"} < set(worker)
    shown = cli("workers").stdout
    for text in ("box", "4242", "1.2.3", "mail, billing", "since", "last seen", worker["id"][:8]):
        assert text in shown


def test_pause_and_resume_for_machines(cli: Cli) -> None:
    assert cli.json("pause", "mail", "etl") == {"mail": "paused", "etl": "paused"}
    assert cli.json("resume", "mail", "other") == {"mail": "resumed", "other": "was not paused"}


def test_tracebacks_of_all_attempts(cli: Cli, dead: list[int], conn: psycopg.Connection) -> None:
    conn.execute("insert into pgqueue.attempts overriding user value select (jsonb_populate_record(a, '{\"attempt\": 0}')).*"
                 " from pgqueue.attempts a")  # fmt: skip
    conn.execute(
        "update pgqueue.attempts set ended_at = ended_at - interval '1h' where attempt = 0"
    )
    brief, whole = cli("job", str(dead[0])).stdout, cli("job", str(dead[0]), "--tracebacks").stdout
    assert (brief.count("Traceback"), whole.count("Traceback")) == (1, 2)
    assert brief.index("attempt 0") < brief.index("Traceback")
    assert brief.count("no such mailbox") > 2


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
    set_schema_version(conn, stamp, stamp)
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
    assert f"at version {EXPECTED} already: nothing to do" in cli("migrate").stdout
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
