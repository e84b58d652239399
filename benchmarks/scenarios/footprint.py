"""What a worker costs that does nothing: time to start, memory, connections.

Start is from the command being run, with a job waiting, to that job's first line: Python, imports, connecting and
claiming. Memory is resident memory, the worker process with all it imported and its jobs, measured idle and while 500
jobs are held; shared pages of libraries count in full. Connections are those the server sees.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks import processes
from benchmarks.contestants import PEERS, REFERENCES
from benchmarks.measurement import Collector, Measurement
from benchmarks.run import Failed
from benchmarks.stage import Stage

HELD = 500


def measure(stage: Stage) -> list[Measurement]:
    collector = Collector("footprint")
    for _ in stage.repeat(5):
        for name in stage.among("pgqueue", *PEERS, *REFERENCES):
            try:
                _start(stage, collector, name)
            except Failed as failed:
                collector.fault(name, "start", str(failed))
        for name in stage.among("pgqueue"):
            _help(collector)
            _memory(stage, collector, name)
    return collector.measurements()


def _start(stage: Stage, collector: Collector, name: str) -> None:
    with stage.run(name, 1) as run:
        run.enqueue(1)
        begun = time.monotonic()
        run.start(1, 2)
        if not run.wait(1, 30.0):
            collector.fault(name, "start", "the job did not run within 30 s")
            return
        collector.add(name, "start", "first job", "ms", 1000 * (run.tally().starts[0] - begun))


def _help(collector: Collector) -> None:
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "pgqueue", "--help"], capture_output=True, check=True)
    collector.add("pgqueue", "--help", "time", "ms", 1000 * (time.monotonic() - begun))


def _memory(stage: Stage, collector: Collector, name: str) -> None:
    count = "select count(*) from pg_stat_activity where datname = '{}' and pid <> pg_backend_pid()"
    for case, held in (("idle", 0), (f"{HELD} jobs held", HELD)):
        with stage.run(name, HELD + 1) as run:
            run.start(1, HELD)
            run.enqueue(1, first=HELD)
            run.wait(1, 30.0)
            if held:
                run.close_gate()
                run.enqueue(held)
                time.sleep(1.0)
            collector.add(name, case, "memory", "MB", processes.resident_bytes(run.pids) / 1e6)
            statement = count.format(run.database)
            connections = int(str(stage.postgres.execute(statement)[0][0]))
            collector.add(name, case, "connections", "", connections)
            if held:
                run.open_gate()
