"""Jobs that fail: straight to dead, or retried once at once and then succeeding, beside ones that succeed.

A failed attempt costs a row in the table of attempts with its traceback. The retried jobs run twice each: their rate
in jobs per second is half of their rate in attempts.
"""

from __future__ import annotations

from benchmarks.drain import drain
from benchmarks.measurement import Collector, Measurement
from benchmarks.stage import Stage


def measure(stage: Stage) -> list[Measurement]:
    collector = Collector("failing")
    for _ in stage.repeat(2):
        for name in stage.among("pgqueue"):
            for kind in ("noop", "dead", "retried"):
                drain(stage, collector, name, kind, workers=1, concurrency=100,
                      jobs=stage.size(100_000 if kind == "retried" else 50_000, 2_000, 300),
                      enqueue={"kind": kind}, work={"options": ["--log-level", "critical"]})  # fmt: skip
    return collector.measurements()
