"""Process tasks that change what they run in; the database is given by ``app.use``."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextvars import ContextVar
from typing import Any

import psycopg

from pgqueue import App, Context, Ended

app = App("postgresql:///nowhere")
V: ContextVar[str] = ContextVar("V", default="nobody")


@app.task(name="set_and_tell", run="process", result=True)
def set_and_tell(value: str) -> str:
    before = V.get()
    V.set(value)
    return before


@app.task(name="exits", run="process", max_retries=0)
def exits(how: str) -> None:
    raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt,
           "GeneratorExit": GeneratorExit}[how]("why")  # fmt: skip


@app.task(name="good", run="process", result=True)
def good() -> str:
    return "good"


async def _work(ctx: Context, text: str) -> str:
    await asyncio.sleep(0)
    if text == "fail":
        raise ValueError("in the coroutine")
    async with ctx.transaction() as connection:
        await connection.execute("select 1")
    return f"{text} in {ctx.task}"


@app.task(name="gives_a_coroutine", run="process", result=True, max_retries=0)
def gives_a_coroutine(ctx: Context, text: str) -> Any:
    return _work(ctx, text)


@app.task(name="gives_a_generator", run="process", max_retries=3)
def gives_a_generator() -> Any:
    return (number for number in range(3))


class Big:
    """Stands for 20 MB."""


_made: list[weakref.ref[Big]] = []


@app.task(name="fails_big", run="process", max_retries=0)
def fails_big() -> None:
    gc.collect()
    gc.disable()
    big = Big()
    _made.append(weakref.ref(big))
    try:
        raise ValueError(f"{big}")
    except ValueError as error:
        kept = error  # noqa: F841
        raise


@app.task(name="count_big", run="process", result=True)
def count_big() -> list[int]:
    """How many were made in this process, and how many are left."""
    return [len(_made), sum(each() is not None for each in _made)]


heard: list[int] = []


@app.task(name="completes", run="process", max_retries=3)
def completes(ctx: Context, how: str, dsn: str) -> None:
    if how == "roll back":
        with psycopg.connect(dsn) as connection, connection.transaction(force_rollback=True):
            ctx.complete(connection)
        return
    with ctx.transaction() as connection:
        connection.execute("select 1")
    if how == "raise":
        raise ValueError("after it")


@app.on_success(completes)
def success(ended: Ended) -> None:
    heard.append(ended.job_id)
