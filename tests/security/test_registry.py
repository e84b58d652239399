"""A row names a task of the registry or nothing: no name in a row is imported or called."""

from __future__ import annotations

import sys

import psycopg
import pytest

from pgqueue import App
from tests.security import process_apps
from tests.support import drain

BOMB = "tests.security.unregistered"
NAMES = [
    "os.system", "os:system", "builtins.eval", "builtins.exec", "subprocess.run", "__import__",
    f"{BOMB}.explode", f"{BOMB}:explode", f"{BOMB}", "tests.security.apps.plain", "pgqueue.schema.downgrade",
    "../../unregistered", "imported.__globals__",
]  # fmt: skip


@pytest.fixture
def rows(conn: psycopg.Connection) -> psycopg.Connection:
    for name in NAMES:
        conn.execute('select pgqueue.enqueue(%s, \'{"command": "touch hacked"}\')', [name])
    return conn


def assert_left_alone(conn: psycopg.Connection) -> None:
    assert BOMB not in sys.modules
    found = conn.execute(
        "select task, status, attempt, last_error from pgqueue.jobs where task = any(%s) order by id",
        [NAMES],
    ).fetchall()
    assert found == [(name, "pending", 0, None) for name in NAMES]
    assert conn.execute("select count(*) from pgqueue.attempts").fetchone() == (0,)


async def test_nothing_is_imported_for_a_row(rows: psycopg.Connection, app: App) -> None:
    @app.task(name="known")
    async def known() -> None: ...

    await known.aenqueue()
    await drain(app)
    assert_left_alone(rows)


async def test_nor_in_a_process(rows: psycopg.Connection, dsn: str) -> None:
    app = process_apps.app
    app.use(dsn=dsn)
    process_apps.imported.enqueue()
    await drain(app, processes=1)
    assert_left_alone(rows)
    modules = {row[0] for row in rows.execute("select module from imported").fetchall()}
    assert "tests.security.process_apps" in modules
    assert BOMB not in modules
    await app.aclose()
