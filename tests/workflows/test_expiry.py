"""When a job expires: the table of docs/rules/workflows.md, row by row."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App, Context, Dead, Retry, Snooze
from pgqueue.operations import claims, maintenance
from pgqueue.operations.claims import Finished
from pgqueue.operations.jobs import Change
from pgqueue.outcome import RELEASED
from tests.model.machine import perform
from tests.support import drain, eventually_async, make_due, statuses, working
from tests.workflows.rules import table

Connection = psycopg.Connection[Any]
NEVER = "never"


class Tasks:
    """``note`` succeeds, ``dead`` does not."""

    def __init__(self, app: App) -> None:
        self.ran: list[str] = []

        @app.task(name="note")
        async def note(name: str) -> None:
            self.ran.append(name)

        @app.task(name="dead", max_retries=0)
        async def dead() -> None:
            raise Dead("dead")

        self.note, self.dead = note, dead


@pytest.fixture
def tasks(app: App) -> Tasks:
    return Tasks(app)


def bounds(conn: Connection, job: int) -> str | None:
    """How long after it is due the job expires."""
    row = conn.execute("select (expires_at - run_at)::text from pgqueue.jobs where id = %s", (job,)).fetchone()  # fmt: skip
    assert row is not None
    return row[0]


def age(conn: Connection) -> None:
    """A day goes by for what has not ended."""
    conn.execute("update pgqueue.jobs set run_at = run_at - interval '1 day', expires_at = expires_at - interval '1 day'"
                 " where status in ('blocked', 'pending')")  # fmt: skip


MINUTE = "00:01:00"


async def enqueued(app: App, conn: Connection, tasks: Tasks) -> None:
    job = tasks.note.with_expires("60s").enqueue("a").id
    assert bounds(conn, job) == MINUTE


async def delayed(app: App, conn: Connection, tasks: Tasks) -> None:
    task = tasks.note.with_expires("60s").with_delay("1h")
    alone = task.enqueue("a").id
    flow = app.workflow()
    root = flow.add(task.call("b"))
    for job in (alone, flow.enqueue()[root].id):
        assert bounds(conn, job) == MINUTE


async def waiting(app: App, conn: Connection, tasks: Tasks) -> None:
    """Through every kind of callback, by the task's own time, that of its queue, and in SQL."""
    app.client.set_queue("hasty", expires="60s")
    note, dead = tasks.note, tasks.dead
    flows = []
    for late in (
        note.with_expires("60s"),
        note.with_queue("hasty"),
        note.with_expires("60s").with_delay("1h"),
    ):
        flows += [
            app.chain(note.call("a"), late.call("b")),
            app.batch([dead.call()], on_failure=late.call("b"), on_done=late.call("c")),
            app.batch([note.call("a")], on_success=late.call("b"), on_done=late.call("c")),
        ]
        graph = app.workflow()
        graph.add(late.call("b"), after=graph.add(dead.call()), if_failed="only")
        flows.append(graph)
    jobs = [job for flow in flows for job in flow.enqueue().jobs]
    conn.execute(
        """select pgqueue.enqueue_workflow('[{"task": "dead", "max_retries": 0},
             {"task": "note", "args": {"name": "b"}, "expires": 60, "after": [1], "if_failed": "only"},
             {"task": "note", "args": {"name": "c"}, "queue": "hasty", "after": [1], "if_failed": "continue"}]')"""
    )
    age(conn)
    await drain(app, queues=["default"])
    rows = conn.execute(
        "select status, (expires_at - run_at)::text, run_at > now() - interval '1 hour' from pgqueue.jobs"
        " where expires_at is not null and status <> 'blocked'"
    ).fetchall()
    assert len(rows) == len([job for job in jobs if bounds(conn, job.id)]) + 2
    assert set(rows) <= {("pending", MINUTE, True), ("succeeded", MINUTE, True)}
    assert "blocked" not in statuses(conn).values()


async def moved(app: App, conn: Connection, tasks: Tasks) -> None:
    job = tasks.note.with_expires("60s").enqueue("a").id
    app.client.change([job], to=Change(delay="2h"))
    assert bounds(conn, job) == MINUTE


async def given_back(app: App, conn: Connection, tasks: Tasks) -> None:
    """Both ways: the whole claim, and one of it."""
    job = tasks.note.with_expires("60s").enqueue("a").id
    for way in ("release", "fail"):
        claim_id = uuid4()
        sweep = claims.sweep(None, limit=9, claim_id=claim_id, worker_id=uuid4(), lease=60)
        (claimed,) = perform(conn, sweep).jobs
        if way == "release":
            perform(conn, claims.release(claim_id))
        else:
            perform(conn, claims.fail([Finished(job, claim_id, RELEASED, 0.0, job=claimed)]))
        assert statuses(conn)[job] == "pending"
        assert bounds(conn, job) == MINUTE


