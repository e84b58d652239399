"""Helpers of the tests: no fixtures."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg

from pgqueue import App, Worker
from pgqueue.operations import Operation, maintenance
from pgqueue.worker.runtime import Runtime


def eventually(condition: Callable[[], Any], *, timeout: float = 20.0) -> Any:
    """Wait for a condition to hold; return its value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never came true: {condition}"
        time.sleep(0.01)
    return value


async def eventually_async(condition: Callable[[], Any], *, timeout: float = 20.0) -> Any:
    """The same on a running event loop; the condition may be async."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"never came true: {condition}"
        await asyncio.sleep(0.01)


async def drain(app: App, **settings: Any) -> None:
    """Run a worker until nothing is due."""
    settings.setdefault("concurrency", 10)
    await Worker(app, settings.pop("queues", None), drain=True, **settings).arun()


@asynccontextmanager
async def working(app: App, queues: Any = None, **settings: Any) -> AsyncIterator[Runtime]:
    """A worker in this event loop for the length of the block, which gets its insides."""
    worker = Worker(app, queues, **settings)
    task = asyncio.create_task(worker.arun())
    try:
        yield await eventually_async(lambda: task.done() or worker._runtime)
    finally:
        worker.stop()
        worker.stop()
        async with asyncio.timeout(30):
            await task


def set_schema_version(conn: psycopg.Connection, version: int, serves: int) -> None:
    """Let the schema say that it has another version."""
    conn.execute(
        "create or replace function pgqueue.schema_version(out version integer, out serves integer)"
        f" language sql immutable as 'select {version}, {serves}'".encode()
    )


def insert(conn: psycopg.Connection[Any], count: int, **columns: str) -> list[int]:
    """Insert jobs of the task t; each column is an SQL expression of i. Returns their ids."""
    names = ", ".join(["task", *columns])
    values = ", ".join(["'t'", *columns.values()])
    rows = conn.execute(
        f"insert into pgqueue.jobs ({names}) select {values} from generate_series(1, {count}) i returning id".encode()
    )
    return sorted(row[0] for row in rows.fetchall())


def statuses(conn: psycopg.Connection) -> dict[int, str]:
    """The status of every job by id."""
    return dict(conn.execute("select id, status from pgqueue.jobs order by id").fetchall())  # type: ignore[arg-type]


def alive(worker: UUID, **more: Any) -> Operation[None]:
    """A worker says that it is there."""
    said: dict[str, Any] = {
        "host": "h", "pid": 1, "version": "1", "queues": None, "tasks": [], "declares": [], "declarations": [], "state": "running",
        "lease": 60.0, "forget": 300.0, **more,
    }  # fmt: skip
    return maintenance.worker_seen(worker, **said)


def with_password(conn: psycopg.Connection) -> str:
    """For ``create role``: the password of the connection's own role, so that its DSN fits with another user."""
    row = conn.execute("select rolpassword from pg_authid where rolname = current_user").fetchone()
    return "" if row is None or row[0] is None else f"password '{row[0]}'"


def make_due(conn: psycopg.Connection) -> None:
    """Let what waits for a retry be due now: tests age rows, they do not wait."""
    conn.execute("update pgqueue.jobs set run_at = clock_timestamp() where status = 'pending'")


def heed_interrupts() -> None:
    """For ``preexec_fn``: shells start background commands deaf to SIGINT, nohup to SIGHUP, and so their children."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
