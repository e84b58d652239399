"""Helpers of the scenarios with millions of rows or many minutes: rows put in by SQL, rates over time."""

from __future__ import annotations

from benchmarks.measurement import percentile, windows
from benchmarks.run import Run
from benchmarks.stage import Stage

FILL = """
    insert into pgqueue.jobs (task, args, run_at, status, attempt, finished_at)
    select 'noop', jsonb_build_object('number', i, 'data', repeat('x', 34)), {run_at}, '{status}',
           {attempt}, {finished_at}
      from generate_series({first}, {last}) i
"""
KINDS = {
    "due": ("clock_timestamp()", "pending", "0", "null"),
    "future": (
        "clock_timestamp() + interval '1 day' + i * interval '1 ms'",
        "pending",
        "0",
        "null",
    ),
    "finished": ("clock_timestamp()", "succeeded", "1", "clock_timestamp()"),
}


def fill(stage: Stage, run: Run, kind: str, count: int, *, first: int = 0) -> None:
    """Rows as pgqueue leaves them, numbered from ``first``; far faster than by any API."""
    run_at, status, attempt, finished_at = KINDS[kind]
    statement = FILL.format(run_at=run_at, status=status, attempt=attempt, finished_at=finished_at,
                            first=first, last=first + count - 1)  # fmt: skip
    stage.postgres.execute(statement, database=run.database)


def rates(starts: tuple[float, ...], begin: float, end: float, width: float = 1.0) -> list[float]:
    """Jobs started per second in each window of ``width`` seconds between two moments."""
    return windows([start for start in starts if begin <= start < end], begin, width)


def steadiness(found: list[float]) -> tuple[float, float]:
    """(median of the windows, the 5th percentile of them); zeros when there is none."""
    return (percentile(found, 0.5), percentile(found, 0.05)) if found else (0.0, 0.0)
