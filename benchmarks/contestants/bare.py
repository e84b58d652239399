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
from pgqueue.pinning import pin_async
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
    await pin_async(connection, "pin_session", limit="1min")
    lane = Lane("default", 0, BEGINNING, 0)
    common: dict[str, Any] = {"limit": batch, "worker_id": uuid4(), "lease": 60.0}
    while True:
        claim_id = uuid4()
        claim = claims.claim([lane], claim_id=claim_id, **common)
        jobs = claim.decode(await execute(connection, claim))
        if not jobs:
            lane = Lane("default", 0, BEGINNING, 0)
            await asyncio.sleep(IDLE)
            continue
        for job in jobs:
            await arun(json.loads(job.args)["number"])
        lane = Lane("default", 0, *max((job.run_at, job.id) for job in jobs))
        done = [Finished(job.id, claim_id, SUCCEEDED, 0.0) for job in jobs]
        await execute(connection, claims.complete(done, delete=False))


def work(concurrency: int) -> None:
    uvloop.run(run(concurrency))


if __name__ == "__main__":
    main("benchmarks.contestants.bare")
