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


@app.task(run="process", name="double", result=True)
def double(number: int) -> int:
    return number * 2


@app.task(run="process", name="waits", max_retries=5)
def waits() -> int:
    return double.enqueue(1).result("1h")


@app.task(run="process", name="parent", result=True)
def parent(ctx: Context) -> list[int]:
    def enqueue() -> list[int]:
        return [double.enqueue(number).id for number in (1, 2)]

    handles = [app.handle(each, double) for each in ctx.step("children", enqueue)]
    return ctx.gather(*handles)
