"""A process task that tells what its process has imported."""

from __future__ import annotations

import sys

from pgqueue import App, Context

app = App("")


@app.task(name="imported", run="process")
def imported(ctx: Context) -> None:
    with ctx.transaction() as conn:
        conn.execute(
            "create table imported as select unnest(%s::text[]) as module", (list(sys.modules),)
        )
