"""arq on Redis: coroutines, a short poll, results not kept."""

from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker

from benchmarks.contestants.harness import URL, arun, main, pace, padding, sent


async def noop(ctx: dict[Any, Any], number: int, data: str) -> None:
    await arun(number)


def prepare() -> None:
    """Redis has no schema."""


async def enqueue(numbers: range, size: int) -> None:
    await produce(numbers, size, 0.0)


async def produce(numbers: range, size: int, rate: float) -> None:
    redis, data = await create_pool(RedisSettings.from_dsn(URL)), padding(size)
    async for number in pace(numbers, rate):
        await redis.enqueue_job("noop", number, data)
        sent(number)
    await redis.aclose()


async def work(concurrency: int) -> None:
    worker = Worker(
        [noop],
        redis_settings=RedisSettings.from_dsn(URL),
        max_jobs=concurrency,
        poll_delay=0.05,
        keep_result=0,
        handle_signals=True,
    )
    await worker.async_run()


if __name__ == "__main__":
    main("benchmarks.contestants.arq")
