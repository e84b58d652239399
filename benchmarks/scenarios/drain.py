"""How fast waiting no-op jobs are worked off, by worker processes x concurrency.

The jobs are enqueued first; every worker process is up and holds a job before the clock starts; it stops
when the last job has started. So a figure means the most a system can do when nothing is in its way; it
does not mean what a user sees whose jobs do something: then the jobs' own time decides. CPU per job is
user and system time of the worker processes, and of the server with all its backends, autovacuum included;
it is steadier than the rate on a machine that others use. `bare` claims and completes the same batches
on one connection with pgqueue's own statements and nothing around them; `pgbench` sends the same
statements from C. Systems on Redis keep jobs in memory only: they are a reference, not peers.
"""

from __future__ import annotations

import asyncio
import time

import asyncpg

from benchmarks.contestants import CONTESTANTS, LIMITS, PEERS, REFERENCES
from benchmarks.drain import drain
from benchmarks.measurement import Collector, Measurement
from benchmarks.scenarios import pgbench
from benchmarks.stage import Stage

LIMIT = 60.0


def case(workers: int, concurrency: int) -> str:
    """How a setting is named in the results."""
    return f"{workers} x {concurrency}"


def jobs_for(stage: Stage, workers: int, concurrency: int) -> int:
    """Enough that what waits at the gate, and the first use of statements and code, is a small share."""
    full, quick = (5_000, 1_000) if concurrency == 1 else (50_000, 5_000)
    return max(stage.size(full, quick, 300), stage.size(30, 3) * workers * concurrency)


def measure(stage: Stage) -> list[Measurement]:
    """The reach settings by turns with the limits and the peers at their best, and the matrix of pgqueue."""
    collector = Collector("drain")
    for _ in stage.repeat(3):
        _best(stage, collector, ["pgqueue", *LIMITS])
        if stage.scale != "tiny":
            _single(stage, collector)
        for batch in (100, 500)[: stage.size(2, 2, 1)]:
            if "bare" in stage.chosen:
                pgbench.drain(stage, collector, case(1, batch), batch, jobs_for(stage, 1, batch))
        _best(stage, collector, [*PEERS, *REFERENCES])
    if stage.scale != "tiny":
        for _ in stage.repeat(2):
            _matrix(stage, collector)
    return collector.measurements()


def _best(stage: Stage, collector: Collector, names: list[str]) -> None:
    for name in stage.among(*names):
        slow = name in ("procrastinate", "oban", "chancy", *REFERENCES)
        for workers, concurrency in CONTESTANTS[name].best[: stage.size(9, 9, 1)]:
            jobs = jobs_for(stage, workers, concurrency)
            drain(stage, collector, name, case(workers, concurrency), workers=workers, limit=LIMIT,
                  concurrency=concurrency, jobs=min(jobs, stage.size(3_000, 500)) if slow else jobs)  # fmt: skip


def _single(stage: Stage, collector: Collector) -> None:
    """One job at a time, beside one connection that commits single-row updates: of C, and of the worker's driver."""
    for name in stage.among("pgqueue", "bare"):
        drain(stage, collector, name, case(1, 1), workers=1, concurrency=1,
              jobs=jobs_for(stage, 1, 1), limit=LIMIT)  # fmt: skip
    if "bare" in stage.chosen:
        size = stage.size(5_000, 1_000, 200)
        rate = pgbench.single_row_updates(stage, size)
        collector.add("pgbench", "single-row updates", "rate", "jobs/s", rate)
        with stage.run("bare", 1000) as prepared:
            prepared.enqueue(1000)
            stage.calm(prepared)
            rate = asyncio.run(_single_row_updates(stage.postgres.url(prepared.database), size))
        collector.add("bare", "single-row updates", "rate", "jobs/s", rate)


async def _single_row_updates(url: str, number: int) -> float:
    """Commits per second of one asyncpg connection, which the worker has too."""
    connection = await asyncpg.connect(url)
    first = await connection.fetchval("select min(id) from pgqueue.jobs")
    update, begun = pgbench.UPDATE.format("$1"), time.perf_counter()
    for turn in range(number):
        await connection.fetch(update, first + turn % 1000)
    seconds = time.perf_counter() - begun
    await connection.close()
    return number / seconds


def _matrix(stage: Stage, collector: Collector) -> None:
    for name in stage.among("pgqueue"):
        done = {*CONTESTANTS[name].best, (1, 1)}
        for workers in (1, 2, 8, 32):
            for concurrency in (1, 16, 100, 500):
                if (workers, concurrency) not in done:
                    drain(stage, collector, name, case(workers, concurrency), workers=workers,
                          concurrency=concurrency, jobs=jobs_for(stage, workers, concurrency),
                          limit=LIMIT)  # fmt: skip
