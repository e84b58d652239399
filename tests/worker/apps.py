"""An app for worker processes of the tests; its database is PGQUEUE_DSN."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from pgqueue import App, Context

app = App()


@app.task(name="note")
async def note(ctx: Context, text: str) -> None:
    async with app.connections.aio() as conn:
        await conn.execute("insert into notes (pid, job, text) values ($1, $2, $3)",
                           os.getpid(), ctx.id, text)  # fmt: skip


@app.task(name="die_once")
async def die_once(ctx: Context) -> None:
    if ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="wait")
async def wait(ctx: Context) -> None:
    await note.function(ctx, "start")
    await asyncio.Event().wait()


@app.task(name="nap")
async def nap(ctx: Context, seconds: float) -> None:
    await note.function(ctx, "start")
    await asyncio.sleep(seconds)
    await note.function(ctx, "end")


@app.task(name="stubborn")
def stubborn() -> None:
    with app.connections.sync() as conn:
        conn.execute("insert into notes (pid, job, text) values (0, 0, 'start')")
    while True:
        time.sleep(1)
