"""Whatever rows, the command line and the environment hold: no command prints it raw.

Each command runs on a database where every text that a column can hold steers a terminal and forges a line.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from psycopg import sql

from pgqueue import App, Keys
from pgqueue.cli import group, main
from pgqueue.job import ClaimedJob, Status
from pgqueue.operations.claims import Recorded
from pgqueue.outcome import Outcome
from pgqueue.text import json_text
from pgqueue.worker import report
from pgqueue.worker.run import Run, say

EVIL = "\x1b[31mA\rB\u202eC\x07D\x9b2JE\u200bF\u2028G\nFORGED: H"
FORGED = "FORGED"
# Columns whose values say what else is read; a row with another is refused by the table.
KEPT = {
    "jobs": {"status", "unique_until"}, "queues": set(), "tasks": {"ordered"}, "workers": {"state"}, "schedules": {"source", "catch_up", "overlap", "pause_reason"},
    "workflows": {"status"}, "workflow_jobs": {"if_failed", "stays"}, "attempts": set(), "steps": {"kind"}, "events": set(), "buckets": set(), "turns": set(),
    "identity": set(), "dependencies": set(),
}  # fmt: skip
ROWS = """
insert into pgqueue.jobs (task, status, finished_at, unique_key, unique_until, worker_id, left_at, workflow_id)
    select 't', s, case when s in ('succeeded', 'dead', 'cancelled') then now() end, s || n, 'removed',
           case when s = 'running' then gen_random_uuid() end, case when s = 'pending' then now() end, 1
      from unnest(array['blocked', 'pending', 'running', 'succeeded', 'dead', 'cancelled', 'dead', 'cancelled']) with ordinality s(s, n) order by n;
