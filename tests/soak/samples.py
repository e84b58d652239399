"""What is measured, and when it counts as growing. Pure but for the measuring."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations

import psutil
import psycopg


@dataclass(frozen=True)
class Sample:
    """The worker at one moment. Times in seconds, memory in MB (10**6 bytes)."""

    at: float
    rss_mb: float
    connections: int
    threads: int
    files: int
    tasks: int
    claim_ms: float
    finished: int


# By how much each may grow per minute over the second half, by a straight line through it.
BOUNDS = {
    "rss_mb": 2.0,
    "connections": 0.5,
    "threads": 0.5,
    "files": 0.5,
    "tasks": 1.0,
    "claim_ms": 10.0,
}
# The most of each at any time: counts do not depend on the speed of the machine.
LIMITS = {"connections": 40, "threads": 60, "files": 120, "tasks": 150}


def take(worker: psutil.Process, conn: psycopg.Connection, at: float) -> Sample:
    """Measure the worker, and the claims of the last two seconds."""
    tasks = conn.execute("select tasks from probes order by id desc limit 1").fetchone()
    connections = conn.execute(
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and application_name <> 'soak'"
    ).fetchone()
    claim = conn.execute("""
        select coalesce(percentile_cont(0.5) within group (
                   order by extract(epoch from j.claimed_at - j.run_at)), 0)::float8 * 1000
          from pgqueue.jobs j where j.queue = 'soak' and j.status = 'succeeded' and j.attempt = 1
           and j.finished_at > clock_timestamp() - interval '2 s'""").fetchone()
    finished = conn.execute(
        "select count(*) from pgqueue.jobs where status in ('succeeded', 'dead')"
    ).fetchone()
    assert connections is not None
    assert claim is not None
    assert finished is not None
    return Sample(
        at, worker.memory_info().rss / 1e6, connections[0], worker.num_threads(), worker.num_fds(),
        tasks[0] if tasks else 0, claim[0], finished[0],
    )  # fmt: skip


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil-Sen: the median of the slopes of all pairs, which single outliers do not move.

    Source: P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", 1968.
    """
    return statistics.median(
        (b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] > a[0]
    )


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """Growth per minute of each measure over the second half."""
    half = samples[len(samples) // 2 :]
    return {
        name: slope([(sample.at / 60, getattr(sample, name)) for sample in half]) for name in BOUNDS
    }


def complaints(samples: Sequence[Sample], *, only_counts: bool) -> list[str]:
    """What is wrong, one line each; ``only_counts`` for a run too short for a trend."""
    wrong = []
    for name, limit in LIMITS.items():
        if (most := max(getattr(sample, name) for sample in samples)) > limit:
            wrong.append(f"{name} reached {most}, the limit is {limit}")
    if not only_counts:
        for name, value in growth(samples).items():
            if value > BOUNDS[name]:
                wrong.append(f"{name} grew by {value:.2f} a minute, the bound is {BOUNDS[name]}")
    return wrong


def table(samples: Sequence[Sample], rows: int = 20) -> str:
    """At most ``rows`` samples as text."""
    names = [field.name for field in fields(Sample)]
    chosen = samples[:: max(1, len(samples) // rows)]
    lines = ["".join(f"{name:>13}" for name in names)]
    lines += ["".join(f"{getattr(s, name):>13.1f}" for name in names) for s in chosen]
    return "\n".join(lines)
