"""The worker's log: levels hold, and a stderr that nobody reads stops nothing."""

from __future__ import annotations

import io
import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context
from pgqueue.worker import logs
from pgqueue.worker.logs import Descriptor, Queued
from tests.processes import Workers
from tests.support import drain, eventually, statuses
from tests.worker import apps


@pytest.fixture
def workers(dsn: str, conn: psycopg.Connection) -> Iterator[Workers]:
    conn.execute("create table notes (pid int, job bigint, text text)")
    apps.app.use(dsn=dsn)
    started = Workers(dsn)
    yield started
    started.end()
    apps.app.close()


@pytest.mark.parametrize(
    ("task", "options"),
    [
        (apps.chatty, []),
        (apps.chatty_thread, ["--workers", "2"]),
        (apps.chatty_process, ["--log-format", "json"]),
    ],
    ids=["async", "thread-supervised", "process-json"],
)
def test_a_stderr_that_nobody_reads_stops_neither_jobs_nor_sigterm(
    workers: Workers, conn: psycopg.Connection, task: Any, options: list[str]
) -> None:
    talking = [task.enqueue(2_000).id for _ in range(3)]
    process = workers.start(*options)
    after = apps.note.enqueue("after").id
    eventually(lambda: {statuses(conn)[i] for i in (*talking, after)} == {"succeeded"})
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def record(text: str = "x", level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("pgqueue.job", level, "f", 1, "%s", (text,), None)


def test_what_does_not_fit_is_counted_and_said() -> None:
    reading, writing = os.pipe()
    queued = Queued(logging.StreamHandler(Descriptor(writing, "utf-8")), most=10)
    os.close(writing)
    for number in range(100):
        queued.emit(record(f"{number} " + "x" * 10_000))
    eventually(lambda: queued._dropped > 0)
    dropped = queued._dropped
    assert dropped <= 90
    text = ""
    while f"{dropped} log lines were left out" not in text:
        text += os.read(reading, 65536).decode()
    os.close(reading)


def test_a_handler_that_closes_stderr_closes_not_ours(capfd: Any) -> None:
    with os.fdopen(os.dup(2), "w", encoding="utf-8") as stderr:
        ours = logs.stream(stderr)
    queued = Queued(logging.StreamHandler(ours))
    queued.emit(record("still said"))
    queued.flush()
    assert "still said" in capfd.readouterr().err


def test_a_line_holds_no_frames_and_nothing_of_its_thread() -> None:
    out = io.StringIO()
    sink = logging.StreamHandler(out)
    queued = Queued(sink)
    try:
        raise ValueError("with a traceback")
    except ValueError as error:
        queued.emit(logging.LogRecord("n", 40, "f", 1, "it is %s", ("so",), (ValueError, error, error.__traceback__)))  # fmt: skip
    queued.flush()
    assert "it is so" in out.getvalue()
    assert "ValueError: with a traceback" in out.getvalue()


@pytest.mark.parametrize(("level", "printed"), [("debug", 4), ("info", 3), ("error", 1)])
def test_ctx_log_holds_to_the_level_and_keeps_its_lines(
    workers: Workers, conn: psycopg.Connection, level: str, printed: int
) -> None:
    tasks = [apps.levels, apps.levels_thread, apps.levels_process]
    jobs = [task.enqueue().id for task in tasks]
    process = workers.start("--drain", "--log-level", level)
    _, log = process.communicate(timeout=30)
    lines = ["an error", "a warning", "an info", "a debug line"]
    for task, job in zip(tasks, jobs, strict=True):
        said = [f"pgqueue.job.{task.name}: {line}" in log for line in lines]
        assert said == [n < printed for n in range(4)]
        kept = apps.app.client.attempts(job)[0].log or ""
        assert [line in kept for line in lines] == [True, True, True, False]


async def test_the_level_of_one_task_is_its_loggers(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="quiet")
    async def quiet(ctx: Context) -> None:
        ctx.log.warning("not said")
        assert not ctx.log.isEnabledFor(logging.DEBUG)

    logger = logging.getLogger("pgqueue.job.quiet")
    logger.setLevel(logging.ERROR)
    job = quiet.enqueue().id
    await drain(app)
    logger.setLevel(logging.NOTSET)
    assert "not said" not in caplog.text
    assert "not said" in (app.client.attempts(job)[0].log or "")
