"""Settings of queues: declared in code, changed at run time, looked at."""

from __future__ import annotations

import psycopg
import pytest

from pgqueue import App, ConfigError
from pgqueue.queues import FOREVER
from tests.cli.support import Cli
from tests.support import drain


async def test_declared_in_code_and_changed_at_run_time(app: App, conn: psycopg.Connection) -> None:
    app.queue("mail", limit=3, max_pending=10, keep_dead="30d", max_retries=4)
    await drain(app)
    [row] = app.client.queues()
    assert (row.name, row.declared) == ("mail", True)
    assert row.settings.as_dict() == {
        "max_running": 3, "max_pending": 10, "keep_dead": 30 * 86_400.0, "max_retries": 4,
    }  # fmt: skip
    app.client.set_queue("mail", max_pending=20, keep_dead=None, keep_succeeded="forever")
    await drain(app)
    [row] = await app.aclient.queues()
    assert row.settings.as_dict() == {
        "max_running": 3, "max_pending": 20, "keep_succeeded": FOREVER, "max_retries": 4,
    }  # fmt: skip
    app.queue("mail", limit=3, max_pending=11)
    conn.execute("update pgqueue.queues set declared_at = declared_at - interval '1 min'")
    await drain(app)
    [row] = app.client.queues()
    assert row.settings.as_dict() == {
        "max_running": 3,
        "max_pending": 11,
        "keep_succeeded": FOREVER,
    }
    assert set(row.by_hand) == {"keep_succeeded"}


def test_all_queues_can_only_be_paused(conn: psycopg.Connection) -> None:
    for column, value in {
        "max_pending": 1, "keep_succeeded": "1 day", "keep_dead": "1 day", "keep_cancelled": "1 day", "priority": 1,
        "max_retries": 1, "backoff": "{}", "expires": "1 day", "timeout": "1 day",
    }.items():  # fmt: skip
        with pytest.raises(psycopg.errors.CheckViolation, match="queues_all"):
            conn.execute(
                f"insert into pgqueue.queues (name, {column}) values ('*', '{value}')".encode()
            )


@pytest.mark.parametrize(
    ("column", "value"),
    [("max_pending", "0"), ("keep_dead", "-1 s"), ("keep_succeeded", "1001 years"), ("keep_cancelled", "-1 s"),
     ("max_retries", "-1"), ("max_retries", "1001"), ("backoff", '{"base": -1}'), ("backoff", '{"bass": 1}'), ("expires", "-1 s"),
     ("timeout", "0 s")],
)  # fmt: skip
def test_the_table_refuses(conn: psycopg.Connection, column: str, value: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        conn.execute(
            f"insert into pgqueue.queues (name, {column}) values ('q', '{value}')".encode()
        )


def test_refused(app: App) -> None:
    for given, why in {
        "keep_dead": "keep_dead must be from 0 to 365 days", "timeout": "timeout must be",
        "backoff": "backoff must be", "max_retries": "max_retries must be",
        "limit": "limit must be", "rate": "a rate must be",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=why):
            app.client.set_queue("mail", **{given: -1})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="burst goes with rate="):
        app.queue("mail", burst=3)
    with pytest.raises(TypeError, match="no setting 'colour'"):
        app.client.set_queue("mail", colour=1)  # type: ignore[call-arg]
    assert app.client.queues() == []


def test_commands(app: App, dsn: str) -> None:
    cli = Cli(dsn)
    assert cli("queues").stdout == "no queue has settings\n"
    assert cli("queue", "mail").stdout == "queue mail has no settings of its own\n"
    done = cli(
        "queue", "mail", "--max-pending", "1000", "--keep-succeeded", "1h30m", "--keep-dead", "forever",
        "--max-retries", "0", "--backoff", "5s", "--rate", "100/min", "--timeout", "30s",
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "rate: 1.67/s", "max_pending: 1,000", "keep_succeeded: 1h30m", "keep_dead: forever", "max_retries: 0",
        "backoff: 5s, then times 2 up to 1h", "timeout: 30s", "state: open",
    ]  # fmt: skip
    assert 'app.queue("mail")' in done.stderr
    cli("queue", "mail", "--keep-dead", "default", "--rate", "default", "--backoff", "default")
    assert cli.json("queue", "mail")["queue"]["settings"]["keep_dead"] is None
    listed = cli("queues").stdout
    assert "1,000" in listed
    assert "max_retries 0; timeout 30s" in listed
    assert [row["name"] for row in cli.json("queues")] == ["mail"]
    wrong = cli("queue", "mail", "--max-pending", "many", code=2)
    assert "--max-pending takes a whole number or default, got 'many'" in wrong.stderr
    assert "keep_dead must look like" in cli("queue", "mail", "--keep-dead", "long", code=2).stderr
