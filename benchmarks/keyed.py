"""What a unique key costs when a job is enqueued: ``python -m benchmarks.keyed``. Microseconds a job."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable

from benchmarks.smoke import SETTINGS
from pgqueue import App, schema
from pgqueue.embedded import embedded_postgres

BATCH, ROUNDS, SINGLES = 400, 7, 200


def microseconds(act: Callable[[], object], jobs: int) -> float:
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) / jobs * 1e6


def measure(app: App) -> dict[str, float]:
    """By turns: a batch (below the size for COPY) and single jobs, plain, unique, and unique again."""

    @app.task(name="t")
    def t(number: int) -> None: ...

    ways = {"plain": t, "unique": t.with_unique(by=["number"])}
    found: dict[str, list[float]] = defaultdict(list)
    first = 0
    for _ in range(ROUNDS):
        for name, task in ways.items():
            calls = [task.call(first + i) for i in range(BATCH)]
            found[f"{name}, batch"].append(microseconds(lambda c=calls: app.enqueue_many(c), BATCH))  # type: ignore[misc]
        found["taken, batch"].append(microseconds(lambda c=calls: app.enqueue_many(c), BATCH))  # type: ignore[misc]
        first += BATCH
    for number in range(first, first + SINGLES):
        for name, task in ways.items():
            found[f"{name}, one"].append(microseconds(lambda t=task, n=number: t.enqueue(n), 1))  # type: ignore[misc]
    return {name: round(statistics.median(each)) for name, each in found.items()}


def main() -> int:
    with embedded_postgres(settings=SETTINGS) as dsn:
        schema.upgrade(dsn)
        with App(dsn) as app:
            settings = {"batch": BATCH, "rounds": ROUNDS, "singles": SINGLES, **SETTINGS}
            print(json.dumps({**measure(app), "settings": settings}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
