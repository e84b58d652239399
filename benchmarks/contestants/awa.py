"""awa: the Rust core under Python coroutines, COPY into its queue storage."""

import asyncio
import signal
from dataclasses import dataclass

from awa import AsyncClient

from benchmarks.contestants.harness import URL, arun, main, pace, padding, sent


@dataclass
class Noop:
    number: int
    data: str


async def prepare() -> None:
    client = AsyncClient(URL)
    await client.migrate()
    await client.install_queue_storage()
    await client.close()


async def enqueue(numbers: range, size: int) -> None:
    client, data = AsyncClient(URL), padding(size)
    for at in range(0, len(numbers), 5000):
        await client.enqueue_many_copy([Noop(n, data) for n in numbers[at : at + 5000]])
    await client.close()


async def produce(numbers: range, size: int, rate: float) -> None:
    client, data = AsyncClient(URL), padding(size)
    async for number in pace(numbers, rate):
        await client.insert(Noop(number, data))
        sent(number)
    await client.close()


async def work(concurrency: int) -> None:
    client, stop = AsyncClient(URL), asyncio.Event()

    @client.task(Noop)
    async def noop(job) -> None:  # type: ignore[no-untyped-def]
        await arun(job.args.number)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await client.start([("default", concurrency)])
    await stop.wait()
    await client.shutdown()


if __name__ == "__main__":
    main("benchmarks.contestants.awa")
