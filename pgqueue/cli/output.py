"""What commands print: tables for people, JSON for machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from uuid import UUID

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pgqueue.cli.cells import Cut
from pgqueue.text import json_text, one_line


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """JSON text of dataclasses and plain values, one document."""
    return json_text(_plain(value), indent=indent)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    return value


def print_json(value: Any) -> None:
    click.echo(to_json(value))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, to: Console | None = None
) -> None:
    """Print a table; columns that start with # are numbers, aligned right."""
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in columns:
        number = column.startswith("#")
        table.add_column(column.lstrip("#"), justify="right" if number else "left",
                         overflow="fold", no_wrap=number)  # fmt: skip
    for row in rows:
        # Text, not markup: names and errors come from elsewhere.
        table.add_row(*(c if isinstance(c, Cut | Text) else Text(printable(c)) for c in row))
    (to or Console(highlight=False)).print(table)


def printable(value: Any) -> str:
    """One line for a terminal: no control characters, times as ages."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return ago(value)
    if isinstance(value, float):
        return f"{value:.3g}"
    return one_line(str(value))


def ago(moment: datetime) -> str:
    """``5m ago`` or ``in 2h``, by this machine's clock."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        if abs(seconds) >= size:
            text = f"{int(abs(seconds) // size)}{unit}"
            return f"{text} ago" if seconds > 0 else f"in {text}"
    return "now"


def jobs_of(number: int, status: str = "") -> str:
    """``1 job``, ``2,000 dead jobs``."""
    return f"{number:,} {status} job{'' if number == 1 else 's'}".replace("  ", " ")


def count(number: int) -> str:
    """A capped count: 10,000 means at least that."""
    return "10,000+" if number >= 10_000 else f"{number:,}"
