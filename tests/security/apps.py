"""An app whose worker runs under the worker role; its database is PGQUEUE_DSN."""

from __future__ import annotations

from pgqueue import App, Backoff, Context, Snooze

app = App()


@app.task(name="plain")
async def plain(number: int) -> None: ...


@app.task(name="fails_once", max_retries=1, backoff=Backoff.constant("0s"))
def fails_once(ctx: Context) -> None:
    if ctx.attempt == 1:
        raise ValueError("once")


@app.task(name="gives_up", max_retries=0)
def gives_up() -> None:
    raise ValueError("for good")


@app.task(name="snoozes_once", max_retries=0)
async def snoozes_once(ctx: Context) -> None:
    async with app.connections.aio() as conn:
        if (
            await conn.fetchval("select count(*) from pgqueue.attempts where job_id = $1", ctx.id)
            == 0
        ):
            raise Snooze(0, "not yet")


@app.task(name="with_effect")
async def with_effect(ctx: Context) -> None:
    async with ctx.transaction() as conn:
        await conn.execute("insert into effects (job) values ($1)", ctx.id)
        await plain.on(conn).aenqueue(7)


@app.task(name="in_process", run="process")
def in_process(ctx: Context) -> None:
    with ctx.transaction() as conn:
        conn.execute("insert into effects (job) values (%s)", (ctx.id,))
