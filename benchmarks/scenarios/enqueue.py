"""How many jobs one producer commits per second, beside the bare INSERT or COPY on the same driver.

One: a statement per job, in a transaction of its own, or a hundred in one transaction of the caller. Many: one call
for 1,000 or 50,000 jobs. Bare is `insert into pgqueue.jobs (task, args)`, and COPY of the same two columns. A
producer that waits for each commit is limited by the disk, not by the queue: in the caller's transaction the queue's
own cost shows. Peers enqueue by their own async API.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import psycopg

from benchmarks.contestants import PEERS
from benchmarks.measurement import Collector, Measurement
from benchmarks.run import Failed
from benchmarks.stage import Stage
from pgqueue import App

INSERT = "insert into pgqueue.jobs (task, args) values ('noop', {}) returning id"
ARGS = '{"number": 1, "data": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}'
DATA = "x" * 34
TOGETHER = 100


def measure(stage: Stage) -> list[Measurement]:
    collector = Collector("enqueue")
    one, many = stage.size(3_000, 300, 50), (1_000, stage.size(50_000, 5_000, 2_000))
    for _ in stage.repeat(3):
        if "pgqueue" in stage.chosen:
            with stage.run("pgqueue", 1) as run:
                url = stage.postgres.url(run.database)
                asyncio.run(_asynchronous(collector, url, one, many))
                _synchronous(collector, url, one, many)
        for name in stage.among(*PEERS):
            _peer(stage, collector, name, one, many[-1])
    return collector.measurements()


async def _timed(
    collector: Collector, name: str, case: str, count: int, do: Callable[[], Awaitable[Any]]
) -> None:
    begun = time.perf_counter()
    await do()
    collector.add(name, case, "rate", "jobs/s", count / (time.perf_counter() - begun))


async def _asynchronous(collector: Collector, url: str, one: int, many: tuple[int, ...]) -> None:
    app, connection = App(url), await asyncpg.connect(url)

    @app.task(name="noop")
    async def noop(number: int, data: str) -> None: ...

    insert = INSERT.format("$1")

    async def own() -> None:
        for _ in range(one):
            await noop.aenqueue(1, DATA)

    async def own_bare() -> None:
        for _ in range(one):
            await connection.fetchval(insert, ARGS)

    async def together() -> None:
        for _ in range(one // TOGETHER or 1):
            async with connection.transaction():
                for _ in range(TOGETHER):
                    await noop.on(connection).aenqueue(1, DATA)

    async def together_bare() -> None:
        for _ in range(one // TOGETHER or 1):
            async with connection.transaction():
                for _ in range(TOGETHER):
                    await connection.fetchval(insert, ARGS)

    await noop.aenqueue(1, DATA)
    await _timed(collector, "pgqueue", "one, async", one, own)
    await _timed(collector, "bare", "one, async", one, own_bare)
    inside = (one // TOGETHER or 1) * TOGETHER
    await _timed(collector, "pgqueue", "one, async, caller's transaction", inside, together)
    await _timed(collector, "bare", "one, async, caller's transaction", inside, together_bare)
    for count in many:
        calls = [noop.call(number, DATA) for number in range(count)]
        records = [("noop", ARGS)] * count
        await _timed(
            collector,
            "pgqueue",
            f"{count:,}, async",
            count,
            lambda calls=calls: app.aenqueue_many(calls),
        )
        await _timed(collector, "bare", f"{count:,}, async", count, lambda records=records: (
            connection.copy_records_to_table("jobs", schema_name="pgqueue", columns=["task", "args"], records=records)))  # fmt: skip
    await connection.close()
    await app.aclose()


def _synchronous(collector: Collector, url: str, one: int, many: tuple[int, ...]) -> None:
    app = App(url)

    @app.task(name="noop")
    def noop(number: int, data: str) -> None: ...

    def timed(name: str, case: str, count: int, do: Callable[[], Any]) -> None:
        begun = time.perf_counter()
        do()
        collector.add(name, case, "rate", "jobs/s", count / (time.perf_counter() - begun))

    insert = INSERT.format("%s")
    with psycopg.connect(url, autocommit=True) as connection:

        def inside(enqueue: Callable[[], object]) -> None:
            for _ in range(one // TOGETHER or 1):
                with connection.transaction():
                    for _ in range(TOGETHER):
                        enqueue()

        noop.enqueue(1, DATA)
        timed("pgqueue", "one, sync", one, lambda: [noop.enqueue(1, DATA) for _ in range(one)])
        timed(
            "bare",
            "one, sync",
            one,
            lambda: [connection.execute(insert, (ARGS,)).fetchone() for _ in range(one)],
        )
        count = (one // TOGETHER or 1) * TOGETHER
        timed("pgqueue", "one, sync, caller's transaction", count,
              lambda: inside(lambda: noop.on(connection).enqueue(1, DATA)))  # fmt: skip
        timed("bare", "one, sync, caller's transaction", count,
              lambda: inside(lambda: connection.execute(insert, (ARGS,)).fetchone()))  # fmt: skip
        for count in many:
            calls = [noop.call(number, DATA) for number in range(count)]
            timed("pgqueue", f"{count:,}, sync", count, lambda calls=calls: app.enqueue_many(calls))
            timed("bare", f"{count:,}, sync", count, lambda count=count: _copy(connection, count))
    app.close()


def _copy(connection: psycopg.Connection, count: int) -> None:
    with connection.cursor().copy("copy pgqueue.jobs (task, args) from stdin") as copy:
        for _ in range(count):
            copy.write_row(("noop", ARGS))


def _peer(stage: Stage, collector: Collector, name: str, one: int, many: int) -> None:
    try:
        with stage.run(name, one + many) as run:
            done = run.command("produce", first=0, count=one, size=64, rate=0.0)
            collector.add(name, "one, async", "rate", "jobs/s", one / done["seconds"])
            collector.add(
                name, f"{many:,}, async", "rate", "jobs/s", many / run.enqueue(many, first=one)
            )
    except Failed as failed:
        collector.fault(name, "one, async", str(failed))
    print(f"  enqueue: {name}", file=sys.stderr)
