"""The limit: pgqueue's own statements on one connection, claim then complete, nothing around them."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import uvloop

from benchmarks.contestants.harness import URL, arun, main
from benchmarks.contestants.pgqueue import enqueue, prepare
from pgqueue.operations import Operation, claims
from pgqueue.operations.claims import Finished, Lane
from pgqueue.outcome import SUCCEEDED
from pgqueue.sql import load

__all__ = ["enqueue", "prepare", "work"]

IDLE = 0.01
BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


async def execute(connection: asyncpg.Connection, operation: Operation[Any]) -> list[Any]:
    statement = load()[operation.statement]
    values = [operation.values[name] for name in statement.parameters]
    return await connection.fetch(statement.numbered, *values)


async def run(batch: int) -> None:
    connection = await asyncpg.connect(URL)
    await connection.execute(load()["pin_session"].numbered)
    lane = Lane("default", 0, BEGINNING, 0)
    common: dict[str, Any] = {"limit": batch, "worker_id": uuid4(), "lease": 60.0}
    while True:
        claim_id = uuid4()
        rows = await execute(connection, claims.claim([lane], claim_id=claim_id, **common))
        if not rows:
            lane = Lane("default", 0, BEGINNING, 0)
            await asyncio.sleep(IDLE)
            continue
        for row in rows:
            await arun(json.loads(row["args"])["number"])
        last = max((row["run_at"], row["id"]) for row in rows)
        lane = Lane("default", 0, *last)
        done = [Finished(row["id"], claim_id, SUCCEEDED, 0.0) for row in rows]
        await execute(connection, claims.complete(done, delete=False))


def work(concurrency: int) -> None:
    uvloop.run(run(concurrency))


if __name__ == "__main__":
    main("benchmarks.contestants.bare")
