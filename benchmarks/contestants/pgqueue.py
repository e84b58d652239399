"""pgqueue from this checkout; its workers are those of ``pgqueue work``."""

import asyncio
from typing import Any

from benchmarks.contestants.harness import URL, arun, main, pace, padding, run, sent
from pgqueue import App, Backoff, Context, Dead, schema

app = App(URL or None)


async def body(number: int, data: str) -> None:
    await arun(number)


noop = app.task(name="noop")(body)


@app.task(name="thread")
def thread(number: int, data: str) -> None:
    run(number)


@app.task(name="process", run="process")
def process(number: int, data: str) -> None:
    run(number)


@app.task(name="millisecond")
async def millisecond(number: int, data: str) -> None:
    await arun(number)
    await asyncio.sleep(0.001)


@app.task(name="retried", max_retries=1, backoff=Backoff(0))
async def retried(ctx: Context, number: int, data: str) -> None:
    if ctx.attempt == 1:
        raise RuntimeError("the first attempt fails")
    await arun(number)


@app.task(name="dead")
async def dead(number: int, data: str) -> None:
    await arun(number)
    raise Dead("as asked")


TASKS: dict[str, Any] = {
    "noop": noop, "thread": thread, "process": process, "millisecond": millisecond, "retried": retried,
    "dead": dead,
}  # fmt: skip


def prepare() -> None:
    schema.upgrade(URL)


async def enqueue(
    numbers: range, size: int, kind: str = "noop", queues: int = 1, priorities: int = 1
) -> None:
    task, data = TASKS[kind], padding(size)
    calls = []
    for number in numbers:
        call = task
        if queues > 1:
            call = call.with_queue(f"queue-{number % queues}")
        if priorities > 1:
            call = call.with_priority(number % priorities)
        calls.append(call.call(number, data))
    async with app:
        await app.aenqueue_many(calls)


async def produce(
    numbers: range, size: int, rate: float, batch: int = 1, notify: bool = True
) -> None:
    """``batch`` jobs go into each transaction; ``rate`` still counts jobs."""
    data, producing = padding(size), App(URL, notify=notify)
    noop = producing.task(name="noop")(body)
    async with producing:
        async for turn in pace(range(len(numbers) // batch), rate / batch):
            together = numbers[turn * batch : (turn + 1) * batch]
            if batch == 1:
                await noop.aenqueue(together[0], data)
            else:
                await producing.aenqueue_many([noop.call(number, data) for number in together])
            for number in together:
                sent(number)


if __name__ == "__main__":
    main("benchmarks.contestants.pgqueue")
