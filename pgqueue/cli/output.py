"""What commands print: tables for people, JSON for machines."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from uuid import UUID

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pgqueue.cli.cells import SHORTEST, Cut, Names
from pgqueue.cli.terminal import say, write
from pgqueue.text import json_text, lines, one_line


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """JSON text of dataclasses and plain values, one document; in ASCII where stdout takes nothing else."""
    text = json_text(_plain(value), indent=indent)
    if (
        (getattr(sys.stdout, "encoding", None) or "utf-8")
        .lower()
        .replace("-", "")
        .startswith("utf")
    ):
        return text
    return json.dumps(json.loads(text), indent=indent)


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
    write(to_json(value))


def print_json_list(values: Iterable[Any]) -> None:
    """The same of a list, whose values are taken one by one: all of them together need not fit into memory."""
    before = "[\n"
    for value in values:
        write(before + textwrap.indent(to_json(value), "  "), nl=False)
        before = ",\n"
    write("[]" if before == "[\n" else "\n]")


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, to: Console | None = None
) -> None:
    """Print a table without the columns in which nothing stands; those that start with # are aligned right.

    Names and numbers are whole. Where they do not fit beside each other, each row becomes a few lines,
    one a column. Into a pipe each row is one line, however long.
    """
    cells = [[_cell(cell) for cell in row] for row in rows]
    kept = [i for i in range(len(columns)) if any(_plain_text(row[i]) != "-" for row in cells)]
    names = [columns[i].lstrip("#") for i in kept]
    cells = [[row[i] for i in kept] for row in cells]
    width = terminal_width()
    if width is None:
        cells = [[Text(_plain_text(cell).replace("\n", ", ")) for cell in row] for row in cells]
    console = to or Console(highlight=False, width=width or _widest(names, cells))
    if width is not None and _needed(names, cells) > console.width:
        _print_records(console, names, cells)
        return
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for i, name in zip(kept, names, strict=True):
        room = [row[kept.index(i)] for row in cells]
        table.add_column(name, justify="right" if columns[i].startswith("#") else "left",
                         overflow="fold", no_wrap=not any(isinstance(c, Cut | Names) for c in room),
                         min_width=max([cell_len(name), *map(_least, room)]))  # fmt: skip
    for row in cells:
        table.add_row(*(Text(c.text) if isinstance(c, Names) else c for c in row))
    console.print(table)


MOST_ROWS = 1000


def say_if_cut(rows: Sequence[Any]) -> None:
    """Say that a list without a limit of its own may have more."""
    if len(rows) >= MOST_ROWS:
        say(f"the first {MOST_ROWS:,} are listed; there may be more", err=True)


def terminal_width() -> int | None:
    """The columns of the terminal, or as COLUMNS says; None for a pipe or a file."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return None


Cell = Cut | Names | Text


def _cell(value: Any) -> Cell:
    # Text, not markup: names and errors come from elsewhere.
    if isinstance(value, Text):  # of several lines
        return Text(lines(value.plain, indent=""))
    return value if isinstance(value, Cut | Names) else Text(printable(value))


def _plain_text(cell: Cell) -> str:
    return (cell.plain if isinstance(cell, Text) else cell.text) or "-"


def _least(cell: Cell) -> int:
    """The room that a cell needs."""
    if isinstance(cell, Names):
        return cell.longest
    if isinstance(cell, Cut):
        return min(cell_len(cell.text), SHORTEST)
    return max(map(cell_len, cell.plain.split("\n")))


def _needed(names: Sequence[str], cells: Sequence[Sequence[Cell]]) -> int:
    """The room that a table needs: each column, a space after it, and one between two."""
    return sum(max([cell_len(name), *(_least(row[i]) for row in cells)]) + 2
               for i, name in enumerate(names)) - 1  # fmt: skip


def _widest(names: Sequence[str], cells: Sequence[Sequence[Cell]]) -> int:
    return sum(max([cell_len(name), *(cell_len(_plain_text(row[i])) for row in cells)]) + 2
               for i, name in enumerate(names))  # fmt: skip


def _print_records(console: Console, names: Sequence[str], cells: Sequence[Sequence[Cell]]) -> None:
    """Each row as lines of its own, without what is empty."""
    longest = max(map(cell_len, names))
    for number, row in enumerate(cells):
        if number:
            console.print()
        for name, cell in zip(names, row, strict=True):
            if (text := _plain_text(cell)) == "-":
                continue
            room = console.width - longest - 2
            lines = text.split("\n")
            if not isinstance(cell, Text):  # words, not one name
                lines = textwrap.wrap(
                    text, max(room, 1), break_long_words=False, break_on_hyphens=False
                )
            shown = f"{name:{longest}}  " + f"\n{'':{longest}}  ".join(lines)
            # A name longer than the line is left to the terminal to break: a copy of it is whole.
            console.print(Text(shown), soft_wrap=True)


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
