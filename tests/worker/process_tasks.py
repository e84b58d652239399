"""Tasks for the process pool: children import them by module."""

from __future__ import annotations

import os
import threading

from pgqueue import App, Context, Dead

app = App("")


@app.task(name="note_pid", run="process")
def note_pid(ctx: Context) -> None:
    with ctx.transaction() as conn:
        conn.execute("create table noted (pid int)")
        conn.execute("insert into noted values (%s)", (os.getpid(),))


@app.task(name="die", run="process")
def die() -> None:
    os._exit(7)


@app.task(name="hang", run="process", timeout=1)
def hang() -> None:
    threading.Event().wait()


@app.task(name="refuse", run="process")
def refuse(reason: str) -> None:
    raise Dead(reason)
