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


def chat(ctx: Context, lines: int) -> None:
    for _ in range(lines):
        ctx.log.warning("x" * 100)


@app.task(name="chatty")
async def chatty(ctx: Context, lines: int) -> None:
    chat(ctx, lines)


@app.task(name="chatty_thread")
def chatty_thread(ctx: Context, lines: int) -> None:
    chat(ctx, lines)


@app.task(name="chatty_process", run="process")
def chatty_process(ctx: Context, lines: int) -> None:
    chat(ctx, lines)


def speak(ctx: Context) -> None:
    ctx.log.debug("a debug line")
    ctx.log.info("an info")
    ctx.log.warning("a warning")
    ctx.log.error("an error")


@app.task(name="levels")
async def levels(ctx: Context) -> None:
    speak(ctx)


@app.task(name="levels_thread")
def levels_thread(ctx: Context) -> None:
    speak(ctx)


@app.task(name="levels_process", run="process")
def levels_process(ctx: Context) -> None:
    speak(ctx)
