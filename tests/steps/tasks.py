"""A handler with every kind of step, for workers that are killed."""

from __future__ import annotations

from typing import Any

from pgqueue import App, Context

app = App()


async def write(connection: Any, what: str) -> str:
    await connection.execute("insert into effects values ($1)", what)
    return what


async def number() -> int:
    return 3


@app.task(name="durable", max_retries=20, backoff=0)
async def durable(ctx: Context) -> None:
    assert await ctx.step("number", number) == 3
    assert await ctx.transaction_step("first", write, "first") == "first"
    await ctx.sleep(0.02)
    assert await ctx.transaction_step("second", write, "second") == "second"
    assert await ctx.wait_for_event("go") == "now"
    async with ctx.transaction() as connection:
        await write(connection, "last")
