"""The measurement most scenarios make: how fast waiting jobs are worked off, and at what cost."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import processes
from benchmarks.contestants import CONTESTANTS
from benchmarks.measurement import Collector
from benchmarks.run import Failed, Run
from benchmarks.stage import Stage

SETTLE = 0.3


@dataclass(frozen=True, slots=True)
class Drained:
    """A drain: jobs per second, CPU seconds per job, WAL bytes and buffers per job, and the starts of the jobs."""

    rate: float
    worker_cpu: float
    server_cpu: float
    wal: float
    buffers: float
    opened: float
    starts: tuple[float, ...]


def drain(
    stage: Stage, collector: Collector, name: str, case: str, *,
    workers: int, concurrency: int, jobs: int, limit: float = 60.0, size: int = 64,
    enqueue: dict[str, Any] | None = None, work: dict[str, Any] | None = None,
    fill: Callable[[Run], None] | None = None, settle: float = SETTLE,
) -> Drained | None:  # fmt: skip
    """Enqueue, hold the workers at the gate until all are up, let them go, and note every figure.

    Ends after ``limit`` seconds: what then is not done makes the run no result. ``fill`` puts jobs into
    the store in another way than by ``enqueue``.
    """
    try:
        with stage.run(name, jobs) as run:
            if fill is None:
                run.enqueue(jobs, size=size, **(enqueue or {}))
            else:
                fill(run)
            stage.calm(run)
            result, fault = _measure(stage, run, workers, concurrency, limit, settle, work or {})
    except Failed as failed:
        result, fault = None, str(failed)
    if fault:
        collector.fault(name, case, fault)
        print(f"  {collector.scenario}: {name} {case}: NO RESULT: {fault}", file=sys.stderr)
    if result is None or fault:
        return None
    collector.add(name, case, "rate", "jobs/s", result.rate)
    collector.add(name, case, "worker CPU", "µs/job", result.worker_cpu * 1e6)
    collector.add(name, case, "server CPU", "µs/job", result.server_cpu * 1e6)
    if CONTESTANTS[name].store == "postgres":
        collector.add(name, case, "WAL", "bytes/job", result.wal)
        collector.add(name, case, "buffers", "pages/job", result.buffers)
    print(f"  {collector.scenario}: {name} {case}: {result.rate:,.0f} jobs/s, CPU worker "
          f"{result.worker_cpu * 1e6:.0f} + server {result.server_cpu * 1e6:.0f} µs/job, "
          f"WAL {result.wal:,.0f} bytes/job", file=sys.stderr)  # fmt: skip
    return result


def _measure(
    stage: Stage,
    run: Run,
    workers: int,
    concurrency: int,
    limit: float,
    settle: float,
    work: dict[str, Any],
) -> tuple[Drained | None, str]:
    run.close_gate()
    run.start(workers, concurrency, **work)
    run.gather(workers)
    server = stage.server_pids(run)
    before = processes.cpu_seconds(run.pids), processes.cpu_seconds(server)
    wal, buffers = stage.postgres.wal_bytes(), stage.buffers(run)
    opened = run.open_gate()
    run.wait(run.jobs, limit)
    time.sleep(settle)
    wal = stage.postgres.wal_bytes() - wal
    after = processes.cpu_seconds(run.pids), processes.cpu_seconds(server)
    run.stop()  # its backends report their buffers when they end
    buffers = stage.buffers(run) - buffers
    tally = run.tally()
    done = max(tally.counted - tally.waited + tally.beyond, 1)
    result = Drained(tally.rate(opened), (after[0] - before[0]) / done,
                     (after[1] - before[1]) / done, wal / done, buffers / done,
                     opened, tally.starts)  # fmt: skip
    return result, tally.fault
