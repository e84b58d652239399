"""Tasks of tests about waiting for a slot, a thread or a process; children import them by module."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from pgqueue import App, Context

app = App("")


def wait_for(gate: str) -> None:
    """Until the file is there."""
    while not Path(gate).exists():
        time.sleep(0.01)


@app.task(name="gated_process", run="process", max_retries=0)
def gated_process(gate: str) -> None:
    wait_for(gate)


@app.task(name="timed_process", run="process", timeout="2s", max_retries=0)
def timed_process(seconds: float) -> None:
    time.sleep(seconds)


@app.task(name="quick_process", run="process", max_retries=0)
def quick_process() -> None: ...


@app.task(name="gated", max_retries=0)
async def gated(gate: str) -> None:
    while not Path(gate).exists():
        await asyncio.sleep(0.01)


@app.task(name="quick", max_retries=0)
async def quick(ctx: Context) -> None: ...


@app.task(name="who", run="process", result=True)
def who() -> int:
    return os.getpid()
