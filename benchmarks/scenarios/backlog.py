"""Many rows in the table: due, due only in the future, or finished, beside an empty one.

The same number of jobs is worked off each time, and on the empty table before and after each of the full ones, so that
a machine whose speed changes tells on both: the ratios among the targets are each to the mean of the two beside it,
and the median of these counts. `buffers` are pages read per job, claim and completion together, which do not depend on
it. The rows are put in by SQL, in one statement, and the table is vacuumed and analysed after it, as it would be in
time.
"""

from __future__ import annotations

from benchmarks.drain import drain
from benchmarks.long import fill
from benchmarks.measurement import Collector, Measurement
from benchmarks.reach import FULL
from benchmarks.run import Run
from benchmarks.stage import Stage


def measure(stage: Stage) -> list[Measurement]:
    collector = Collector("backlog")
    rows, jobs = stage.size(10_000_000, 100_000, 2_000), stage.size(100_000, 5_000, 500)
    for _ in stage.repeat(5):
        for name in stage.among("pgqueue"):
            for kind in ("empty", *(each for full in FULL for each in (full, "empty"))):

                def load(run: Run, kind: str = kind) -> None:
                    if kind in ("future", "finished"):
                        fill(stage, run, kind, rows, first=jobs)
                    fill(stage, run, "due", jobs)
                    if kind == "due":
                        fill(stage, run, kind, rows, first=jobs)

                case = "empty table" if kind == "empty" else f"{rows:,} {kind}"
                drain(stage, collector, name, case, workers=1, concurrency=100, jobs=jobs,
                      limit=90.0, fill=load, settle=0.3 if kind != "due" else 0.0)  # fmt: skip
    return collector.measurements()
