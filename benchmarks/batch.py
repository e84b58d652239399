"""What a batch costs beside as many plain jobs: ``python -m benchmarks.batch [--jobs 100000] [--rounds 3]``.

By turns on one server: enqueue and drain plain jobs, then the same as one batch with two callbacks that wait
for all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections import defaultdict

from benchmarks.smoke import SETTINGS
from pgqueue import App, Worker, schema
from pgqueue.embedded import embedded_postgres

CONCURRENCY = 100


def measure(app: App, jobs: int, rounds: int) -> dict[str, float]:
    """Seconds, medians."""
    ended: list[int] = []

    @app.task(name="child")
    async def child(number: int) -> None: ...

    @app.task(name="end")
    async def end() -> None:
        ended.append(1)

    found: dict[str, list[float]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for way in ("plain", "batch"):
            calls = [child.call(n) for n in range(jobs)]
            start = time.perf_counter()
            if way == "plain":
                app.enqueue_many(calls)
            else:
                app.batch(calls, on_success=end.call(), on_done=end.call()).enqueue()
            enqueued = time.perf_counter()
            asyncio.run(Worker(app, concurrency=CONCURRENCY, drain=True).arun())
            found[f"{way}_enqueue_s"].append(enqueued - start)
            found[f"{way}_drain_s"].append(time.perf_counter() - enqueued)
        assert len(ended) == 2 * number, "the callbacks run once each"
    return {name: round(statistics.median(each), 2) for name, each in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with embedded_postgres(settings=SETTINGS) as dsn:
        schema.upgrade(dsn)
        with App(dsn) as app:
            found = measure(app, given.jobs, given.rounds)
    ratio = round(found["plain_drain_s"] / found["batch_drain_s"], 2)
    settings = {**vars(given), "concurrency": CONCURRENCY, **SETTINGS}
    print(json.dumps({**found, "drain_ratio": ratio, "settings": settings}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
