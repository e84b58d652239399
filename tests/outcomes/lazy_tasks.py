"""Tasks whose annotations name what is there for type checkers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgqueue import App, Job

if TYPE_CHECKING:
    from pathlib import Path as Anything

    from somewhere import Unheard  # type: ignore[import-not-found]

    from pgqueue import Context

app = App("postgresql:///nowhere")
ran: list[object] = []


@app.task(name="sync", result=True)
def sync(ctx: Context, number: int) -> Unheard:
    ran.append((ctx.task, number))
    return number


@app.task(name="async", result=True)
async def in_async(number: int, other: Later | None = None) -> Anything:
    ran.append((number, other))
    return number


@app.task(name="stepped")
def stepped(ctx: Context) -> None:
    def step() -> Unheard:
        return 5

    ran.append(ctx.step("one", step))


@app.job
class Lazy(Job):
    name = "lazy"
    number: int

    def handle(self, ctx: Context) -> Unheard:
        ran.append((ctx.task, self.number))


@dataclass
class Later:
    """Defined below what names it."""

    number: int
