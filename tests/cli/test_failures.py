"""Each error of the database is said as what it is, with its own exit code."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys

import asyncpg
import psycopg
import pytest

from pgqueue.cli.failures import explain
from pgqueue.worker.database import DatabaseAway

STATES = {
    "57014": (1, "canceled by an administrator, or took longer than statement_timeout"),
    "55000": (1, "the database refused: oh"),
    "55P03": (1, "lock_timeout"),
    "54000": (1, "a limit of the server"),
    "53100": (1, "the disk of the server is full"),
    "53200": (1, "out of memory"),
    "40001": (1, "try again"),
    "25006": (1, "takes no writes"),
    "58030": (1, "the database refused: oh"),
    "53300": (3, "cannot reach the database: oh"),
    "57P01": (3, "cannot reach the database: oh"),
    "57P03": (3, "cannot reach the database: oh"),
    "08006": (3, "cannot reach the database: oh"),
    "28P01": (3, "cannot reach the database: oh"),
    "3D000": (3, "cannot reach the database: oh"),
}


@pytest.mark.parametrize("state", STATES)
def test_what_a_server_says(state: str) -> None:
    code, said = STATES[state]
    error = psycopg.errors.lookup(state)("oh")
    other = asyncpg.PostgresError.new({"C": state, "M": "oh", "S": "ERROR"})
    for each in (error, other):
        found, line = explain(each)
        assert (found, said in line) == (code, True), line


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConnectionRefusedError(111, "Connect call failed"), 3, "cannot reach the database"),
        (socket.gaierror(-2, "Name or service not known"), 3, "cannot reach the database"),
        (TimeoutError(), 3, "no answer"),
        (OSError("Multiple exceptions: [Errno 111]"), 3, "cannot reach the database"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), 3, "cannot reach the database"),
        (
            FileNotFoundError(2, "No such file", "/tmp/.s.PGSQL.5432"),
            3,
            "cannot reach the database",
        ),
        (psycopg.OperationalError("connection failed: x\ny"), 3, "connection failed: x"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "cannot write the output"),
        (PermissionError(13, "Permission denied", "/etc/shadow"), 1, "/etc/shadow"),
        (DatabaseAway("no answer in time", sent=False), 3, "no answer in time"),
    ],
)
def test_what_the_system_says(error: Exception, code: int, said: str) -> None:
    found, line = explain(error)
    assert (found, said in line) == (code, True), line


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("command", [["list"], ["jobs", "--json"], ["migrate", "--sql"]])
def test_a_full_disk_behind_the_output(dsn: str, command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pgqueue", *command], env={**os.environ, "PGQUEUE_DSN": dsn},
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        1, "pgqueue: cannot write the output: [Errno 28] No space left on device\n"
    )  # fmt: skip


def test_a_reader_that_has_seen_enough(dsn: str) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m pgqueue migrate --sql | head -1"],
        env={**os.environ, "PGQUEUE_DSN": dsn}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stderr, done.stdout.count("\n")) == ("", 1)
