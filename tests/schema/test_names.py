"""The table takes proper names of queues and tasks only, and asks where they are written only."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql as psql

LEGAL = "insert into pgqueue.jobs (task, queue) values ('t', 'q')"


@pytest.mark.parametrize(
    ("column", "name", "stored"),
    [("queue", "a", True), ("queue", "A-z_0.9:", True), ("queue", "q" * 64, True), ("queue", "", False),
     ("queue", "q" * 65, False), ("queue", "a b", False), ("queue", "a\n", False), ("queue", "é", False),
     ("queue", "a/b", False), ("task", "t" * 200, True), ("task", "é b", True), ("task", "", False),
     ("task", "t" * 201, False)],
)  # fmt: skip
@pytest.mark.parametrize("statement", ["insert", "update"])
def test_the_table_takes_proper_names_only(
    conn: psycopg.Connection, statement: str, column: str, name: str, stored: bool
) -> None:
    conn.execute(LEGAL)

    def write() -> None:
        if statement == "insert":
            values = {"task": "t", "queue": "q", column: name}
            conn.execute(
                "insert into pgqueue.jobs (task, queue) values (%(task)s, %(queue)s)", values
            )
        else:
            conn.execute(
                psql.SQL("update pgqueue.jobs set {} = %s").format(psql.Identifier(column)), [name]
            )

    if stored:
        write()
    else:
        with pytest.raises(
            psycopg.errors.CheckViolation, match=f"jobs_{column}.*\nHINT: +The name of"
        ):
            write()


def test_names_are_looked_at_where_they_are_written_only(conn: psycopg.Connection) -> None:
    """Each update of claims and completions would parse them anew."""
    rows = conn.execute(
        "select conname from pg_constraint where conrelid = 'pgqueue.jobs'::regclass and contype = 'c'"
    ).fetchall()
    assert rows == [("jobs_status",)]
