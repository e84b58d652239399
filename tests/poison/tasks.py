"""Poison for worker processes, and good jobs to put around it; the database is PGQUEUE_DSN."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from typing import Any

from pgqueue import App, Context
from pgqueue.task import Task
from tests.poison.errors import ERRORS

app = App()
AnyTask = Task[Any, Any]
let_go = threading.Event()


@app.task(name="good")
async def good(ctx: Context) -> None:
    async with ctx.transaction() as conn:
        await conn.execute("insert into ledger (job, pid) values ($1, $2)", ctx.id, os.getpid())


@app.task(name="good_thread")
def good_thread(ctx: Context) -> None:
    with ctx.transaction() as conn:
        conn.execute("insert into ledger (job, pid) values (%s, %s)", (ctx.id, os.getpid()))


@app.task(name="good_process", run="process")
def good_process(ctx: Context) -> None:
    good_thread.function(ctx)


def do(deed: str) -> None:
    """One of the ways to harm the process one runs in."""
    match deed:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(7)
        case "exit well":
            os._exit(0)
        case "memory":  # what the kernel does to a process over its limit, without a limit to set
            resource.setrlimit(resource.RLIMIT_AS, (2**32, resource.RLIM_INFINITY))
            bytearray(2**40)
        case "recursion":
            do("recursion")
        case "close_streams":
            sys.stdout.close()
            sys.stderr.close()
        case "signals":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        case "cwd":
            os.chdir("/")
        case "loop":
            while True:
                pass
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            threading.Event().wait()
        case _:
            raise ERRORS[deed]()


@app.task(name="bad_async", max_retries=5)
async def bad_async(deed: str) -> None:
    await asyncio.sleep(0)
    do(deed)


@app.task(name="bad_thread", max_retries=5)
def bad_thread(deed: str) -> None:
    do(deed)


@app.task(name="bad_process", run="process", max_retries=0)
def bad_process(deed: str) -> None:
    do(deed)


@app.task(name="loop_process", run="process", max_retries=0, timeout=0.5)
def loop_process(deed: str) -> None:
    do(deed)


@app.task(name="loop_thread", timeout=0.2, max_retries=1, backoff="100ms")
def loop_thread() -> None:
    while True:
        time.sleep(0.001)


@app.task(name="swallow", timeout=0.2, max_retries=1, backoff="100ms")
async def swallow() -> None:
    while not let_go.is_set():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue


@app.task(name="block")
async def block(ctx: Context, seconds: float) -> None:
    await good.function(ctx)
    time.sleep(seconds)


@app.task(name="signals_async")
async def signals_async() -> None:
    """In the main thread, the only one that may set signal handlers."""
    do("signals")


@app.task(name="orphan", run="process")
def orphan(ctx: Context) -> None:
    with app.connections.sync() as conn:
        conn.execute("insert into ledger (job, pid) values (%s, %s)", (ctx.id, os.getpid()))
    threading.Event().wait()


def nap() -> None:
    time.sleep(600)


def start_and_end(number: int) -> None:
    """Start children of this process, and end them by a signal."""
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=nap)
    child.start()
    assert child.pid is not None
    os.kill(child.pid, number)
    child.join()
    with fork.Pool(2) as pool:  # its end terminates the children
        assert pool.map(abs, [-1, -2]) == [1, 2]
    if (pid := os.fork()) == 0:
        try:
            nap()
        finally:
            os._exit(0)
    os.kill(pid, number)
    os.waitpid(pid, 0)


@app.task(name="children_thread")
def children_thread(ctx: Context, number: int) -> None:
    start_and_end(number)
    good_thread.function(ctx)


@app.task(name="children_async")
async def children_async(ctx: Context, number: int) -> None:
    start_and_end(number)
    await good.function(ctx)


@app.task(name="children_process", run="process")
def children_process(ctx: Context, number: int) -> None:
    start_and_end(number)
    good_thread.function(ctx)


@app.task(name="ends_its_worker", max_retries=5)
def ends_its_worker(ctx: Context, how: str) -> None:
    with app.connections.sync() as conn:
        conn.execute("insert into ledger (job, pid) values (%s, %s)", (-ctx.attempt, os.getpid()))
    if ctx.attempt > 1:
        return
    match how:
        case "exit":
            os._exit(0)
        case "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
        case "interrupt":
            os.kill(os.getpid(), signal.SIGINT)


@app.task(name="held")
async def held(ctx: Context) -> None:
    with app.connections.sync() as conn:
        conn.execute("insert into ledger (job, pid) values (%s, %s)", (-ctx.id, os.getpid()))
    await asyncio.Event().wait()
