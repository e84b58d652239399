"""Tasks that leave memory behind, and a ledger of their runs."""

from __future__ import annotations

import os

from pgqueue import App, Context

app = App()
kept: list[bytearray] = []


@app.task(name="leak")
def leak(ctx: Context, megabytes: int) -> None:
    kept.append(bytearray(os.urandom(1) * (megabytes * 10**6)))
    with app.connections.sync() as conn:  # not in the completion's transaction: a repeat would show
        conn.execute("insert into ledger (job, pid) values (%s, %s)", (ctx.id, os.getpid()))
