"""Tasks that fail in a process of the pool."""

from __future__ import annotations

from pgqueue import App

app = App("")


@app.task(name="fails", run="process", max_retries=0)
def fails() -> None:
    raise ValueError("here")


@app.task(name="fails_later", run="process", max_retries=0)
def fails_later() -> object:
    async def later() -> None:
        raise ValueError("here")

    return later()
