"""Run by the code of this version and of the one before it: tasks with an effect, and a producer."""

from __future__ import annotations

import select
import sys
import time

from pgqueue import App, Backoff, Context

app = App()
MOST_WAITING = 200


@app.task(name="effect")
async def effect(ctx: Context) -> None:
    async with ctx.transaction() as conn:
        await conn.execute("insert into effects (job) values ($1)", ctx.id)


@app.task(name="effect_at_last", backoff=Backoff.constant("0s"))
def effect_at_last(ctx: Context) -> None:
    if ctx.attempt == 1:
        raise ValueError("again")
    with ctx.transaction() as conn:
        conn.execute("insert into effects (job) values (%s)", (ctx.id,))


def produce() -> int:
    """Enqueue in every way until stdin says stop; returns how many jobs it was."""
    count = 0
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        if sum(queue.due for queue in app.client.stats()) > MOST_WAITING:
            continue
        with app.connections.sync() as conn, conn.transaction():
            effect.on(conn).enqueue()
            conn.execute("select pgqueue.enqueue('effect', '{}', delay => '10 milliseconds')")
        app.enqueue_many([effect.call()] * 5 + [effect_at_last.call()])
        count += 8
        time.sleep(0)
    return count


if __name__ == "__main__":
    print("ready", flush=True)
    print(produce())
    app.close()
