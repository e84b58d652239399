"""Chancy: its executor for coroutines, polling again as soon as a job ends."""

from chancy import Chancy, Queue, Worker, job

from benchmarks.contestants.harness import URL, arun, main, pace, padding, sent


@job(queue="default")
async def noop(number: int, data: str) -> None:
    await arun(number)


async def prepare() -> None:
    async with Chancy(URL) as chancy:
        await chancy.migrate()


async def enqueue(numbers: range, size: int) -> None:
    data = padding(size)
    jobs = [noop.job.with_kwargs(number=number, data=data) for number in numbers]
    async with Chancy(URL) as chancy:
        async for _ in chancy.push_many(jobs):
            pass


async def produce(numbers: range, size: int, rate: float) -> None:
    data = padding(size)
    async with Chancy(URL) as chancy:
        async for number in pace(numbers, rate):
            await chancy.push(noop.job.with_kwargs(number=number, data=data))
            sent(number)


async def work(concurrency: int) -> None:
    async with Chancy(URL) as chancy:
        await chancy.declare(
            Queue(
                "default",
                concurrency=concurrency,
                executor="chancy.executors.asyncex.AsyncExecutor",
                polling_interval=1,
                eager_polling=True,
            ),
            upsert=True,
        )
        async with Worker(chancy) as worker:
            await worker.wait_for_shutdown()


if __name__ == "__main__":
    main("benchmarks.contestants.chancy")
