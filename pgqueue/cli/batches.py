"""Long work in batches, with a bar on the terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import Progress

BATCH = 1000


def in_batches(label: str, total: int, step: Callable[[], list[int]]) -> list[int]:
    """Call ``step`` until it returns no more ids; returns all of them."""
    done: list[int] = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(label, total=max(total, 1))
        while batch := step():
            done += batch
            progress.update(bar, completed=len(done))
    return done
