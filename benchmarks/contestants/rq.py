"""RQ on Redis: jobs run in the worker's own process, not in a fork each; results not kept."""

from redis import Redis
from rq import Queue, SimpleWorker

from benchmarks.contestants.harness import URL, main, pace, padding, run, sent


def noop(number: int, data: str) -> None:
    run(number)


def prepare() -> None:
    """Redis has no schema."""


def enqueue(numbers: range, size: int) -> None:
    redis, data = Redis.from_url(URL), padding(size)
    queue = Queue(connection=redis)
    for at in range(0, len(numbers), 1000):
        with redis.pipeline() as pipe:
            batch = [
                Queue.prepare_data(noop, (number, data), result_ttl=0)
                for number in numbers[at : at + 1000]
            ]
            queue.enqueue_many(batch, pipeline=pipe)
            pipe.execute()


async def produce(numbers: range, size: int, rate: float) -> None:
    queue, data = Queue(connection=Redis.from_url(URL)), padding(size)
    async for number in pace(numbers, rate):
        queue.enqueue(noop, number, data, result_ttl=0)
        sent(number)


def work(concurrency: int) -> None:
    redis = Redis.from_url(URL)
    SimpleWorker([Queue(connection=redis)], connection=redis).work(logging_level="ERROR")


if __name__ == "__main__":
    main("benchmarks.contestants.rq")
