"""What handlers return, say and log: kept, typed, and waited for by one look for all."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, Cancel, Context, Dead, Job, JobFailed, ResultMissing, waiting
from pgqueue.joblog import JobLog, Progress
from pgqueue.operations.jobs import Change
from tests.results import tasks
from tests.support import drain, eventually_async, working


@dataclass
class Total:
    day: date
    cents: int


@pytest.fixture
async def in_processes(dsn: str) -> AsyncIterator[App]:
    tasks.app.use(dsn=dsn)
    yield tasks.app
    await tasks.app.aclose()


async def test_a_result_has_the_type_of_its_task(app: App) -> None:
    @app.task(name="total", result=True)
    async def total(day: date) -> Total:
        return Total(day, 120)

    @app.task(name="sync", result=True)
    def sync() -> list[int]:
        return [1, 2]

    handle, other = await total.aenqueue(date(2026, 1, 2)), await sync.aenqueue()
    await drain(app)
    assert await handle.aresult("5s") == Total(date(2026, 1, 2), 120)
    assert await asyncio.to_thread(other.result, 5) == [1, 2]
    assert await app.handle(handle.id, total).aresult() == Total(date(2026, 1, 2), 120)


async def test_of_a_job_class_and_of_a_process(app: App, in_processes: App) -> None:
    class Twice(Job):
        number: int
        result = True
        name = "twice"

        async def handle(self) -> int:
            return self.number * 2

    handle = await in_processes.dispatch(Twice(4)).aenqueue()
    other = await tasks.in_process.aenqueue(21)
    await drain(in_processes, processes=1)
    assert await handle.aresult(5) == 8
    assert await other.aresult(5) == 42
    (attempt,) = in_processes.client.attempts(other.id)
    assert (attempt.outcome, attempt.log is not None and attempt.log.endswith("INFO got 21")) == (
        "succeeded", True,
    )  # fmt: skip


async def test_of_a_job_that_completed_in_its_transaction(app: App) -> None:
    @app.task(name="t", result=True)
    async def t(ctx: Context) -> str:
        async with ctx.transaction():
            ctx.log.info("in a transaction")
        return "done"

    handle = await t.aenqueue()
    await drain(app)
    assert await handle.aresult(5) == "done"
    (attempt,) = app.client.attempts(handle.id)
    assert attempt.outcome == "succeeded"


async def test_kept_rows_outlive_keep_succeeded_of_0(app: App) -> None:
    @app.task(name="t", result=True)
    async def t() -> int:
        return 1

    @app.task(name="plain")
    async def plain() -> None: ...

    handle, gone = await t.aenqueue(), await plain.aenqueue()
    async with working(app, keep_succeeded=0):
        assert await handle.aresult(20) == 1
        # Deleted on success: never seen, or gone after it was.
        with pytest.raises((TimeoutError, ResultMissing), match=r"has not ended within|is gone"):
            await gone.aresult(0.1)


async def test_there_is_none(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="plain")
    async def plain(how: str = "") -> Any:
        if how == "dead":
            raise Dead("no")
        if how == "cancel":
            raise Cancel("no")

    @app.task(name="huge", result=True)
    async def huge(what: str) -> Any:
        return "x" * 1_100_000 if what == "large" else object()

    ended = [await plain.aenqueue(how) for how in ("", "dead", "cancel")]
    bad = [await huge.aenqueue(what) for what in ("large", "object")]
    await drain(app)
    for handle, error, words in (
        (ended[0], ResultMissing, "needs result=True"),
        (ended[1], JobFailed, "is dead"),
        (ended[2], JobFailed, "is cancelled"),
        (bad[0], ResultMissing, "JSON of at most 1 MB"),
    ):
        with pytest.raises(error, match=words):
            await handle.aresult(5)
        with pytest.raises(error, match=words):
            await asyncio.to_thread(handle.result, 5)
    assert [app.client.job(h.id).status for h in bad] == ["succeeded", "succeeded"]
    assert "ResultNotStored: " in (app.client.job(bad[1].id).last_error or "")
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(plain.with_delay("1h").enqueue().result, "20ms")


@pytest.mark.parametrize("timeout", [0, "0s", timedelta(0), 1e-9])
async def test_however_short_the_timeout_it_looks_once(app: App, timeout: Any) -> None:
    @app.task(name="t", result=True)
    async def t(number: int) -> int:
        if number == 0:
            raise Dead("no")
        return number

    good, bad, waiting_ = [await t.aenqueue(n) for n in (7, 0, 1)]
    await asyncio.to_thread(app.client.change, [waiting_.id], to=Change(delay="1h"))
    await drain(app)
    for handle in (good, app.handle(good.id, "t")):
        assert await handle.aresult(timeout) == 7
        assert await asyncio.to_thread(handle.result, timeout) == 7
    for wait in (lambda h: h.aresult(timeout), lambda h: asyncio.to_thread(h.result, timeout)):
        with pytest.raises(JobFailed):
            await wait(bad)
        with pytest.raises(TimeoutError, match=f"job {waiting_.id} has not ended"):
            await wait(waiting_)
        with pytest.raises(TimeoutError, match="job 999 has not ended"):
            await wait(app.handle(999, "t"))


async def test_a_row_that_goes_while_somebody_waits(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="t", result=True)
    async def t() -> int:
        return 1

    handle = await t.aenqueue()
    waits = asyncio.create_task(handle.aresult(20))
    await eventually_async(lambda: any(w.seen for w in app._awaiting_here()._waiters._all))
    conn.execute("delete from pgqueue.jobs")
    with pytest.raises(ResultMissing, match="is gone"):
        await waits


async def test_a_hundred_wait_with_one_look(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="t", result=True)
    async def t(number: int) -> int:
        return number

    handles = await app.aenqueue_many(t.call(n) for n in range(100))
    looks = 0
    run = app.client._run_any

    def counted(operation: Any, on: object) -> Any:
        nonlocal looks
        looks += 1
        assert operation.statement == "get_ends"
        return run(operation, on)

    app._waiting = waiting.SyncWaiting(lambda operation: counted(operation, None))
    with ThreadPoolExecutor(100) as pool:
        loop = asyncio.get_running_loop()
        results = [loop.run_in_executor(pool, handle.result, 20) for handle in handles]
        each = asyncio.gather(*(handle.aresult(20) for handle in handles))
        await eventually_async(lambda: len(app._waiting._waiters.wanted()) == 100)
        before = looks
        async with working(app):
            assert sorted(await asyncio.gather(*results)) == list(range(100))
            assert sorted(await each) == list(range(100))
    assert looks - before < 100


def test_pauses_grow_with_the_wait() -> None:
    assert waiting.pause([0.0, 100.0]) == waiting.SHORTEST
    assert waiting.pause([5.0, 100.0]) == 0.5
    assert waiting.pause([100.0]) == waiting.LONGEST


def test_a_bad_format_costs_no_job() -> None:
    kept = JobLog()
    kept.emit(logging.LogRecord("n", logging.INFO, "p", 1, "%d", ("no number",), None))
    assert (kept.text() or "").endswith("INFO (a line that raised TypeError)")


async def test_progress(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="t")
    async def t(ctx: Context) -> None:
        for done in range(1000):
            ctx.progress(done + 1, 1000, "rows")
        while not app.client.job(ctx.id).progress:
            await asyncio.sleep(0.01)

    job = (await t.aenqueue()).id
    await drain(app)
    assert app.client.job(job).progress == {"done": 1000, "total": 1000, "message": "rows"}


async def test_progress_of_a_process(in_processes: App) -> None:
    job = (await tasks.slow_process.aenqueue(2.5)).id
    await drain(in_processes, processes=1)
    assert in_processes.client.job(job).progress["message"] == "burning"


async def test_one_thread_tells_the_progress_of_all_jobs_of_a_process(in_processes: App) -> None:
    before = await tasks.tellers.aenqueue()
    slow = [(await tasks.slow_process.aenqueue(1.5)).id for _ in range(2)]
    after = await tasks.tellers.aenqueue()
    await drain(in_processes, processes=1, concurrency=1)
    for job in slow:
        assert in_processes.client.job(job).progress["message"] == "burning"
    threads = await before.aresult(5)
    assert len(threads) == 1
    assert await after.aresult(5) == threads


@pytest.mark.parametrize("value", ["half", None])
async def test_progress_of_what_is_no_number(app: App, value: Any) -> None:
    @app.task(name="t", max_retries=0)
    async def t(ctx: Context) -> None:
        ctx.progress(value)

    job = (await t.aenqueue()).id
    await drain(app)
    assert "ctx.progress takes numbers" in (app.client.job(job).last_error or "")


async def test_the_log_is_kept_with_the_attempt(app: App, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pgqueue.job")

    @app.task(name="t", max_retries=1, backoff=0)
    def t(ctx: Context, password: str) -> None:
        for n in range(250):
            ctx.log.info("line %d with %s", n, password)
        if ctx.attempt == 1:
            raise ValueError

    job = (await t.aenqueue("hunter2")).id
    await drain(app)
    attempts = app.client.attempts(job)
    assert [each.outcome for each in attempts] == ["retry", "succeeded"]
    for each in attempts:
        assert each.log is not None
        assert each.log.startswith("(earlier lines left out)")
        assert "line 249" in each.log
        assert "hunter2" not in each.log
    assert "line 1 with" in caplog.text


async def test_the_log_of_a_process_that_failed(in_processes: App) -> None:
    job = (await tasks.fails_in_process.aenqueue()).id
    await drain(in_processes, processes=1)
    (failed,) = in_processes.client.attempts(job)
    assert (failed.log or "").endswith("WARNING about to fail")


def test_each_look_at_a_job_tells_what_its_handler_said_since_the_last() -> None:
    """The services that look do so once a second; a second clock here made that two."""
    progress = Progress()
    assert progress.news() is None
    for done in (1, 2, 3):
        progress.say(done, None, None)
        assert json.loads(progress.news() or "") == {"done": done, "total": None, "message": None}
        assert progress.news() is None
