"""A worker that the server does not let in, or not do its work, says so once and ends."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.cli.support import Cli
from tests.support import with_password


@pytest.mark.parametrize("options", [[], ["--drain"]], ids=str)
@pytest.mark.parametrize("how", ["no such database", "no such role", "no rights"])
def test_it_does_not_say_that_it_keeps_trying(
    dsn: str, conn: psycopg.Connection, how: str, options: list[str]
) -> None:
    conn.execute(
        f"drop role if exists denied_worker; create role denied_worker login {with_password(conn)}".encode()
    )
    given = {"no such database": {"dbname": "nowhere"}, "no such role": {"user": "nobody_here"},
             "no rights": {"user": "denied_worker"}}[how]  # fmt: skip
    code = 1 if how == "no rights" else 3
    command = ["work", "--app", "tests.worker.apps:app", *options]
    said = Cli(make_conninfo(dsn, **given))(*command, code=code).stderr
    assert "will keep trying" not in said
    assert "pgqueue: " in said
    conn.execute("drop role denied_worker")
