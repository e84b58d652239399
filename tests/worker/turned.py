"""A task that takes a turn of its process, as its worker does."""

from __future__ import annotations

from pgqueue import App
from pgqueue.worker.turns import of_process

app = App()


@app.task(name="places", result=True)
async def places() -> tuple[int, bool]:
    """How many there are, and whether it has one."""
    async with of_process().turn():
        return of_process().places, bool(of_process()._mine)
