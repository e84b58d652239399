"""The load: every kind of task and of ending."""

from __future__ import annotations

import asyncio
import os
import random
import threading

from pgqueue import App, Context, Retry, Snooze

app = App()


@app.task(name="quick", queue="soak")
async def quick(number: int) -> None: ...


@app.task(name="threaded", queue="soak")
def threaded(number: int) -> None: ...


@app.task(name="processed", queue="soak", run="process")
def processed(number: int) -> None: ...


@app.task(name="failing", queue="soak", max_retries=2, backoff=0.1)
def failing(number: int) -> None:
    raise ValueError(number)


@app.task(name="steered", queue="soak", max_retries=1)
async def steered(ctx: Context, number: int) -> None:
    if random.random() < 0.5:  # a snooze uses no attempt: decided by the attempt it would not end
        raise Snooze(0.1)
    if ctx.attempt == 1:
        raise Retry(after=0.1)


@app.task(name="late", queue="soak", max_retries=0, timeout=0.05)
async def late(number: int) -> None:
    await asyncio.Event().wait()


@app.task(name="written", queue="soak")
async def written(ctx: Context, number: int) -> None:
    async with ctx.transaction() as conn:
        await conn.execute("select 1")


@app.task(name="probe", queue="soak", priority=9)
async def probe() -> None:
    """Tell what only the worker itself knows."""
    async with app.connections.aio() as conn:
        await conn.execute(
            "insert into probes (pid, tasks, threads) values ($1, $2, $3)",
            os.getpid(), len(asyncio.all_tasks()), threading.active_count(),
        )  # fmt: skip


MIX = (
    [quick] * 70
    + [threaded] * 10
    + [written] * 8
    + [failing] * 5
    + [steered] * 5
    + [late, processed]
)