insert into pgqueue.attempts (job_id, attempt, outcome, error, log, worker_id) select id, 1, 'retry', 'e', 'l', gen_random_uuid() from pgqueue.jobs;
insert into pgqueue.attempts (job_id, attempt, outcome, error, traceback, log) select id, 2, 'retry', 'e', 't', 'l' from pgqueue.jobs;
insert into pgqueue.queues (name, max_running, max_pending, paused_at) values ('q', 1, 9, now());
insert into pgqueue.tasks (name, max_running, paused_at) values ('t', 1, now());
insert into pgqueue.workers (id, host, pid, version, queues, tasks) values (gen_random_uuid(), 'h', 1, 'v', '{q}', '{t}');
insert into pgqueue.schedules (name, expression, task) values ('s1', '@hourly', 't'), ('s2', '@daily', 't');
insert into pgqueue.workflows default values;
insert into pgqueue.workflow_jobs (job_id, workflow_id, name) select id, 1, 'n' || id from pgqueue.jobs;
insert into pgqueue.dependencies values (2, 1);
insert into pgqueue.steps (job_id, name, kind, events) select id, 'wait', 'event', '{e}' from pgqueue.jobs;
insert into pgqueue.steps (job_id, name, kind, wakes_at) select id, 'sleep', 'sleep', now() from pgqueue.jobs;
insert into pgqueue.steps (job_id, name, kind, error, finished_at) select id, 'step', 'step', 'e', now() from pgqueue.jobs;
insert into pgqueue.events (name, payload) values ('e', '"p"');
insert into pgqueue.turns (queue, key) values ('q', 'k');
insert into pgqueue.buckets (name, tokens, at) values ('b', 1, now());
"""  # fmt: skip


def poison(conn: psycopg.Connection) -> None:
    """Put such text into every text column of every table, as who may turn checks off can."""
    columns = conn.execute("""
        select table_name, column_name, data_type, udt_name from information_schema.columns
         where table_schema = 'pgqueue' and table_name in (select tablename from pg_tables where schemaname = 'pgqueue') and table_name <> 'alembic_version'
    """).fetchall()  # fmt: skip
    assert {table for table, *_ in columns} == set(KEPT)
    for table in KEPT:
        conn.execute(f"alter table pgqueue.{table} disable trigger user".encode())
    checks = conn.execute("""
        select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
         where contype = 'c' and connamespace = 'pgqueue'::regnamespace
    """).fetchall()  # fmt: skip
    for table, name, text in checks:
        if "ARRAY[" not in text:
            conn.execute(f"alter table {table} drop constraint {name}".encode())
    for table, column, kind, udt in columns:
        new = {
            "text": "{evil} || ctid::text",
            "jsonb": "jsonb_build_object({evil}, {evil}, 'password', {evil})",
        }.get(kind)
        if kind == "ARRAY" and udt == "_text":
            new = "array[{evil}, {evil}]"
        if new is not None and column not in KEPT[table]:
            conn.execute(sql.SQL("update {} set {} = " + new).format(
                sql.Identifier("pgqueue", table), sql.Identifier(column), evil=sql.Literal(EVIL)))  # fmt: skip


@pytest.fixture
def evil(
    dsn: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> psycopg.Connection:
    conn.execute(ROWS.encode())
    poison(conn)
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    monkeypatch.setenv("PGQUEUE_KEYS", Keys.generate())
    monkeypatch.setenv(f"PGQUEUE_{EVIL}", "x")
    monkeypatch.setenv("PGQUEUE_SPEED\x1b[31m", EVIL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_app.py").write_text(
        f"from pgqueue import App\napp = App()\nclass E(Exception): pass\nbroken = None\nEVIL = {EVIL!r}\n"
    )
    (tmp_path / "evil_broken.py").write_text(f"raise ValueError({EVIL!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return conn


# Of each command what it is called with; each also with a value that steers a terminal where a value goes.
CALLS: dict[str, list[list[str]]] = {
    "work": [["--app", EVIL], ["--app", "evil_broken:app"], ["--queue", f"{EVIL}:x"], ["--lease", EVIL, "--app", "evil_app:app"],
             ["--log-format", EVIL]],
    "list": [[], ["--json"]],
    "stats": [[]],
    "jobs": [[], ["--json"], ["--task", EVIL], ["--queue", EVIL], ["--status", EVIL], ["--since", EVIL], ["--app", EVIL],
             *([*("--status", status), "--json"] for status in Status), ["--limit", EVIL], [EVIL], [f"--{EVIL}"]],
    "job": [[str(n)] for n in range(1, 9)] + [["1", "--show-args", "--tracebacks"], ["1", "--json"], [EVIL], ["99"]],
    "dlq": [[], ["--json"], ["--error", EVIL]],
    "retry": [["5"], ["99"], ["7", "--args", '{"x": 1}', "--app", "evil_app:app"], ["7", "--args", EVIL], ["--all", "--yes"], ["--task", EVIL, "--yes"]],
    "cancel": [["2"], ["2"], ["--task", EVIL, "--yes"], ["--all", "--dry-run"], ["--all", "--yes", "--json"]],
    "change": [["1", "--to-queue", EVIL], ["1", "--run-at", EVIL], ["1", "--delay", EVIL], ["2", "--priority", "1"], ["--all", "--priority", "2", "--yes"]],
    "clear": [["--status", "dead", "--dry-run"], ["--task", EVIL, "--yes"], ["--status", EVIL]],
    "tasks": [["--app", "evil_app:app"], ["--app", "evil_app:EVIL"], ["--app", "evil_broken:app"], ["--app", f"evil_app:{EVIL}"]],
    "workers": [[], ["--json"]],
    "pause": [[EVIL], ["--task", EVIL], ["mail"], ["--all"]],
    "resume": [[EVIL], ["--task", EVIL], ["mail"], ["--all"]],
    "paused": [[], ["--json"]],
    "queues": [[], ["--json"]],
    "queue": [[EVIL], ["mail", "--limit", EVIL], ["mail", "--rate", EVIL], ["mail", "--limit", "1"], ["mail"]],
    "limit": [[EVIL, "--limit", "1"], ["--task", EVIL, "--limit", "1"], ["mail", "--rate", EVIL]],
    "limits": [[], ["--json"]],
    "workflows": [[], ["--json"], ["--name", EVIL], ["--status", EVIL]],
    "workflow": [["1"], ["1", "--json"], ["1", "--retry", "--yes"], ["1", "--cancel", "--yes"], [EVIL]],
    "emit": [[EVIL], ["e", EVIL], ["e", "{}"]], "send": [["1", EVIL], ["1", "e", EVIL], ["1", "e", "{}"], ["99", "e"]],
    "cron list": [[], ["--json"]],
    "cron runs": [["NAME"], [EVIL], ["NAME", "--json"]],
    "cron add": [[EVIL, "@daily", "t"], ["s", EVIL, "t"], ["s", "@daily", EVIL], ["s", "@daily", "t", "--tz", EVIL], ["s", "@daily", "t"],
                 ["s", "@daily", "t", "--queue", EVIL], ["s", "@daily", "t", "--backoff", EVIL], ["s", "@daily", EVIL, "--args", '{"a": 1}']],
    "cron pause": [["NAME"], [EVIL]],
    "cron resume": [["NAME"], [EVIL]],
    "cron run": [["NAME"], [EVIL], ["NAME", "--json"]],
    "cron remove": [["NAME"], ["NAME", "--yes"], [EVIL, "--yes"]],
    "cron sync": [["--app", "evil_app:app"], ["--app", "evil_app:app", "--prune", "--yes"]],
    "rekey": [[], ["--json"]],
    "migrate": [[], ["--check"], ["--schema", EVIL], ["--to", EVIL], ["--wait", EVIL], ["--sql"]],
    "sql roles": [[], ["--schema", EVIL], ["--prefix", EVIL]],
    "dev": [[EVIL], ["evil_broken:app"]],
    "completion": [["bash"], [EVIL]],
    EVIL: [[]],
}  # fmt: skip


def commands(within: click.Group, path: str = "") -> Iterator[str]:
    context = click.Context(within)
    for name in within.list_commands(context):
        command = within.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}"


def test_every_command_is_called() -> None:
    assert set(CALLS) - {EVIL} == set(commands(group))


def run(arguments: list[str]) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit),
    ):
        main(arguments)
    return out.getvalue(), err.getvalue()


def assert_harmless(text: str, what: Any) -> None:
    for line in text.split("\n"):
        assert line.expandtabs().isprintable(), what
        assert not line.startswith(FORGED), what


def calls(conn: psycopg.Connection) -> Iterator[list[str]]:
    name = conn.execute("select name from pgqueue.schedules order by name limit 1").fetchone()
    assert name is not None
    for command, variants in CALLS.items():
        words = [command] if command == EVIL else command.split()
        for variant in variants:
            yield [*words, *(name[0] if word == "NAME" else word for word in variant)]


def test_no_command_prints_it_raw(
    evil: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = logging.getLogger().handlers[:]
    told = 0
    for arguments in calls(evil):
        out, err = run(arguments)
        assert_harmless(out, arguments)
        assert_harmless(err, arguments)
        assert "Traceback" not in err or "evil_broken" in arguments, arguments
        if "--json" in arguments and out:
            json.loads(out)
        told += "\\x1b[31mA\\rB\\u202eC\\x07D\\x9b2JE\\u200bF\\u2028G" in out + err
    assert told > 50, "it was printed, escaped"
    logging.getLogger().handlers[:] = before  # `work` sets up logging of its own


def test_nor_in_a_record_that_is_as_wide_as_a_terminal(
    evil: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns in ("40", "80", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        for arguments in (["jobs"], ["dlq"], ["list"], ["queues"], ["limits"], ["paused"], ["workers"], ["workflows"],
                          ["workflow", "1"], ["cron", "list"], ["job", "1"]):  # fmt: skip
            out, err = run(arguments)
            assert_harmless(out, arguments)
            assert_harmless(err, arguments)


def test_nor_on_a_terminal(evil: psycopg.Connection) -> None:
    """There only the headings of tables and the log have colours, of ours."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    code = f"from pgqueue.cli import main\nfor a in ({['jobs']!r}, ['list'], ['job', '1'], ['cron', 'list'], ['workers']):\n    try: main(a)\n    except SystemExit: pass\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=follower, stderr=follower, stdin=follower
    )
    os.close(follower)
    printed = b""
    with contextlib.suppress(OSError):
        while read := os.read(leader, 65_536):
            printed += read
    process.wait(30)
    os.close(leader)
    text = printed.decode().replace("\r\n", "\n")
    assert "\\x1b[31mA" in text
    for bad in ("\x1b[31m", "\x07", "\u202e", "\x9b", "\u2028", "\rB"):
        assert bad not in text
    assert not any(line.startswith(FORGED) for line in text.split("\n"))


def test_a_question_is_one_line(evil: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    out, err = run(["cron", "remove", "--", EVIL])
    assert_harmless(out + err, "remove")
    assert "Remove \\x1b[31m" in out + err


def test_lines_about_jobs_are_one_line_whoever_formats_them(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that runs a worker logs as it likes."""
    job: Any = ClaimedJob(*[None] * len(ClaimedJob._fields))._replace(
        id=1, task=EVIL, queue=EVIL, attempt=1, max_retries=1
    )
    recorded: Any = Recorded(Status.DEAD, 0.0)
    report.report(job, Outcome("dead", None, EVIL, EVIL), recorded)
    say(logging.getLogger("t"), logging.WARNING, Run(job, 0.0), "stopped after %s", EVIL)
    assert len(caplog.records) == 2
    for each in caplog.records:
        assert each.getMessage().isprintable()


def test_json_escapes_what_is_not_seen() -> None:
    every = "".join(map(chr, range(0x3000))) + "\ufeff\ud800\U000e0001\U0001f600é"
    text = json_text({every: [every]}, indent=2)
    assert_harmless(text, "json")
    assert json.loads(text) == {every: [every]}
    assert "😀é" in text
