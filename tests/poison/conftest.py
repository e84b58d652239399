"""The poison app on a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from pgqueue import App
from tests.poison import tasks
from tests.processes import Workers


@pytest.fixture
def ledger(conn: psycopg.Connection) -> psycopg.Connection:
    """Where good jobs write, in the transaction that completes them."""
    conn.execute("create table ledger (job bigint primary key, pid int)")
    return conn


@pytest.fixture
async def poison(dsn: str, ledger: psycopg.Connection) -> AsyncIterator[App]:
    """The app of ``tests.poison.tasks`` in this process."""
    tasks.app.use(dsn=dsn)
    yield tasks.app
    await tasks.app.aclose()


@pytest.fixture
def workers(dsn: str, ledger: psycopg.Connection) -> Iterator[Workers]:
    """Processes that run the app of ``tests.poison.tasks``."""
    tasks.app.use(dsn=dsn)
    started = Workers(dsn, "tests.poison.tasks:app")
    yield started
    started.end()
    tasks.app.close()
