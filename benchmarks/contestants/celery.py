"""Celery on Redis: a prefork pool, results ignored."""

import os
import sys

from celery import Celery

from benchmarks.contestants.harness import URL, main, pace, padding, run, sent

app = Celery("benchmarks", broker=URL)
app.conf.task_ignore_result = True


@app.task(name="noop")
def noop(number: int, data: str) -> None:
    run(number)


def prepare() -> None:
    """Redis has no schema."""


def enqueue(numbers: range, size: int) -> None:
    data = padding(size)
    for number in numbers:
        noop.delay(number, data)


async def produce(numbers: range, size: int, rate: float) -> None:
    data = padding(size)
    async for number in pace(numbers, rate):
        noop.delay(number, data)
        sent(number)


def work(concurrency: int) -> None:
    program = [sys.executable, "-m", "celery", "-A", "benchmarks.contestants.celery", "worker"]
    os.execv(sys.executable, [*program, "-c", str(concurrency), "-l", "ERROR"])


if __name__ == "__main__":
    main("benchmarks.contestants.celery")
