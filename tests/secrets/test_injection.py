"""Text of others, in rows or errors, forges no log line and steers no terminal."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pgqueue.cli.output import print_table, to_json
from pgqueue.worker.logs import JsonLines, PlainLines, handler_of
from tests.cli.support import Cli

FORGED = "x\n2026-01-01 INFO forged\r\x1b[31m\x9b31m\u2028\x85\u202e\0 [red]y[/red] [link=http://e]z[/link]"
HOSTILE = st.text(st.characters() | st.sampled_from(FORGED))


def record(message: str, error: Exception | None = None) -> logging.LogRecord:
    caught: Any = None
    if error is not None:
        try:
            raise error
        except type(error):
            caught = sys.exc_info()
    return logging.LogRecord("pgqueue.job", logging.INFO, "f", 1, "task %s", (message,), caught)


@given(HOSTILE)
def test_a_message_is_one_line_of_text_or_json(text: str) -> None:
    plain = PlainLines("%(levelname)s %(message)s").format(record(text))
    assert plain.isprintable()
    line = JsonLines().format(record(text))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == f"task {text}"
    line.encode()


@given(HOSTILE)
def test_a_traceback_forges_no_line(text: str) -> None:
    plain = PlainLines("%(levelname)s %(message)s").format(record(text, ValueError(text)))
    first, *rest = plain.split("\n")
    assert first.startswith("INFO")
    assert all(line.startswith("  ") and line.isprintable() for line in rest)
    line = JsonLines().format(record(text, ValueError(text)))
    assert len(line.splitlines()) == 1
    assert "ValueError" in json.loads(line)["traceback"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_terminals_handler_shows_markup_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERM", "dumb")  # without colours
    out = Terminal()
    handler_of("text", out).emit(record(FORGED))
    assert "[link=http://e]" in out.getvalue()


@given(st.lists(HOSTILE, min_size=2, max_size=2))
def test_tables_and_json_are_tame(cells: list[str]) -> None:
    out = io.StringIO()
    # A column without any value is left out.
    print_table(
        ["a", "b"],
        [[f"a{cell}" for cell in cells]],
        to=Console(file=out, width=10_000, highlight=False),
    )
    assert all(line.isprintable() for line in out.getvalue().split("\n"))
    assert len(out.getvalue().split("\n")) == 4
    shown = to_json({"x": cells})
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]", shown)
    assert json.loads(shown) == {"x": cells}


def test_rows_put_in_by_sql(dsn: str, conn: psycopg.Connection) -> None:
    text = FORGED.replace("\0", "")
    conn.execute("insert into pgqueue.jobs (task, status, finished_at, last_error, args)"
                 " values (%s, 'dead', now(), %s, jsonb_build_object(%s::text, %s::text))",
                 (text, text, text, text))  # fmt: skip
    conn.execute("insert into pgqueue.attempts (job_id, attempt, outcome, error_type, error, traceback, log)"
                 " select id, 1, %s, %s, %s, %s, %s from pgqueue.jobs", (text,) * 5)  # fmt: skip
    cli = Cli(dsn)
    for command in (
        ["jobs"],
        ["dlq"],
        ["job", "1", "--show-args"],
        ["job", "1", "--json"],
        ["list"],
    ):
        out = cli(*command).stdout
        assert all(line.isprintable() for line in out.split("\n")), command
        assert not any(line.startswith("2026-01-01 INFO") for line in out.split("\n"))
    assert "[link=http://e]" in cli("job", "1").stdout
    assert cli.json("job", "1")["job"]["task"] == text


async def test_a_worker_logs_a_hostile_task_in_one_line(
    app: Any, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.support import drain

    text = FORGED.replace("\0", "")
    conn.execute("insert into pgqueue.jobs (task) values (%s)", (text,))
    await drain(app)
    assert "no task" in caplog.text
    assert all(r.getMessage().isprintable() for r in caplog.records)
