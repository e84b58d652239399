"""Cells of tables that may take less room than their text needs; names may not."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from pgqueue.text import one_line

SHORTEST = 12
# Characters of an error of which as many as there is room for are shown.
MOST_SHOWN = 500


class Cut:
    """Text in a few lines, broken between words; what does not fit is cut at its end.

    Args:
        text: made safe for a terminal here.
        lines: at most so many.
    """

    def __init__(self, text: str, *, lines: int = 2) -> None:
        self.text = one_line(text)
        self._lines = lines

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = cell_len(self.text)
        return Measurement(min(width, SHORTEST), width).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        lines = Text(self.text).wrap(console, width)
        yield from lines[: self._lines - 1]
        if left := lines[self._lines - 1 :]:
            rest = Text(" ".join(line.plain.rstrip() for line in left), no_wrap=True)
            if rest.cell_len > width:
                mark = "..." if options.ascii_only else "…"
                rest.truncate(width - cell_len(mark))
                rest.append(mark)
            yield rest


@dataclass(frozen=True, slots=True)
class Names:
    """Several names, broken between them where there is no room, never within one."""

    names: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of them."""
        return ", ".join(map(one_line, self.names)) or "-"

    @property
    def longest(self) -> int:
        """The room that it needs."""
        return max((cell_len(one_line(name)) + 1 for name in self.names), default=1)


def error_cell(error: str | None) -> Cut:
    """The first line of an error, in at most two lines."""
    return Cut((error or "-").split("\n", 1)[0].rstrip("\r")[:MOST_SHOWN])
