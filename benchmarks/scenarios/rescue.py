"""A worker that holds 10,000 running jobs is killed: how long until another has run them all.

The lease is 5 s here (the default is 60 s): nobody can know before its end that the worker is gone. The figure is
the time beyond the lease, and the rate at which the jobs ran then.
"""

from __future__ import annotations

import signal
import sys
import time

from benchmarks.measurement import Collector, Measurement
from benchmarks.stage import Stage

LEASE = 5.0


def measure(stage: Stage) -> list[Measurement]:
    collector = Collector("rescue")
    for _ in stage.repeat(2):
        for name in stage.among("pgqueue"):
            _case(stage, collector, name, stage.size(10_000, 1_000, 200))
    return collector.measurements()


def _case(stage: Stage, collector: Collector, name: str, jobs: int) -> None:
    options = ["--lease", f"{LEASE:g}s"]
    running = "select count(*) from pgqueue.jobs where status = 'running'"
    with stage.run(name, jobs) as run:
        run.close_gate()
        run.enqueue(jobs)
        run.start(1, jobs, options=options)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if stage.postgres.execute(running, database=run.database)[0][0] == jobs:
                break
            time.sleep(0.05)
        run.signal(signal.SIGKILL)
        killed = time.monotonic()
        run.forget()
        run.open_gate()
        run.start(1, 100, options=options)
        run.wait(jobs, 120.0)
        run.stop()
        tally = run.tally()
    case = f"{jobs:,} jobs of a killed worker"
    if tally.fault:
        collector.fault(name, case, tally.fault)
        return
    first, last = min(tally.starts), max(tally.starts)
    collector.add(name, case, "first beyond the lease", "s", first - killed - LEASE)
    collector.add(name, case, "last beyond the lease", "s", last - killed - LEASE)
    collector.add(name, case, "rate", "jobs/s", jobs / max(last - first, 1e-3))
    print(
        f"  rescue: {name}: last job {last - killed - LEASE:.1f} s beyond the lease",
        file=sys.stderr,
    )
