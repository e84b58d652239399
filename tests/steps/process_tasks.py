"""Process tasks with steps, for workers of their own."""

from __future__ import annotations

import time
from typing import Any

import psycopg

from pgqueue import App, Context

app = App()


def note(dsn: str) -> int:
    """Fails twice: first late at a check, then with an error of its own."""
    with psycopg.connect(dsn) as connection:
        connection.execute("create table if not exists tries (n integer)")
        row: Any = connection.execute("select count(*) from tries").fetchone()
        connection.execute("insert into tries values (1)")
    return int(row[0])


@app.task(run="process", name="retried", max_retries=0)
def retried(ctx: Context, number: int) -> None:
    def step() -> int:
        before = note(app.dsn)
        while before == 0:
            ctx.check()
            time.sleep(0.005)
        if before == 1:
            raise ConnectionError("no answer")
        return number

    options = ctx.with_options(max_retries=2, backoff=0, timeout=0.5)
    assert options.step("s", step) == number
