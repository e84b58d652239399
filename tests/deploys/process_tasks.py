"""Tasks for the process pool: children import them by module."""

from __future__ import annotations

from pgqueue import App, Context

app = App("")


@app.task(name="measured", run="process")
def measured(text: str) -> None:
    assert text


@app.task(name="note_key", run="process")
def note_key(ctx: Context) -> None:
    with ctx.transaction() as conn:
        conn.execute("insert into keys values (%s, %s)", (ctx.id, ctx.idempotency_key))


@app.task(name="note_key_here")
def note_key_here(ctx: Context) -> None:
    with ctx.transaction() as conn:
        conn.execute("insert into keys values (%s, %s)", (ctx.id, ctx.idempotency_key))
