"""Process tasks whose jobs add jobs to their workflow, for workers of their own."""

from __future__ import annotations

from pgqueue import App, Context

app = App()


@app.task(run="process", name="grows", max_retries=0)
def grows(ctx: Context, left: int) -> None:
    if left:
        flow = app.workflow_of(ctx)
        flow.add(grows.call(left - 1), after=flow.this)
        flow.enqueue()
