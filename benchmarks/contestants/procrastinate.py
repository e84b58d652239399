"""Procrastinate: psycopg's async connector, COPY-free batch defer, many coroutines in a worker."""

from procrastinate import App, PsycopgConnector

from benchmarks.contestants.harness import URL, arun, main, pace, padding, sent

app = App(connector=PsycopgConnector(conninfo=URL))


@app.task(name="noop")
async def noop(number: int, data: str) -> None:
    await arun(number)


async def prepare() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def enqueue(numbers: range, size: int) -> None:
    data = padding(size)
    async with app.open_async():
        for at in range(0, len(numbers), 1000):
            batch = [{"number": number, "data": data} for number in numbers[at : at + 1000]]
            await noop.batch_defer_async(*batch)


async def produce(numbers: range, size: int, rate: float) -> None:
    data = padding(size)
    async with app.open_async():
        async for number in pace(numbers, rate):
            await noop.defer_async(number=number, data=data)
            sent(number)


async def work(concurrency: int) -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=concurrency)


if __name__ == "__main__":
    main("benchmarks.contestants.procrastinate")
