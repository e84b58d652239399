"""Middleware around enqueueing and runs, hooks at ends, and resources of a worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import psycopg
import pytest

from pgqueue import App, Backoff, ConfigError, Context, Ended, Job, given
from pgqueue.job import NewJob
from pgqueue.testing import QueueTester
from tests.support import drain, eventually_async, statuses, working

SAID: ContextVar[str] = ContextVar("SAID", default="")


class Client:
    """Something worth opening once."""

    def __init__(self) -> None:
        self.open = True


async def test_around_runs(app: App) -> None:
    heard: list[str] = []

    @app.around_run
    @asynccontextmanager
    async def outer(ctx: Context) -> AsyncIterator[None]:
        heard.append(f"> {ctx.task}")
        try:
            yield
        except ValueError as error:
            heard.append(f"! {error}")
            raise
        finally:
            heard.append(f"< {ctx.task}")

    @app.around_run
    @contextmanager
    def inner(ctx: Context) -> Iterator[None]:
        token = SAID.set(threading.current_thread().name)
        yield
        SAID.reset(token)

    @app.task(name="coroutine")
    async def coroutine() -> None:
        heard.append(f"coroutine in {SAID.get()}")

    @app.task(name="thread", max_retries=0)
    def thread() -> None:
        heard.append(f"thread in {SAID.get().partition('_')[0]}")
        raise ValueError("no")

    for task in (coroutine, thread):
        await task.aenqueue()
        await drain(app)
    assert heard == [
        "> coroutine", "coroutine in MainThread", "< coroutine",
        "> thread", "thread in pgqueue-job", "! no", "< thread",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_manager_may_swallow_or_raise(
    app: App, conn: psycopg.Connection, kind: str
) -> None:
    @app.around_run
    @contextmanager
    def manager(ctx: Context) -> Iterator[None]:
        if ctx.attempt > 1:
            raise RuntimeError("not again")
        with suppress(KeyError):
            yield

    @app.task(name="a", max_retries=1, backoff=0)
    async def a(how: str) -> None:
        raise {"swallowed": KeyError, "raised": ValueError}[how]

    @app.task(name="t", max_retries=1, backoff=0)
    def t(how: str) -> None:
        raise {"swallowed": KeyError, "raised": ValueError}[how]

    task: Any = a if kind == "async" else t
    swallowed, raised = (task.enqueue(how).id for how in ("swallowed", "raised"))
    await drain(app)
    assert statuses(conn) == {swallowed: "succeeded", raised: "dead"}
    assert app.client.job(raised).last_error == "RuntimeError: not again"


async def test_around_enqueues(app: App, dsn: str) -> None:
    heard: list[Any] = []

    @app.around_enqueue
    @contextmanager
    def traced(jobs: Sequence[NewJob]) -> Iterator[None]:
        heard.append([job.task for job in jobs])
        try:
            yield
        finally:
            heard.append("done")

    @app.task(name="t")
    def t() -> None: ...

    await asyncio.to_thread(t.enqueue)
    await t.aenqueue()
    app.enqueue_many([t.call()] * 2)
    assert heard == [["t"], "done", ["t"], "done", ["t", "t"], "done"]


async def test_hooks_hear_of_ends(app: App, conn: psycopg.Connection) -> None:
    heard: list[tuple[str, Ended]] = []

    @app.task(name="good")
    async def good() -> None: ...

    @app.task(name="bad", max_retries=1, backoff=Backoff.constant("0s"))
    async def bad() -> None:
        raise ValueError("no")

    class Other(Job):
        name = "heard_of"

        async def handle(self) -> None: ...

    @app.on_success
    def success(ended: Ended) -> None:
        heard.append(("success", ended))

    @app.on_retry(bad, good)
    async def retry(ended: Ended) -> None:
        heard.append(("retry", ended))

    @app.on_dead(bad)
    async def dead(ended: Ended) -> None:
        heard.append(("dead", ended))
        raise RuntimeError("a hook that raises costs nothing")

    @app.on_success(Other)
    def other(ended: Ended) -> None:
        heard.append(("other", ended))

    one, two, three = good.enqueue().id, bad.enqueue().id, app.dispatch(Other()).enqueue().id
    await drain(app)
    await drain(app)
    assert sorted((kind, ended.job_id) for kind, ended in heard) == [
        ("dead", two), ("other", three), ("retry", two), ("success", one), ("success", three),
    ]  # fmt: skip
    (ended,) = (each for kind, each in heard if kind == "dead")
    assert (ended.task, ended.attempt, ended.error_type, ended.error, ended.wait) == (
        "bad", 2, "ValueError", "no", None,
    )  # fmt: skip


async def test_a_job_that_killed_its_workers_is_heard_of(
    app: App, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Ended] = []
    app.on_dead(heard.append)

    @app.task(name="t", queue="mail")
    async def t() -> None: ...

    job = t.enqueue().id
    conn.execute(
        "update pgqueue.jobs set status = 'running', crashes = 2, quarantine = 1, worker_id = gen_random_uuid(),"
        " claim_id = gen_random_uuid(), lease_expires_at = '2020-01-01'"
    )
    async with working(app):
        await eventually_async(lambda: heard)
    found = heard[0]
    assert (found.job_id, found.queue, found.error_type) == (job, "mail", "WorkerCrashed")
    (line,) = [record for record in caplog.records if record.name == "pgqueue.job"]
    assert line.levelname == "ERROR"
    assert f"job {job} (t, queue mail) attempt 0 of 11: dead, see pgqueue job {job}" in line.message


@pytest.mark.parametrize("is_async", [True, False])
async def test_hooks_that_fall_behind_hold_up_claims_and_are_all_called(
    app: App, conn: psycopg.Connection, is_async: bool
) -> None:
    gate, agate = threading.Event(), asyncio.Event()
    heard: list[int] = []

    def slow(ended: Ended) -> None:
        gate.wait()
        heard.append(ended.job_id)

    async def aslow(ended: Ended) -> None:
        await agate.wait()
        heard.append(ended.job_id)

    app.on_success(aslow if is_async else slow)

    @app.task(name="t")
    async def t() -> None: ...

    jobs = [job.id for job in app.enqueue_many([t.call()] * 1300)]
    async with working(app, concurrency=10) as runtime:
        await eventually_async(lambda: runtime.hooking.behind)
        await eventually_async(lambda: not runtime.executors[0].held)
        # Those that wait, those under way, and at most a slot and a job ahead each that were held already.
        assert len(runtime.hooking._running) == 16
        assert len(runtime.hooking._waiting) < 1000 + 200
        assert statuses(conn)[jobs[-1]] == "pending"
        gate.set()
        agate.set()
        await eventually_async(lambda: sorted(heard) == jobs)
    assert set(statuses(conn).values()) == {"succeeded"}


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_resource_is_opened_once(app: App, is_async: bool) -> None:
    opened: list[Client] = []
    seen: list[tuple[Client, bool]] = []

    def client() -> Iterator[Client]:
        opened.append(Client())
        yield opened[-1]
        opened[-1].open = False

    async def aclient() -> AsyncIterator[Client]:
        opened.append(Client())
        yield opened[-1]
        opened[-1].open = False

    app.resource(aclient if is_async else client)

    @app.task(name="by_annotation")
    async def by_annotation(number: int, client: Client = given()) -> None:
        seen.append((client, client.open))

    @app.task(name="by_context")
    def by_context(ctx: Context) -> None:
        found = ctx.resource(Client)
        seen.append((found, found.open))

    for number in range(3):
        await by_annotation.aenqueue(number)
        await by_context.aenqueue()
    assert opened == []
    await drain(app)
    assert seen == [(opened[0], True)] * 6
    assert len(opened) == 1
    assert not opened[0].open


async def test_a_resource_that_cannot_be_opened_ends_the_worker(app: App) -> None:
    @app.resource
    def broken() -> Iterator[Client]:
        raise OSError("no such server")
        yield Client()

    with pytest.raises(OSError, match="no such server"):
        await drain(app)


async def test_none_of_this_type(app: App) -> None:
    @app.task(name="t", max_retries=0)
    async def t(client: Client = given()) -> None: ...

    job = (await t.aenqueue()).id
    await drain(app)
    assert "no resource of type Client here" in (app.client.job(job).last_error or "")


def test_refused(app: App) -> None:
    def no_generator() -> Client:
        return Client()

    def untyped():  # type: ignore[no-untyped-def]
        yield 1

    def client() -> Iterator[Client]:
        yield Client()

    for wrong in (no_generator, untyped):
        with pytest.raises(ConfigError, match="must be a generator function"):
            app.resource(wrong)
    app.resource(client)
    with pytest.raises(ConfigError, match="two resources of type Client"):
        app.resource(client)
    with pytest.raises(ConfigError, match="hooks take tasks"):
        app.on_dead("t")


def test_a_test_gives_its_own(app: App, conn: psycopg.Connection) -> None:
    mine = Client()
    seen: list[Client] = []

    @app.task(name="t")
    def t(client: Client = given()) -> None:
        seen.append(client)

    t.on(conn).enqueue()
    QueueTester(app, conn, resources={Client: mine}).drain()
    assert seen == [mine]
