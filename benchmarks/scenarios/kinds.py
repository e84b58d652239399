"""Jobs that are not coroutines without work: threads, processes, and jobs of one millisecond.

One worker at concurrency 100, its process pool at its default size. A thread or process job pays for its hand-over
within the worker; the database's part is the same. Jobs of 1 ms sleep for it: at concurrency 100 the event loop
could run 100,000 of them a second, so the figure shows what a short wait in each job costs.
"""

from __future__ import annotations

from benchmarks.drain import drain
from benchmarks.measurement import Collector, Measurement
from benchmarks.stage import Stage


def measure(stage: Stage) -> list[Measurement]:
    collector = Collector("kinds")
    for _ in stage.repeat(2):
        for name in stage.among("pgqueue"):
            for kind, full in (
                ("noop", 50_000),
                ("millisecond", 50_000),
                ("thread", 30_000),
                ("process", 10_000),
            ):
                drain(stage, collector, name, kind, workers=1, concurrency=100,
                      jobs=stage.size(full, 2_000, 300), enqueue={"kind": kind})  # fmt: skip
    return collector.measurements()
