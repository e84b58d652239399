"""From the commit of a job to its start, with workers that wait for it.

At 20 jobs a second the worker is idle between jobs: the figure is the time to be woken (or to poll), to
claim and to start. At half of the rate of the drain, jobs queue for a moment. The commit counts from when
its producer knows of it, so a job that starts before that counts as 0. It does not mean the time to finish.
"""

from __future__ import annotations

import sys

from benchmarks.contestants import PEERS, REFERENCES
from benchmarks.drain import drain
from benchmarks.measurement import Collector, Measurement, percentile
from benchmarks.run import Failed, Run
from benchmarks.stage import Stage

CONCURRENCY = {"celery": 2}
WARM_UP = 20


def measure(stage: Stage) -> list[Measurement]:
    collector = Collector("latency")
    count = stage.size(200, 60, 30)
    for _ in stage.repeat(2):
        for name in stage.among("pgqueue", *PEERS, *REFERENCES):
            case(stage, collector, name, "20/s", count, 20.0)
        for name in stage.among("pgqueue"):
            half(stage, collector, name)
    return collector.measurements()


def half(stage: Stage, collector: Collector, name: str) -> None:
    """At half of what one worker does at most, measured just before."""
    own = Collector("latency")
    most = drain(
        stage, own, name, "most", workers=1, concurrency=100, jobs=stage.size(50_000, 5_000, 500)
    )
    if most is not None:
        rate = most.rate / 2
        collector.add(name, "half of the most", "rate", "jobs/s", rate)
        case(stage, collector, name, "half of the most", int(rate * stage.size(10, 3, 1)) // 20 * 20,
             rate, batch=20)  # fmt: skip


def case(
    stage: Stage, collector: Collector, name: str, label: str, count: int, rate: float, **given: int
) -> None:
    """Percentiles over all jobs but the first ones."""
    try:
        with stage.run(name, WARM_UP + count) as run:
            waits = _waits(run, CONCURRENCY.get(name, 100), count, rate, **given)
            fault = run.tally().fault
    except Failed as failed:
        waits, fault = [], str(failed)
    if fault or not waits:
        collector.fault(name, label, fault or "no job was timed")
        return
    for share, metric in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")):
        collector.add(name, label, metric, "ms", 1000 * percentile(waits, share))
    print(f"  latency: {name} {label}: p50 {1000 * percentile(waits, 0.5):.2f} ms, "
          f"p99 {1000 * percentile(waits, 0.99):.2f} ms", file=sys.stderr)  # fmt: skip


def _waits(run: Run, concurrency: int, count: int, rate: float, **given: int) -> list[float]:
    run.start(1, concurrency)
    run.warm_up(0, WARM_UP)
    run.produce(count, rate, first=WARM_UP, **given).wait()
    run.wait(WARM_UP + count, 30.0)
    run.stop()
    starts, sent = run.tally().starts, run.sent()
    return [max(starts[n] - at, 0.0) for n, at in sent.items() if n >= WARM_UP and starts[n]]
