"""What the demo says, and the commands it runs in front of the reader."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

out = Console(highlight=False)


def heading(text: str) -> None:
    """Begin a part of the demo."""
    out.print(f"\n[bold cyan]{text}[/]")


def verdict(holds: bool, claim: str) -> bool:
    """Say whether a claim holds; returns that."""
    out.print(f"[{'green' if holds else 'red'}]{'ok  ' if holds else 'FAIL'}[/] {claim}")
    return holds


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A table without lines; columns that start with # are numbers."""
    drawn = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), show_header=any(columns))
    for column in columns:
        drawn.add_column(
            column.lstrip("#"), justify="right" if column.startswith("#") else "left", no_wrap=True
        )
    for row in rows:
        drawn.add_row(*map(str, row))
    return drawn


def pgqueue(*arguments: str) -> str:
    """Run a command of the command line, show it, and return what it printed."""
    out.print(f"\n[bold]$ pgqueue {shlex.join(arguments)}[/bold]")
    done = subprocess.run(
        [sys.executable, "-m", "pgqueue", *arguments],
        stdout=subprocess.PIPE, text=True, check=True,
        env={**os.environ, "COLUMNS": str(out.width)},
    )  # fmt: skip
    print(done.stdout, end="", flush=True)
    return done.stdout
