"""How many jobs one producer commits per second, beside the bare INSERT or COPY on the same driver.

One: a statement per job, in a transaction of its own, or a hundred in one transaction of the caller. Many: one call
for 1,000 or 50,000 jobs. Bare is `insert into pgqueue.jobs (task, args)`, and COPY of the same two columns; the two take
turns of a hundred jobs, or of one call. A producer that waits for each commit is limited by the disk, not by the queue:
in the caller's transaction the queue's own cost shows. Peers enqueue by their own async API.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
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
    turns = {count: stage.size(150_000, 10_000, 1_000) // count or 1 for count in many}
    for _ in stage.repeat(3):
        if "pgqueue" in stage.chosen:
            with stage.run("pgqueue", 1) as run:
                url = stage.postgres.url(run.database)
                asyncio.run(_asynchronous(collector, url, one, turns))
                _synchronous(collector, url, one, turns)
        for name in stage.among(*PEERS):
            _peer(stage, collector, name, one, many[-1])
    return collector.measurements()


class _Turns:
    """Times two ways of the same by turns, so that both meet the machine as it is: pgqueue's, and the bare one."""

    def __init__(self, collector: Collector, case: str, jobs: int, turns: int) -> None:
        self._collector, self._case, self._jobs, self._turns = collector, case, jobs, turns
        self._seconds = {"pgqueue": 0.0, "bare": 0.0}

    def __iter__(self) -> Iterator[str]:
        for _ in range(self._turns):
            for name in self._seconds:
                begun = time.perf_counter()
                yield name
                self._seconds[name] += time.perf_counter() - begun
        for name, seconds in self._seconds.items():
            self._collector.add(
                name, self._case, "rate", "jobs/s", self._jobs * self._turns / seconds
            )


async def _asynchronous(collector: Collector, url: str, one: int, turns: dict[int, int]) -> None:
    app, connection = App(url), await asyncpg.connect(url)

    @app.task(name="noop")
    async def noop(number: int, data: str) -> None: ...

    insert = INSERT.format("$1")
    own: dict[str, Callable[[], Awaitable[Any]]] = {
        "pgqueue": lambda: noop.aenqueue(1, DATA),
        "bare": lambda: connection.fetchval(insert, ARGS),
    }
    inside = own | {"pgqueue": lambda: noop.on(connection).aenqueue(1, DATA)}
    await noop.aenqueue(1, DATA)
    for name in _Turns(collector, "one, async", TOGETHER, one // TOGETHER or 1):
        for _ in range(TOGETHER):
            await own[name]()
    case = "one, async, caller's transaction"
    for name in _Turns(collector, case, TOGETHER, one // TOGETHER or 1):
        async with connection.transaction():
            for _ in range(TOGETHER):
                await inside[name]()
    for count, times in turns.items():
        calls = [noop.call(number, DATA) for number in range(count)]
        records = [("noop", ARGS)] * count
        for name in _Turns(collector, f"{count:,}, async", count, times):
            if name == "pgqueue":
                await app.aenqueue_many(calls)
            else:
                await connection.copy_records_to_table(
                    "jobs", schema_name="pgqueue", columns=["task", "args"], records=records
                )
    await connection.close()
    await app.aclose()


def _synchronous(collector: Collector, url: str, one: int, turns: dict[int, int]) -> None:
    app = App(url)

    @app.task(name="noop")
    def noop(number: int, data: str) -> None: ...

    insert = INSERT.format("%s")
    with psycopg.connect(url, autocommit=True) as connection:
        own: dict[str, Callable[[], Any]] = {
            "pgqueue": lambda: noop.enqueue(1, DATA),
            "bare": lambda: connection.execute(insert, (ARGS,)).fetchone(),
        }
        inside = own | {"pgqueue": lambda: noop.on(connection).enqueue(1, DATA)}
        noop.enqueue(1, DATA)
        for name in _Turns(collector, "one, sync", TOGETHER, one // TOGETHER or 1):
            for _ in range(TOGETHER):
                own[name]()
        case = "one, sync, caller's transaction"
        for name in _Turns(collector, case, TOGETHER, one // TOGETHER or 1):
            with connection.transaction():
                for _ in range(TOGETHER):
                    inside[name]()
        for count, times in turns.items():
            calls = [noop.call(number, DATA) for number in range(count)]
            for name in _Turns(collector, f"{count:,}, sync", count, times):
                if name == "pgqueue":
                    app.enqueue_many(calls)
                else:
                    _copy(connection, count)
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
