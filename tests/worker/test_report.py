"""What the log says when an attempt does not succeed, and what a terminal says at Ctrl-C."""

from __future__ import annotations

import json
import logging
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest

from pgqueue import App, Backoff, Cancel, Context, Dead, Snooze
from pgqueue.worker.logs import JsonLines
from tests.support import drain, eventually, heed_interrupts, make_due
from tests.worker import slow_tasks


@pytest.fixture
def order(app: App) -> Any:
    def fail(ctx: Context, how: str, password: str = "hunter2") -> None:
        match how:
            case "snooze":
                raise Snooze("10m", "the shop is closed")
            case "dead":
                raise Dead("no such order")
            case "cancel":
                raise Cancel("not wanted")
        raise TimeoutError(f"no answer to {password}\nsecond line")

    task = app.task(name="order", queue="mail", max_retries=1, backoff=Backoff.constant("12s"))
    return task(fail)


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "pgqueue.job"]


@pytest.mark.parametrize("how", ["plain", "result", "transaction", "thread", "process"])
async def test_a_success_is_a_line_at_debug(
    app: App, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    @app.task(name="plain")
    async def plain() -> None: ...

    @app.task(name="result", result=True)
    async def result() -> int:
        return 1

    @app.task(name="transaction")
    async def transaction(ctx: Context) -> None:
        async with ctx.transaction():
            pass

    @app.task(name="thread")
    def thread() -> None: ...

    tasks: dict[str, Any] = {t.name: t for t in (plain, result, transaction, thread)}
    if how == "process":
        slow_tasks.app.use(dsn=app.dsn)
        app, tasks["process"] = slow_tasks.app, slow_tasks.quick_process
    for level, number in ((logging.INFO, 0), (logging.DEBUG, 1)):
        caplog.clear()
        job = (await tasks[how].aenqueue()).id
        with caplog.at_level(level, "pgqueue.job"):
            await drain(app)
        found = lines(caplog)
        assert len(found) == number
    assert found[0].levelname == "DEBUG"
    assert f"job {job} ({tasks[how].name}, queue default) attempt 1 of " in found[0].message
    assert ": succeeded in 0." in found[0].message
    await app.aclose()


@pytest.mark.parametrize(
    ("how", "level", "outcome", "says"),
    [
        ("raise", "WARNING", "retry", "attempt 1 of 2: retry in 12 s: TimeoutError: no answer"),
        ("snooze", "INFO", "snooze", "UTC: Snooze: the shop is closed"),
        ("dead", "ERROR", "dead", "attempt 1 of 2: dead, see pgqueue job {id}: Dead: no such"),
        ("cancel", "INFO", "cancelled", "attempt 1 of 2: cancelled: Cancel: not wanted"),
    ],
)
async def test_a_line_says_what_happens_next(
    app: App, order: Any, caplog: pytest.LogCaptureFixture,
    how: str, level: str, outcome: str, says: str,
) -> None:  # fmt: skip
    job_id = (await order.aenqueue(how, "hunter2")).id
    with caplog.at_level(logging.INFO, "pgqueue.job"):
        await drain(app)
    (line,) = lines(caplog)
    assert line.levelname == level
    assert line.message.startswith(f"job {job_id} (order, queue mail) attempt 1 of 2: ")
    assert says.format(id=job_id) in line.message
    assert ("snoozed until 2" in line.message) == (how == "snooze")
    assert "second line" not in line.message
    assert "hunter2" not in line.message
    assert ("[redacted]" in line.message) == (how == "raise")
    entry = json.loads(JsonLines().format(line))
    assert {name: entry[name] for name in ("job", "task", "queue", "attempt", "outcome")} == {
        "job": job_id, "task": "order", "queue": "mail", "attempt": 1, "outcome": outcome,
    }  # fmt: skip


async def test_the_last_attempt_is_an_error(
    app: App, order: Any, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await order.aenqueue("raise")
    await drain(app)
    make_due(conn)
    await drain(app)
    first, last = lines(caplog)
    assert (first.levelname, last.levelname) == ("WARNING", "ERROR")
    assert "attempt 2 of 2: dead, see pgqueue job" in last.message
    recorded = conn.execute("select outcome from pgqueue.attempts order by attempt").fetchall()
    assert recorded == [("retry",), ("dead",)]


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)


@pytest.mark.parametrize(
    ("processes", "says"), [("1", "waiting for 1 job;"), ("2", "waiting for the jobs that run;")]
)
def test_ctrl_c_on_a_terminal(
    dsn: str, conn: psycopg.Connection, terminal: tuple[int, int], processes: str, says: str
) -> None:
    ours, theirs = terminal
    conn.execute("create table notes (pid int, job bigint, text text)")
    conn.execute("select pgqueue.enqueue('wait')")
    worker = subprocess.Popen(
        [sys.executable, "-m", "pgqueue", "work", "--app", "tests.worker.apps:app",
         "--workers", processes, "--log-level", "critical"],
        stderr=theirs, env={**os.environ, "PGQUEUE_DSN": dsn}, start_new_session=True,
        preexec_fn=heed_interrupts,
    )  # fmt: skip
    os.close(theirs)
    with ending(worker):
        _interrupt_twice(worker, conn, ours, says)


@contextmanager
def ending(worker: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        worker.kill()
        worker.wait(30)


def _interrupt_twice(
    worker: subprocess.Popen[bytes], conn: psycopg.Connection, ours: int, says: str
) -> None:
    eventually(lambda: conn.execute("select from notes").fetchone() is not None)
    worker.send_signal(signal.SIGINT)
    seen = ""
    while "Ctrl-C again to stop now" not in seen:
        seen += os.read(ours, 1000).decode()
    assert says in seen
    assert worker.poll() is None  # it waits for its job

    os.set_blocking(ours, False)

    def interrupted() -> bool:
        with suppress(BlockingIOError):
            os.read(ours, 65536)  # a terminal that nobody reads holds up who writes to it
        if conn.execute("select from pgqueue.attempts").fetchone() is not None:
            return True
        worker.send_signal(signal.SIGINT)  # again, for two at once reach a process as one
        return False

    eventually(interrupted)
    assert worker.wait(30) == 0
