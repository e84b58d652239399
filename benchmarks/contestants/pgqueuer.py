"""PgQueuer: asyncpg, batches as large as its limit of concurrent tasks lets them be."""

import asyncio
import json
import signal

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.contestants.harness import URL, arun, main, pace, padding, sent


async def prepare() -> None:
    await Queries(AsyncpgDriver(await asyncpg.connect(URL))).install()


def payload(number: int, data: str) -> bytes:
    return json.dumps({"number": number, "data": data}).encode()


async def enqueue(numbers: range, size: int) -> None:
    queries, data = Queries(AsyncpgDriver(await asyncpg.connect(URL))), padding(size)
    for at in range(0, len(numbers), 1000):
        batch = [payload(number, data) for number in numbers[at : at + 1000]]
        await queries.enqueue(["noop"] * len(batch), list(batch), [0] * len(batch))


async def produce(numbers: range, size: int, rate: float) -> None:
    queries, data = Queries(AsyncpgDriver(await asyncpg.connect(URL))), padding(size)
    async for number in pace(numbers, rate):
        await queries.enqueue("noop", payload(number, data))
        sent(number)


async def run(concurrency: int) -> None:
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(URL)))

    @queuer.entrypoint("noop")
    async def noop(job: Job) -> None:
        assert job.payload is not None
        await arun(json.loads(job.payload)["number"])

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, queuer.shutdown.set)
    batch = max(concurrency // 2, 1)
    await queuer.run(batch_size=batch, max_concurrent_tasks=2 * batch)


def work(concurrency: int) -> None:
    uvloop.run(run(concurrency))


if __name__ == "__main__":
    main("benchmarks.contestants.pgqueuer")
