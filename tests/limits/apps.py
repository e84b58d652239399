"""Run by several worker processes: tasks that write down when they started and ended."""

from __future__ import annotations

import asyncio

from pgqueue import App, Context

app = App()


async def _noted(ctx: Context, key: str, seconds: float) -> None:
    async with app.connections.aio() as conn:
        await conn.execute("insert into spans (job, key) values ($1, $2)", ctx.id, key)
        await asyncio.sleep(seconds)
        await conn.execute("update spans set ended = clock_timestamp() where job = $1", ctx.id)


@app.task(name="per_key", queue="limited", limit=2, per="key")
async def per_key(ctx: Context, key: str, seconds: float = 0.01) -> None:
    await _noted(ctx, key, seconds)


@app.task(name="per_task", queue="limited", limit=3)
async def per_task(ctx: Context, key: str, seconds: float = 0.01) -> None:
    await _noted(ctx, key, seconds)


@app.task(name="in_queue", queue="narrow")
async def in_queue(ctx: Context, key: str, seconds: float = 0.01) -> None:
    await _noted(ctx, key, seconds)


app.queue("narrow", limit=4)
