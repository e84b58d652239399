"""Shares against weights: ``python -m benchmarks.fairness [--chart FILE] [--runs N]``.

Tenants with more jobs than are run share a queue. For each case it prints the settings, the largest difference between the share
of a tenant and its weight, and the longest wait of a tenant in rounds. A round is one turn of every tenant; a turn is as many
jobs as its weight. The order is that in which jobs start, so jobs that run beside each other may change places: as many as are
claimed at once. The database is PGQUEUE_DSN, or an embedded PostgreSQL.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import psycopg

from benchmarks import environments
from pgqueue import App, Worker, schema
from pgqueue.embedded import embedded_postgres


@dataclass(frozen=True)
class Case:
    """How many tenants, and who works for them; ``each``: the jobs after which a worker is replaced, None for never."""

    tenants: int
    concurrency: int = 10
    workers: int = 1
    each: int | None = None
    weighted: bool = True

    @property
    def weights(self) -> dict[str, int]:
        """Of the first ten tenants; all others have 1."""
        given = (10, 5, 3, 2, 2) if self.weighted else ()
        return {name(n): weight for n, weight in enumerate(given[: self.tenants - 1])}

    def __str__(self) -> str:
        replaced = "" if self.each is None else f", replaced after {self.each} jobs"
        weights = "weights 10, 5, 3, 2, 2, then 1" if self.weighted else "no weights"
        return f"{self.tenants} tenants, {weights}; {self.workers} x {self.concurrency}{replaced}"


CASES = [
    *(Case(tenants) for tenants in (2, 6, 50, 500, 5000)),
    *(Case(6, concurrency=size) for size in (1, 4, 100)),
    *(Case(6, concurrency=1, workers=count) for count in (2, 8)),
    Case(6, concurrency=25, workers=8),
    Case(26, concurrency=1, each=5, weighted=False),
    Case(26, concurrency=4, workers=3, each=50),
]


def name(number: int) -> str:
    return f"tenant{number:04}"


async def run(case: Case, dsn: str, runs: int) -> list[str]:
    """The tenants of the first ``runs`` jobs, in the order of their starts."""
    app, order, enough = App(dsn), list[str](), asyncio.Event()

    @app.task(name="work", fair_by="tenant", weights=case.weights or None)
    async def work(tenant: str) -> None:
        order.append(tenant)
        if len(order) >= runs:
            enough.set()

    whole = sum(parts(case).values())
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("truncate pgqueue.jobs, pgqueue.turns, pgqueue.tasks, pgqueue.queues")
        for tenant, part in parts(case).items():
            conn.execute(
                "insert into pgqueue.jobs (task, args, limit_key) select 'work',"
                " jsonb_build_object('tenant', %s::text), 'work:' || %s from generate_series(1, %s)",
                (tenant, tenant, runs * part // whole * 2 + 4 * part),
            )
        conn.execute("analyze pgqueue.jobs")

    async def worker() -> None:
        while len(order) < runs:
            await Worker(app, concurrency=case.concurrency, max_jobs=case.each, drain=True).arun()

    working = [asyncio.create_task(worker()) for _ in range(case.workers)]
    await enough.wait()
    for each in working:
        each.cancel()
    await asyncio.gather(*working, return_exceptions=True)
    return order[:runs]


def parts(case: Case) -> dict[str, int]:
    """The weight of each tenant."""
    return {name(n): case.weights.get(name(n), 1) for n in range(case.tenants)}


def judged(order: list[str], weights: Mapping[str, int]) -> tuple[float, float]:
    """The largest difference of a share from its weight, as a part of that; and the longest wait in rounds."""
    whole, shares = sum(weights.values()), Counter(order)
    rounds = max(len(order) / whole, 1e-9)
    off = max(abs(shares[tenant] / (part * rounds) - 1) for tenant, part in weights.items())
    places: dict[str, list[int]] = {tenant: [-1] for tenant in weights}
    for place, tenant in enumerate(order):
        places[tenant].append(place)
    longest = max(
        (after - before - 1) / max(whole - weights[tenant], 1)
        for tenant, at in places.items()
        for before, after in pairwise([*at, len(order)])
    )
    return off, longest


@click.command()
@click.option(
    "--runs", default=1500, show_default=True, help="Jobs of a case, whole rounds at least."
)
@click.option(
    "--chart", type=click.Path(path_type=Path), help="Draw the differences into this SVG."
)
def main(runs: int, chart: Path | None) -> None:
    """Print shares against weights."""
    bars = []
    with ExitStack() as stack:
        dsn = os.environ.get("PGQUEUE_DSN") or stack.enter_context(embedded_postgres())
        schema.upgrade(dsn)
        for case in CASES:
            weights = parts(case)
            whole = sum(weights.values())
            count = -(-runs // whole) * whole
            off, longest = judged(asyncio.run(run(case, dsn, count)), weights)
            print(
                f"{case}; {count} runs: shares within {off:.1%}, longest wait {longest:.2f} rounds",
                flush=True,
            )
            bars.append([f"pgqueue {case}", *[max(off * 100, 0.01)] * 3])
    if chart is not None:
        given = json.dumps(
            {"title": "Largest difference of a share from its weight", "unit": "%", "bars": bars}
        )
        program = [environments.python_of("charts"), environments.HERE / "charts.py", chart]
        subprocess.run(list(map(str, program)), input=given, text=True, check=True)


if __name__ == "__main__":
    main()
