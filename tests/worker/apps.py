"""An app for worker processes of the tests; its database is PGQUEUE_DSN."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from pgqueue import App, Context, Ended, Worker

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


@app.task(name="nap_process", run="process")
def nap_process(ctx: Context, seconds: float) -> None:
    with app.connections.sync() as conn:
        conn.execute("insert into notes (pid, job, text) values (0, 0, 'start')")
    time.sleep(seconds)


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


@app.task(name="blocks")
async def blocks(ctx: Context) -> None:
    await note.function(ctx, "start")
    time.sleep(3600)


@app.task(name="hangs_in_thread")
async def hangs_in_thread(ctx: Context) -> None:
    await note.function(ctx, "start")
    await asyncio.to_thread(time.sleep, 3600)


@app.task(name="swallows")
async def swallows(ctx: Context) -> None:
    await note.function(ctx, "start")
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


@app.task(name="deaf_process", run="process")
def deaf_process(ctx: Context) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with app.connections.sync() as conn:
        conn.execute("insert into notes (pid, job, text) values (0, 0, 'start')")
    time.sleep(3600)


if os.environ.get("TESTS_HOOKS_HANG"):

    @app.on_success
    def hang(ended: Ended) -> None:
        time.sleep(3600)


if os.environ.get("TESTS_RESOURCE_HANGS"):

    @app.resource
    async def never_closed() -> AsyncIterator[Path]:
        if os.environ["TESTS_RESOURCE_HANGS"] == "open":
            await asyncio.Event().wait()
        yield Path()
        await asyncio.Event().wait()


if __name__ == "__main__":  # a program that runs a worker, and is to end after it
    Worker(app, concurrency=12, grace=0.2).run()