async def started(app: App, conn: Connection, tasks: Tasks) -> None:
    met: list[str] = []

    def again(name: str, act: Callable[[Context], Any], sync: bool = False) -> int:
        first = []

        async def run(ctx: Context) -> None:
            if not first:
                first.append(name)
                conn.execute("update pgqueue.jobs set expires_at = now() where id = %s", (ctx.id,))
            if isinstance(waits := act(ctx), Awaitable):
                await waits
            met.append(name)

        def run_in_thread(ctx: Context) -> None:
            if not first:
                first.append(name)
                conn.execute("update pgqueue.jobs set expires_at = now() where id = %s", (ctx.id,))
            act(ctx)
            met.append(name)

        made = app.task(name=name, expires="60s", backoff=3600)(run_in_thread if sync else run)
        return int(made.enqueue().id)

    def once(error: BaseException) -> Callable[[Context], None]:
        left = [error]

        def act(ctx: Context) -> None:
            if left:
                raise left.pop()

        return act

    jobs = [
        again("raises", once(ValueError("once"))),
        again("raises in a thread", once(ValueError("once")), sync=True),
        again("Retry", once(Retry("soon", after=3600))),
        again("Snooze", once(Snooze(3600))),
        again("sleeps", lambda ctx: ctx.sleep("1h")),
        again("sleeps in a thread", lambda ctx: ctx.sleep("1h"), sync=True),
        again("waits", lambda ctx: ctx.wait_for_event("go", "1d")),
    ]
    await drain(app)
    assert [statuses(conn)[job] for job in jobs] == ["pending"] * len(jobs)
    assert [bounds(conn, job) for job in jobs] == [None] * len(jobs)
    assert perform(conn, maintenance.expire()) == []
    app.emit("go")
    conn.execute("update pgqueue.steps set wakes_at = now() where event is null")
    make_due(conn)
    await drain(app)
    assert len(met) == len(jobs)


async def interrupted(app: App, conn: Connection, tasks: Tasks) -> None:
    """Its worker stops while it runs, and another goes on."""
    began = asyncio.Event()

    @app.task(name="long", expires="60s")
    async def long() -> None:
        began.set()
        await asyncio.Event().wait()

    job = long.enqueue().id
    async with working(app, grace=0):
        await began.wait()
    assert statuses(conn)[job] == "pending"
    assert bounds(conn, job) is None


async def crashed(app: App, conn: Connection, tasks: Tasks) -> None:
    job = tasks.note.with_expires("60s").enqueue("a").id
    sweep = claims.sweep(None, limit=9, claim_id=uuid4(), worker_id=uuid4(), lease=60)
    assert len(perform(conn, sweep).jobs) == 1
    conn.execute("update pgqueue.jobs set lease_expires_at = now() - interval '1 s'")
    assert len(perform(conn, maintenance.rescue(max_crashes=3))) == 1
    assert (statuses(conn)[job], bounds(conn, job)) == ("pending", None)


async def retried(app: App, conn: Connection, tasks: Tasks) -> None:
    flow = app.workflow()
    first = flow.add(tasks.note.with_delay("1h").call("a"))
    second = first.then(tasks.note.with_expires("60s").call("b"))
    alone = tasks.note.with_expires("60s").enqueue("c").id
    keyed = tasks.note.with_unique("k").with_expires("60s").enqueue("d").id
    jobs = [flow.enqueue()[second].id, alone, keyed]
    for job in jobs:
        app.client.cancel(job)
        assert app.client.retry(job)
        assert bounds(conn, job) is None


ROWS: dict[str, list[tuple[str, Callable[[App, Connection, Tasks], Awaitable[None]]]]] = {
    "enqueued": [("the time after it was enqueued", enqueued)],
    "with a delay or a run_at": [("the time after that", delayed)],
    "waits for others, on_failure and the other callbacks as well": [
        ("the time after it became due: the last end that it waited for, and its delay", waiting)
    ],
    "moved by client.change": [("the time after its new run_at", moved)],
    "given back by a worker before it started": [("as before", given_back)],
    "its handler has started, and it is retried, snoozed, sleeps or waits for an event": [
        (NEVER, started), (NEVER, interrupted)
    ],
    "its worker died with it": [(NEVER, crashed)],
    "retried by hand": [(NEVER, retried)],
}  # fmt: skip


def test_the_page_has_these_rows() -> None:
    _, rows = table("When a job expires")
    assert rows == [[what, when[0][0]] for what, when in ROWS.items()]


@pytest.mark.parametrize("what", [act for row in ROWS.values() for _, act in row])
async def test_when_a_job_expires(
    app: App,
    conn: Connection,
    tasks: Tasks,
    what: Callable[[App, Connection, Tasks], Awaitable[None]],
) -> None:
    await what(app, conn, tasks)


async def test_an_alarm_whose_failure_comes_late_runs(
    app: App, conn: Connection, tasks: Tasks
) -> None:
    """With a worker that looks for what has expired."""
    flow = app.batch([tasks.dead.with_delay("1h").call()], on_failure=tasks.note.with_expires("60s").call("alarm"))  # fmt: skip
    enqueued = flow.enqueue()
    age(conn)
    async with working(app):
        await eventually_async(lambda: tasks.ran == ["alarm"])
        await eventually_async(lambda: app.client.workflow(enqueued.id).status == "dead")
