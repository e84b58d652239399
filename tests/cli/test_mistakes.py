"""What a user can get wrong: one line that says what to do, and never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.cli.support import Cli, clean


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pgqueue", *arguments], cwd=folder, env=clean() | environ,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("pgqueue.toml", "concurrency = 'many'", "concurrency must be a whole number, got 'many'"),
        ("pgqueue.toml", "concurrency = 2.5", "concurrency must be a whole number"),
        ("pgqueue.toml", "lease = [1]", "lease must be seconds"),
        ("pgqueue.toml", "lease = {a = 1}", "lease must be seconds"),
        ("pgqueue.toml", "keep_dead = true", "keep_dead must be seconds"),
        ("pgqueue.toml", "notify = 3", "notify must be true or false"),
        ("pgqueue.toml", "max_rss = []", "max_rss must be bytes"),
        ("pgqueue.toml", "dsn = 3", "dsn must be text"),
        ("pgqueue.toml", "app = []", "app must be text"),
        ("pgqueue.toml", "concurency = 3", "no setting concurency; did you mean concurrency?"),
        ("pgqueue.toml", "= =", "Invalid statement"),
        (
            "pgqueue.toml",
            "[pgqueue]\nconcurrency = 3",
            "top level of this file: remove the line [pgqueue]. In pyproject.toml",
        ),
        ("pgqueue.toml", "[tool.pgqueue]\nconcurrency = 3", "remove the line [tool.pgqueue]"),
        ("pgqueue.toml", "keys = 'k'", "belong in PGQUEUE_KEYS"),
        ("pyproject.toml", "[tool]\npgqueue = 3", "pgqueue must be a table"),
        ("pyproject.toml", "tool = 3", "tool must be a table"),
        ("pyproject.toml", "[tool.pgqueue]\ngrace = 'x'", "grace must look like"),
    ],
)
def test_files_are_named(tmp_path: Path, file: str, text: str, says: str) -> None:
    (tmp_path / file).write_text(text)
    done = run(tmp_path, "list")
    assert done.returncode == 2
    assert done.stderr.startswith(f"pgqueue: {tmp_path / file}: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_variables_are_named(tmp_path: Path) -> None:
    done = run(tmp_path, "list", PGQUEUE_LEASE="soon")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("pgqueue: PGQUEUE_LEASE: lease must look like")


def test_an_unknown_variable_is_said_once(dsn: str) -> None:
    done = Cli(dsn)("list", PGQUEUE_CONCURENCY="5", PGQUEUE_ZZZ="1")
    assert done.stderr == (
        "pgqueue: PGQUEUE_CONCURENCY is no setting and is ignored;"
        " did you mean PGQUEUE_CONCURRENCY?\n"
        "pgqueue: PGQUEUE_ZZZ is no setting and is ignored\n"
    )
    work = ("work", "--app", "tests.worker.apps:app", "--workers", "2", "--drain")
    assert Cli(dsn)(*work, PGQUEUE_CONCURENCY="5").stderr.count("PGQUEUE_CONCURENCY") == 1


@pytest.mark.parametrize("command", [["list"], ["migrate"], ["retry", "1"]])
def test_no_database_given(tmp_path: Path, command: list[str]) -> None:
    # A socket folder of its own: on this machine libpq's defaults may lead somewhere.
    nowhere = {"PGUSER": "nobody", "PGPASSWORD": "x", "PGPASSFILE": "/dev/null"}
    done = run(tmp_path, *command, **nowhere)
    if "role" in done.stderr or "password" in done.stderr or done.returncode == 0:
        pytest.skip("a server listens where libpq looks")
    assert done.returncode == 3
    assert done.stderr == "pgqueue: no database given: set PGQUEUE_DSN or --dsn\n"


def test_a_given_database_is_not_called_missing(tmp_path: Path) -> None:
    done = run(tmp_path, "list", PGHOST="127.0.0.1", PGPORT="1")
    assert "cannot reach the database" in done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"), [("lst", "list"), ("wrok", "work"), ("migrat", "migrate"), ("dql", "dlq")]
)
def test_the_nearest_command(cli: Cli, typed: str, meant: str) -> None:
    assert f"no command {typed}; did you mean {meant}?" in cli(typed, code=2).stderr
    assert cli("xyzzy", code=2).stderr.endswith("no command xyzzy\n")


def test_a_missing_choice_is_one_line(cli: Cli) -> None:
    assert cli("completion", code=2).stderr.splitlines()[-1] == (
        "Error: Missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish"
    )


@pytest.mark.parametrize(
    "command",
    [
        ("retry", "--all"), ("cancel", "--all"), ("change", "--all", "--priority", "3"), ("clear",),
        ("workflow", "1", "--cancel"), ("workflow", "1", "--retry"), ("cron", "remove", "s"),
        ("cron", "sync", "--prune", "--app", "tests.worker.apps:app"), ("migrate", "--to", "base"),
    ],
    ids=lambda c: " ".join(c[:2]),
)  # fmt: skip
def test_a_question_that_nobody_answers_says_what_to_give(
    cli: Cli, conn: psycopg.Connection, dead: list[int], command: tuple[str, ...]
) -> None:
    conn.execute("insert into pgqueue.schedules (name, expression, task, source, last_tick) values"
                 " ('s', '@daily', 't', 'code', now())")  # fmt: skip
    conn.execute("insert into pgqueue.workflows (name) values ('w')")
    before = conn.execute("select xmin::text, * from pgqueue.jobs order by id").fetchall()
    said = cli(*command, code=2).stderr
    assert said.splitlines()[-1].startswith('pgqueue: nobody is there to answer "')
    assert "give --yes" in said
    assert "aborted" not in said
    assert "aborted" in cli(*command, code=130, stdin="n\n").stderr
    assert conn.execute("select xmin::text, * from pgqueue.jobs order by id").fetchall() == before


def test_a_closed_standard_input_is_nobody(cli: Cli, dead: list[int]) -> None:
    shell = f'exec "{sys.executable}" -m pgqueue clear --dsn "{cli.dsn}" <&-'
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "give --yes" in done.stderr


@pytest.mark.parametrize("to", ["0", "99", "\u00b2", "nope", "-1"])
def test_sql_of_a_version_that_there_is_not(tmp_path: Path, to: str) -> None:
    done = run(tmp_path, "migrate", "--sql", "--to", to)
    assert done.returncode == 1
    assert done.stderr.startswith(f"pgqueue: no SQL to migrate to {to!r}: ")


def test_digits_that_are_no_number(dsn: str, tmp_path: Path) -> None:
    done = run(tmp_path, "work", "--app", "tests.cli.support:app", "--queue", "mail:\u00b2", PGQUEUE_DSN=dsn)  # fmt: skip
    assert done.returncode == 2
    assert "'\u00b2' is no number" in done.stderr
    done = run(tmp_path, "list", PGQUEUE_DSN=dsn, COLUMNS="\u00b2")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", [["cancel"], ["change", "--priority", "1"]])
@pytest.mark.parametrize(
    "columns",
    [{"unique_key": "'k'", "unique_until": "'removed'"}, {"workflow_id": "1"}],
    ids=["unique", "of a workflow"],
)
def test_why_one_that_is_dead_is_not_changed(
    cli: Cli, conn: psycopg.Connection, command: list[str], columns: dict[str, str]
) -> None:
    """It is that it is dead, not what stands against its retry."""
    conn.execute(
        f"insert into pgqueue.jobs (task, status, finished_at, {', '.join(columns)})"
        f" values ('t', 'dead', now(), {', '.join(columns.values())})".encode()
    )
    done = cli(*command, "1", code=1)
    assert done.stderr.endswith("job 1 is dead\n")


@pytest.mark.parametrize(
    "command",
    [["job"], ["cancel", "1"], ["retry", "1"], ["change", "--priority", "1"], ["workflow"],
     ["jobs", "--before"], ["workflows", "--before"]],
)  # fmt: skip
def test_an_id_that_no_job_can_have(dsn: str, command: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, *command, str(2**63), PGQUEUE_DSN=dsn)
    assert done.returncode == 2
    assert "9223372036854775808 is not in the range" in done.stderr


def test_migrate_without_the_right_to_create(empty_dsn: str, server: str) -> None:
    name = str(conninfo_to_dict(empty_dsn)["dbname"])
    role = f"weak_{name}"
    with psycopg.connect(empty_dsn, autocommit=True) as admin:
        admin.execute(f"create role {role} login password 'weak'".encode())
        try:
            weak = make_conninfo(empty_dsn, user=role, password="weak")
            refused = Cli(weak)("migrate", code=1).stderr
            grant = f'grant create on database "{name}" to "{role}"'
            assert refused.endswith(f"as an administrator run: {grant}\n")
            assert refused.count("\n") == 1
            admin.execute(grant.encode())
            Cli(weak)("migrate")
        finally:
            admin.execute(f"drop owned by {role} cascade".encode())
            admin.execute(f"drop role {role}".encode())


def test_a_server_that_takes_no_writes(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute("select pgqueue.enqueue('t')")
    cli = Cli(make_conninfo(dsn, options="-c default_transaction_read_only=on"))
    cli("list")
    for command in (
        ["retry", "1"],
        ["cancel", "1"],
        ["clear", "--yes"],
        ["pause", "default"],
        ["migrate", "--to", "base", "--yes"],
    ):
        refused = cli(*command, code=1).stderr
        assert refused.startswith("pgqueue: this server takes no writes")
        assert refused.count("\n") == 1
