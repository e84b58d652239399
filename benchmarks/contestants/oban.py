"""Oban for Python: psycopg's pool, uvloop, one queue with a limit of the concurrency."""

import asyncio
import signal

import uvloop
from oban import Oban, worker
from oban.schema import install
from psycopg_pool import AsyncConnectionPool

from benchmarks.contestants.harness import URL, arun, main, pace, padding, sent


@worker(queue="default")
class Noop:
    async def process(self, job) -> None:  # type: ignore[no-untyped-def]
        await arun(job.args["number"])


def pool() -> AsyncConnectionPool:
    return AsyncConnectionPool(URL, min_size=1, max_size=10, open=False)


async def prepare() -> None:
    async with pool() as connections:
        await install(connections)


async def enqueue(numbers: range, size: int) -> None:
    data = padding(size)
    async with pool() as connections:
        oban = Oban(pool=connections)
        for at in range(0, len(numbers), 1000):
            batch = numbers[at : at + 1000]
            await oban.enqueue_many([Noop.new({"number": n, "data": data}) for n in batch])


async def produce(numbers: range, size: int, rate: float) -> None:
    data = padding(size)
    async with pool() as connections:
        oban = Oban(pool=connections)
        async for number in pace(numbers, rate):
            await oban.enqueue(Noop.new({"number": number, "data": data}))
            sent(number)


async def run(concurrency: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with pool() as connections:
        async with Oban(pool=connections, queues={"default": concurrency}):
            await stop.wait()


def work(concurrency: int) -> None:
    uvloop.run(run(concurrency))


if __name__ == "__main__":
    main("benchmarks.contestants.oban")
