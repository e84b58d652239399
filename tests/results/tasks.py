"""Tasks of a process of their own, which pickles what they return."""

from __future__ import annotations

import threading
import time

from pgqueue import App, Context

app = App()


@app.task(name="in_process", run="process", result=True)
def in_process(ctx: Context, number: int) -> int:
    ctx.log.info("got %d", number)
    return number * 2


@app.task(name="slow_process", run="process")
def slow_process(ctx: Context, seconds: float) -> None:
    ends = time.monotonic() + seconds
    done = 0
    while time.monotonic() < ends:
        ctx.progress(done, None, "burning")
        done += 1


@app.task(name="fails_in_process", run="process", max_retries=0)
def fails_in_process(ctx: Context) -> None:
    ctx.log.warning("about to fail")
    raise ValueError("as told")


@app.task(name="tellers", run="process", result=True)
def tellers() -> list[int | None]:
    """The threads of this process that write progress."""
    return [each.native_id for each in threading.enumerate() if each.name == "pgqueue-progress"]
