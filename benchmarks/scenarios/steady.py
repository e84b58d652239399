"""Jobs produced, worked off and pruned at the same rate for minutes, with ``--keep-succeeded 10s``.

The rate must hold, the latency must not grow, and the table must stop growing: by quarters of the time. The producer
commits 20 jobs at a time. Heap and indexes are the largest of each quarter: what is pruned between two vacuums is
room for the next jobs, and no more than that is needed.
"""

from __future__ import annotations

import sys
import time
from typing import TypeVar

from benchmarks.measurement import Collector, Measurement, percentile
from benchmarks.stage import Stage

BATCH = 20
T = TypeVar("T")


def measure(stage: Stage) -> list[Measurement]:
    collector = Collector("steady")
    for name in stage.among("pgqueue"):
        _case(stage, collector, name, stage.size(2_000, 500, 100), stage.size(600, 20, 4))
    return collector.measurements()


def _case(stage: Stage, collector: Collector, name: str, rate: int, seconds: int) -> None:
    jobs = rate * seconds // BATCH * BATCH
    statement = "select pg_table_size('pgqueue.jobs'), pg_indexes_size('pgqueue.jobs')"
    sizes: list[tuple[int, int]] = []
    with stage.run(name, jobs + 1) as run:
        run.start(1, 100, options=["--keep-succeeded", "10s"])
        run.warm_up(jobs, 1)
        producer = run.produce(jobs, float(rate), batch=BATCH)
        while producer.poll() is None:
            heap, indexes = stage.postgres.execute(statement, database=run.database)[0]
            sizes.append((int(str(heap)), int(str(indexes))))
            time.sleep(0.5)
        run.wait(jobs + 1, 30.0)
        run.stop()
        tally, sent = run.tally(), run.sent()
    if tally.fault:
        collector.fault(name, f"{rate}/s", tally.fault)
        return
    waits = [max(tally.starts[number] - sent[number], 0.0) for number in sorted(sent)]
    for quarter, (part, size) in enumerate(zip(_quarters(waits), _quarters(sizes), strict=True)):
        label = f"{rate}/s, quarter {quarter + 1}"
        collector.add(name, label, "latency p50", "ms", 1000 * percentile(part, 0.5))
        collector.add(name, label, "latency p99", "ms", 1000 * percentile(part, 0.99))
        for what, bytes_ in zip(("heap", "indexes"), zip(*size, strict=True), strict=True):
            collector.add(name, label, what, "MB", max(bytes_) / 1e6)
    done = max(tally.starts) - min(tally.starts[:jobs])
    collector.add(name, f"{rate}/s", "rate", "jobs/s", jobs / done)
    print(f"  steady: {name}: {jobs / done:,.0f} jobs/s for {done:.0f} s", file=sys.stderr)


def _quarters(values: list[T]) -> list[list[T]]:
    size = max(len(values) // 4, 1)
    return [values[at * size : (at + 1) * size] or values for at in range(4)]
