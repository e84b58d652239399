"""Sixteen producers that enqueue one by one, each job its own commit, beside one busy worker.

With notifications and without. The rate is that of all producers together; everything runs on the same few
cores, so it does not mean what producers on machines of their own reach.
"""

from __future__ import annotations

import sys
import time

from benchmarks.measurement import Collector, Measurement
from benchmarks.stage import Stage

PRODUCERS = 16


def measure(stage: Stage) -> list[Measurement]:
    collector = Collector("producers")
    for _ in stage.repeat(2):
        for name in stage.among("pgqueue"):
            for notify in (True, False):
                _case(stage, collector, name, notify)
    return collector.measurements()


def _case(stage: Stage, collector: Collector, name: str, notify: bool) -> None:
    each = stage.size(3_000, 100, 20)
    case = f"{PRODUCERS} producers, notifications {'on' if notify else 'off'}"
    with stage.run(name, PRODUCERS * each + 1) as run:
        run.start(1, 100)
        run.warm_up(PRODUCERS * each, 1)
        producers = [
            run.produce(each, 0.0, first=number * each, notify=notify)
            for number in range(PRODUCERS)
        ]
        for producer in producers:
            producer.wait()
        run.wait(run.jobs, 60.0)
        ended = time.monotonic()
        run.stop()
        tally, sent = run.tally(), sorted(run.sent().values())
    if tally.fault:
        collector.fault(name, case, tally.fault)
        return
    middle = sent[len(sent) // 10 : -len(sent) // 10]  # all sixteen are at it then
    collector.add(name, case, "rate", "jobs/s", len(middle) / (middle[-1] - middle[0]))
    collector.add(name, case, "worked off after", "s", max(ended - sent[-1], 0.0))
    print(
        f"  producers: {name} {case}: {len(middle) / (middle[-1] - middle[0]):,.0f} jobs/s",
        file=sys.stderr,
    )
