"""The size of a job's arguments, and rows kept or deleted after success: rate and WAL bytes per job.

WAL is all the server wrote while the jobs were worked off (claim and completion, vacuum included, the INSERT not).
It decides how much replication and archiving cost, and differs with full-page images: a checkpoint was made just
before, so the first change of each page counts with the whole page.
"""

from __future__ import annotations

from benchmarks.drain import drain
from benchmarks.measurement import Collector, Measurement
from benchmarks.stage import Stage


def measure(stage: Stage) -> list[Measurement]:
    collector = Collector("sizes")
    for _ in stage.repeat(2):
        for name in stage.among("pgqueue"):
            for size in (64, 100, 1_000, 10_000):
                for kept, options in (("kept", []), ("deleted", ["--keep-succeeded", "0"])):
                    drain(stage, collector, name, f"{size} B, {kept}", workers=1, concurrency=100,
                          jobs=stage.size(50_000 if size < 10_000 else 20_000, 2_000, 300), size=size,
                          work={"options": options})  # fmt: skip
    return collector.measurements()
