"""Tables as text: at 80 and at 120 columns, and in a pipe, names are whole and empty columns are left out."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import psycopg
import pytest

from pgqueue import App
from tests.cli.support import Cli
from tests.support import drain

TASK = "shop.orders.handlers.mail.send_the_receipt_of_an_order"
QUEUE = "mail-and-more-of-the-north-and-the-south"
NAME = "the nightly clearing of all accounts of the north"
ERROR = "the mail server at mail.example.org did not answer within thirty seconds, so it goes on"
PIPE = ""


@pytest.fixture
def failed(dsn: str) -> None:
    app = App(dsn)

    @app.task(name=TASK, queue=QUEUE, max_retries=0)
    def fails() -> None:
        raise TimeoutError(f"{ERROR}\nsecond line")

    fails.enqueue()
    asyncio.run(drain(app))
    app.close()


@pytest.fixture
def much(failed: None, dsn: str, conn: psycopg.Connection) -> None:
    """Something for every table to show."""
    app = App(dsn)

    @app.task(name=TASK)
    def task() -> None: ...

    app.chain(task.call(), task.call(), name=NAME).enqueue()
    app.client.add_schedule(NAME, "30 2 * * 1-5", task.call(), tz="America/Argentina/Buenos_Aires")
    app.client.run_schedule(NAME)
    app.client.set_queue(
        QUEUE, max_pending=100_000, keep_dead="30d", rate="100/min", backoff="30s", expires="1h"
    )
    app.client.limit_task(TASK, limit=3)
    app.client.pause(QUEUE)
    app.client.pause_task(TASK)
    conn.execute(
        "insert into pgqueue.workers (id, host, pid, version, queues) values"
        " (gen_random_uuid(), 'worker-7.north.shop.example.org', 12345, '0.1.0', array[%s, 'second-queue', 'third'])",
        [QUEUE],
    )
    app.close()


TABLES = {
    ("jobs",): [TASK, QUEUE],
    ("dlq",): [TASK, QUEUE],
    ("list",): [QUEUE],
    ("queues",): [QUEUE, "100,000", "30d"],
    ("workflows",): [NAME, "running"],
    ("workflow", "1"): [TASK],
    ("cron", "list"): [NAME, TASK, "30 2 * * 1-5", "America/Argentina/Buenos_Aires"],
    ("cron", "runs", NAME): ["by hand"],
    ("limits",): [TASK, QUEUE],
    ("paused",): [TASK, QUEUE],
    ("workers",): [QUEUE, "worker-7.north.shop.example.org", "second-queue"],
    ("tasks", "--app", "tests.schedules.declaring:app"): ["tests.schedules.declaring.nightly"],
    ("job", "1"): [TASK, QUEUE],
}


@pytest.mark.parametrize("columns", ["80", "120", PIPE])
def test_names_are_whole(cli: Cli, much: None, columns: str) -> None:
    for command, names in TABLES.items():
        lines = cli(*command, COLUMNS=columns).stdout.splitlines()
        for name in names:
            assert any(name in line for line in lines), (command, name, lines)
        if columns and command[0] != "job":
            widest = max(len(line) for line in lines)
            assert widest <= max(int(columns), 20 + len(TASK)), (command, lines)
        if not columns:
            assert not any("…" in line for line in lines), command


def test_a_pipe_gets_one_line_a_row(cli: Cli, much: None) -> None:
    for command in TABLES:
        if command[0] in ("job", "workflow"):
            continue
        rows = len(cli.json(*command))
        lines = cli(*command, COLUMNS=PIPE).stdout.splitlines()
        assert len(lines) == rows + 2, (command, lines)
    (line,) = cli("dlq", COLUMNS=PIPE).stdout.splitlines()[2:]
    assert ERROR in line
    assert "second line" not in line


@pytest.mark.parametrize("columns", ["120", PIPE])
def test_empty_columns_are_left_out(cli: Cli, much: None, columns: str) -> None:
    def head(*command: str) -> list[str]:
        return cli(*command, COLUMNS=columns).stdout.splitlines()[0].split("  ")

    assert not {"dead", "cancelled", "succeeded"} & set(map(str.strip, head("workflows")))
    assert "last error" not in " ".join(head("workflow", "1"))
    assert "keep succeeded" not in " ".join(head("queues"))
    assert "order" not in " ".join(head("limits"))


def test_what_does_not_fit_side_by_side_is_one_below_the_other(cli: Cli, failed: None) -> None:
    printed = cli("dlq", COLUMNS="80").stdout.splitlines()
    shown = ["id", "task", "queue", "status", "runs", "when", "last"]
    assert [line.split()[0] for line in printed[:7]] == shown
    assert printed[1].split()[1] == TASK
    assert " ".join(line[12:] for line in printed[6:]) == f"TimeoutError: {ERROR}"
    assert max(map(len, printed)) <= 80


def test_errors_are_cut_between_words(cli: Cli, failed: None) -> None:
    head, line, first, second = cli("dlq", COLUMNS="170").stdout.splitlines()
    assert "last error" in head
    assert set(line) == {"─"}
    assert TASK in first
    assert second.rstrip().endswith("…")
    shown = (first + second).partition("TimeoutError:")[2].split()
    assert shown[:-1] == ERROR.split()[: len(shown) - 1]  # only the last may be cut


def test_a_wide_terminal(cli: Cli, failed: None) -> None:
    printed = cli("jobs", COLUMNS="280").stdout
    assert TASK in printed
    assert ERROR in printed
    assert "second line" not in printed


def test_the_width_is_that_of_the_terminal(dsn: str, much: None) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {k: v for k, v in os.environ.items() if k != "COLUMNS"} | {
        "PGQUEUE_DSN": dsn,
        "TERM": "dumb",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pgqueue", "dlq"], stdout=theirs, stdin=theirs, env=env, check=True
    )
    os.close(theirs)
    printed = os.read(ours, 10_000).decode().replace("\r\n", "\n")
    os.close(ours)
    assert done.returncode == 0
    assert printed.splitlines()[0].split() == ["id", "1"]


def test_a_short_error_is_one_line_and_two_next_runs_are_two(cli: Cli, app: App) -> None:
    @app.task(name="t")
    def t() -> None: ...

    app.chain(t.call(), t.call()).enqueue()
    printed = cli("workflow", "1", COLUMNS="80").stdout
    assert [line.split()[0] for line in printed.splitlines()[3:]] == ["1", "2"]
    app.client.add_schedule("nightly", "@daily", t.call())
    listed = cli("cron", "list", COLUMNS="80").stdout
    assert "\\n" not in listed
    assert [line.count(" 00:00:00 UTC") for line in listed.splitlines()[2:]] == [1, 1]
