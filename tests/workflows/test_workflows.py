"""Jobs that wait for jobs: order, results handed on, failures, and nothing half enqueued."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, Job, JobFailed
from pgqueue.job import NewJob, Status
from tests.support import drain, eventually_async, statuses, working
from tests.workflows.support import fail, note


async def test_a_chain_runs_in_order_and_hands_results_on(app: App, ran: list[str]) -> None:
    flow = app.workflow("counting")
    first = flow.add(note(app, "a", 10))
    second = first.then(note(app, "b", first.result))
    last = second.then(note(app, "c", second.result))
    enqueued = await flow.aenqueue()
    await drain(app)
    assert ran == ["a", "b", "c"]
    assert await enqueued[last].aresult("5s") == 13
    row = app.client.workflow(enqueued.id)
    assert (row.name, row.status, row.jobs, row.succeeded) == ("counting", "succeeded", 3, 3)
    assert row.finished_at is not None


async def test_fan_out_and_fan_in(app: App, ran: list[str]) -> None:
    @app.task(name="sum")
    def total(parts: list[int], more: dict[str, int]) -> int:
        ran.append("sum")
        return sum(parts) + more["x"]

    flow = app.workflow()
    start = flow.add(note(app, "start"))
    parts = [start.then(note(app, f"part {n}", n)) for n in range(5)]
    end = flow.add(total.call([p.result for p in parts], {"x": start.result}))
    enqueued = flow.enqueue()
    await drain(app)
    assert (ran[0], ran[-1], len(ran)) == ("start", "sum", 7)
    assert await enqueued[end].aresult("5s") == 1 + 2 + 3 + 4 + 5 + 1


async def test_in_the_callers_transaction(
    app: App, ran: list[str], conn: psycopg.Connection, dsn: str
) -> None:
    with psycopg.connect(dsn) as mine:
        app.chain(note(app, "a"), note(app, "b")).enqueue(on=mine)
        assert statuses(conn) == {}
        mine.rollback()
        app.chain(note(app, "a"), note(app, "b")).enqueue(on=mine)
        mine.commit()
    assert sorted(statuses(conn).values()) == ["blocked", "pending"]
    await drain(app)
    assert ran == ["a", "b"]


@pytest.mark.parametrize(
    ("policy", "after", "runs"),
    [("cancel", "cancelled", False), ("continue", "succeeded", True), ("hold", "blocked", False)],
)
async def test_what_becomes_of_those_after_a_failure(
    app: App, ran: list[str], conn: psycopg.Connection, policy: Any, after: str, runs: bool
) -> None:
    flow = app.workflow()
    bad, good = flow.add(fail(app, "bad")), flow.add(note(app, "good"))
    flow.add(note(app, "next"), after=[good, bad], if_failed=policy)
    flow.enqueue()
    await drain(app)
    assert list(statuses(conn).values()) == ["dead", "succeeded", after]
    assert ("next" in ran) == runs


async def test_a_cancelled_chain_says_why_down_to_its_end(
    app: App, ran: list[str], conn: psycopg.Connection
) -> None:
    enqueued = app.chain(fail(app, "bad"), *(note(app, str(n)) for n in range(5))).enqueue()
    await drain(app)
    assert list(statuses(conn).values()) == ["dead"] + ["cancelled"] * 5
    first, second, third, *_ = enqueued.jobs
    assert app.client.job(second.id).last_error == f"ParentFailed: job {first.id} is dead"
    assert app.client.job(third.id).last_error == f"ParentFailed: job {second.id} is cancelled"
    assert app.client.workflow(enqueued.id).status == "dead"
    with pytest.raises(JobFailed):
        await second.aresult("5s")


@pytest.mark.parametrize("failing", [0, 1, 3])
async def test_the_callbacks_of_a_batch(app: App, ran: list[str], failing: int) -> None:
    jobs = [*(note(app, "ok") for _ in range(3)), *(fail(app, "bad") for _ in range(failing))]
    enqueued = app.batch(
        jobs,
        on_success=note(app, "all well"),
        on_failure=note(app, "alarm"),
        on_done=note(app, "sweep up"),
    ).enqueue()
    await drain(app)
    expected = {
        "ok": 3,
        "sweep up": 1,
        **({"alarm": 1, "bad": failing} if failing else {"all well": 1}),
    }
    assert Counter(ran) == expected
    assert app.client.workflow(enqueued.id).status == ("dead" if failing else "succeeded")


async def test_the_alarm_does_not_wait_for_the_rest(app: App, ran: list[str]) -> None:
    go_on = asyncio.Event()

    @app.task(name="slow")
    async def slow() -> None:
        await go_on.wait()

    app.batch([slow.call(), fail(app, "bad")], on_failure=note(app, "alarm")).enqueue()
    async with working(app, concurrency=5):
        await eventually_async(lambda: ran == ["bad", "alarm"])
        go_on.set()


async def test_the_result_of_a_failed_job_is_none(app: App, ran: list[str]) -> None:
    seen: list[int | None] = []

    @app.task(name="maybe")
    async def maybe(value: int | None) -> None:
        seen.append(value)

    flow = app.workflow()
    bad = flow.add(fail(app, "bad"))
    flow.add(maybe.call(bad.result), if_failed="continue")
    flow.enqueue()
    await drain(app)
    assert seen == [None]


async def test_a_result_that_does_not_fit_is_a_dead_job(app: App, ran: list[str]) -> None:
    @app.task(name="strict")
    async def strict(value: str) -> None:
        ran.append(value)

    flow = app.workflow()
    first = flow.add(note(app, "a"))
    last = first.then(strict.call(first.result))
    enqueued = flow.enqueue()
    await drain(app)
    row = app.client.job(enqueued[last].id)
    assert row.status is Status.DEAD
    assert (
        row.last_error
        == "ArgumentsError: the stored arguments do not fit: Expected `str`, got `int` - at `$.value`".replace(
            "`", "'"
        )
        or "Expected" in str(row.last_error)
    )
    assert ran == ["a"]


async def test_delay_counts_from_the_last_it_waits_for(
    app: App, ran: list[str], conn: psycopg.Connection
) -> None:
    flow = app.workflow()
    first = flow.add(note(app, "a"))
    delayed = NewJob("note", '{"name": "b"}', delay=3600.0, expires=60.0)
    first.then(delayed)
    enqueued = flow.enqueue()
    conn.execute(
        "update pgqueue.jobs set created_at = created_at - interval '1 day', run_at = run_at - interval '1 day', expires_at = expires_at - interval '1 day'"
    )
    await drain(app)
    row = app.client.job(enqueued.jobs[1].id)
    assert row.status is Status.PENDING
    assert (row.run_at - app.client.job(enqueued.jobs[0].id).finished_at).total_seconds() >= 3600  # type: ignore[operator]
    assert row.expires_at is not None
    assert (row.expires_at - row.run_at).total_seconds() == 60


async def test_of_a_job_class_a_thread_and_a_transaction(app: App, ran: list[str]) -> None:
    class Half(Job):
        number: int
        name = "half"

        async def handle(self, ctx: Context) -> float:
            async with ctx.transaction() as connection:
                await connection.execute("select 1")
            assert ctx.workflow_id is not None
            return self.number / 2

    flow = app.workflow()
    first = flow.add(app.dispatch(Half(3)).call())

    @app.task(name="thread")
    def thread(value: float) -> None:
        ran.append(str(value))

    first.then(thread.call(first.result))
    await flow.aenqueue()
    await drain(app)
    assert ran == ["1.5"]
