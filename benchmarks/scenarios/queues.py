"""Many queues and priorities in one worker: 100 queues, 10 priorities, both, beside one lane.

A worker claims lane by lane (queue and priority), so the figure shows what each lane costs.
"""

from __future__ import annotations

from benchmarks.drain import drain
from benchmarks.measurement import Collector, Measurement
from benchmarks.stage import Stage


def measure(stage: Stage) -> list[Measurement]:
    collector = Collector("queues")
    for _ in stage.repeat(2):
        for name in stage.among("pgqueue"):
            for queues, priorities in ((1, 1), (100, 1), (1, 10), (100, 10)):
                drain(stage, collector, name, f"{queues} queues x {priorities} priorities", workers=1,
                      concurrency=100, jobs=stage.size(50_000, 2_000, 300),
                      enqueue={"queues": queues, "priorities": priorities})  # fmt: skip
    return collector.measurements()
