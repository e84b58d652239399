"""How far the shop's jobs are: counted in the database, drawn while they run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psycopg
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from examples.shop.terminal import table

COUNTS = """
select j.task, count(*) filter (where j.status = 'pending' and j.attempt = 0),
       count(*) filter (where j.status = 'running'),
       count(*) filter (where j.status = 'pending' and j.attempt > 0),
       count(*) filter (where j.status = 'succeeded'),
       count(*) filter (where j.status = 'dead'),
       sum(greatest(j.attempt - 1, 0))
  from pgqueue.jobs j where j.schedule is null group by j.task order by j.task
"""
COLUMNS = ["task", "#new", "#running", "#to retry", "#succeeded", "#dead", "#retries"]


@dataclass
class Progress:
    """The counts of one moment, by task."""

    rows: list[tuple[str, int, int, int, int, int, int]]

    @staticmethod
    def read(conn: psycopg.Connection[Any]) -> Progress:
        rows = conn.execute(COUNTS).fetchall()
        return Progress([(short(task), *counts) for task, *counts in rows])

    def sums(self) -> list[int]:
        return [sum(column) for column in list(zip(*self.rows, strict=True))[1:]] or [0] * 6

    @property
    def succeeded(self) -> int:
        return self.sums()[3]

    @property
    def dead(self) -> int:
        return self.sums()[4]

    @property
    def done(self) -> int:
        return self.succeeded + self.dead

    @property
    def retries(self) -> int:
        return self.sums()[5]


def short(task: str) -> str:
    """``examples.shop.jobs.send_receipt`` -> ``send_receipt``."""
    return task.rpartition(".")[2]


class Screen:
    """The counts and a bar; ``say`` prints above them. Without a terminal only their end is printed."""

    def __init__(self, live: Live, total: int) -> None:
        self._live, self._total = live, total
        self._began = time.monotonic()

    def show(self, progress: Progress) -> None:
        seconds = time.monotonic() - self._began
        self._live.update(self._drawn(progress, seconds))

    def say(self, text: str) -> None:
        self._live.console.print(text)

    def _drawn(self, progress: Progress, seconds: float) -> RenderableType:
        bar = Table.grid(padding=(0, 2, 0, 0))
        bar.add_row(
            ProgressBar(total=self._total, completed=progress.done, width=28),
            Text(f"{progress.done}/{self._total} jobs"),
            Text(f"{progress.done / seconds if seconds else 0:.0f}/s"),
            Text(f"{progress.retries} retries"),
            Text(f"{seconds:.0f} s"),
        )
        rows = [*progress.rows, ("all", *progress.sums())]
        return Group("", table(COLUMNS, rows), "", bar)
