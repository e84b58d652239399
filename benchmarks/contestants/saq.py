"""SAQ on Redis: coroutines."""

from saq import Queue, Worker

from benchmarks.contestants.harness import URL, arun, main, pace, padding, sent


async def noop(ctx: object, *, number: int, data: str) -> None:
    await arun(number)


def prepare() -> None:
    """Redis has no schema."""


async def enqueue(numbers: range, size: int) -> None:
    await produce(numbers, size, 0.0)


async def produce(numbers: range, size: int, rate: float) -> None:
    queue, data = Queue.from_url(URL), padding(size)
    async for number in pace(numbers, rate):
        await queue.enqueue("noop", number=number, data=data)
        sent(number)
    await queue.disconnect()


async def work(concurrency: int) -> None:
    await Worker(Queue.from_url(URL), functions=[noop], concurrency=concurrency).start()


if __name__ == "__main__":
    main("benchmarks.contestants.saq")
