"""Cells of tables that are cut to the room there is, with an ellipsis, not in the middle of a word."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from pgqueue.text import one_line

SHORTEST = 12


class Cut:
    """Text in one line or a few; what does not fit is cut at its end, or at its start.

    Args:
        text: made safe for a terminal here.
        lines: at most so many.
        keep_end: cut at the start, as for ``…jobs.send_email``; goes with one line.
    """

    def __init__(self, text: str, *, lines: int = 1, keep_end: bool = False) -> None:
        self._text = one_line(text)
        self._lines = lines
        self._keep_end = keep_end

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = cell_len(self._text)
        return Measurement(min(width, SHORTEST), width).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        if self._keep_end and cell_len(self._text) > width:
            text = self._text
            while cell_len(text) > width - 1:
                text = text[1:]
            yield Text(f"…{text}", no_wrap=True)
            return
        lines = Text(self._text).wrap(console, width)
        yield from lines[: self._lines - 1]
        if left := lines[self._lines - 1 :]:
            rest = Text(" ".join(line.plain.rstrip() for line in left), no_wrap=True)
            rest.truncate(width, overflow="ellipsis")
            yield rest


def task_cell(name: str) -> Cut:
    """The end of a task's name says most."""
    return Cut(name, keep_end=True)


def error_cell(error: str | None) -> Cut:
    """The first line of an error, in at most two lines."""
    return Cut((error or "-").split("\n", 1)[0].rstrip("\r"), lines=2)
