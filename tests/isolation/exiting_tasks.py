"""Tasks that try to end the worker; its database is PGQUEUE_DSN."""

from __future__ import annotations

import asyncio
from typing import Any

from pgqueue import App, Context, Ended

app = App()
KINDS: dict[str, type[BaseException]] = {
    "SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt, "GeneratorExit": GeneratorExit,
}  # fmt: skip


def now(how: str) -> None:
    raise KINDS[how]("why")


async def soon(how: str) -> None:
    await asyncio.sleep(0)
    now(how)


async def child(how: str) -> None:
    await asyncio.create_task(soon(how))


async def group(how: str) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(soon(how))
        tasks.create_task(asyncio.sleep(60))


WAYS: dict[str, Any] = {"soon": soon, "child": child, "group": group}


@app.task(name="bad", max_retries=0)
async def bad(way: str, how: str) -> None:
    await WAYS[way](how)


@app.task(name="stray")
async def stray(how: str) -> None:
    """In a callback and in a task that nobody awaits."""
    loop = asyncio.get_running_loop()
    loop.call_soon(now, how)
    task = asyncio.create_task(soon(how))
    await asyncio.wait([task])
    task.exception()


@app.task(name="stops")
async def stops() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)
    asyncio.get_running_loop().stop()


@app.task(name="cancels")
async def cancels(itself: bool) -> None:
    for task in asyncio.all_tasks() - (set() if itself else {asyncio.current_task()}):
        task.cancel()
    await asyncio.sleep(0)


@app.task(name="innocent")
async def innocent(ctx: Context) -> None:
    async with app.connections.aio() as connection:
        while await connection.fetchval("select to_regclass('public.go') is null"):
            await asyncio.sleep(0.02)


@app.on_dead
def sync_hook(ended: Ended) -> None:
    raise SystemExit


@app.on_dead
async def async_hook(ended: Ended) -> None:
    await child("KeyboardInterrupt")


@app.on_success
async def another(ended: Ended) -> None:
    raise SystemExit
