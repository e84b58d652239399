"""Pausing tasks and everything, cancelling by filter, and changing what waits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App, Change, ConfigError, Filter, Task
from pgqueue.operations import claims
from pgqueue.operations.claims import Lane, Taking
from tests.cli.support import Cli
from tests.model.machine import perform
from tests.support import drain, eventually_async, statuses, working


@pytest.fixture
def cli(dsn: str) -> Cli:
    return Cli(dsn)


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.fixture
def tasks(app: App, ran: list[str]) -> tuple[Task[Any, Any], Task[Any, Any]]:
    @app.task(name="mail")
    async def mail(n: int = 0) -> None:
        ran.append("mail")

    @app.task(name="report")
    async def report(n: int = 0) -> None:
        ran.append("report")

    return mail, report


async def test_a_paused_task_is_not_started(app: App, tasks: Any, ran: list[str]) -> None:
    mail, report = tasks
    app.client.pause_task("mail")
    app.enqueue_many([mail.call(), report.call(), mail.with_queue("other").call()])
    await drain(app)
    assert ran == ["report"]
    assert [(p.kind, p.name) for p in app.client.paused()] == [("task", "mail")]
    assert app.client.resume_task("mail")
    assert not app.client.resume_task("mail")
    await drain(app)
    assert ran == ["report", "mail", "mail"]


async def test_paused_while_it_claims_from_a_cursor(app: App, tasks: Any, ran: list[str]) -> None:
    """The guards of the claim that goes on from where the last one ended."""
    mail, report = tasks

    @app.task(name="pauses")
    async def pauses(what: str) -> None:
        await (app.aclient.pause("*") if what == "*" else app.aclient.pause_task(what))

    await pauses.aenqueue("mail")
    app.enqueue_many([mail.call(), report.call()])
    await drain(app, concurrency=1, prefetch=0)
    assert ran == ["report"]
    await pauses.aenqueue("*")
    app.enqueue_many([report.call()] * 3)
    await drain(app, concurrency=1, prefetch=0)
    assert ran == ["report"]


async def test_everything_is_paused(app: App, tasks: Any, ran: list[str]) -> None:
    mail, report = tasks
    app.client.pause("*")
    app.client.pause("mine")
    app.enqueue_many([mail.call(), report.with_queue("mine").call()])
    await drain(app)
    assert ran == []
    assert app.client.resume("*")
    await drain(app)
    assert ran == ["mail"], "resuming all undoes pausing all, and nothing else"


@pytest.mark.parametrize("what", ["*", "task"])
async def test_resuming_wakes_idle_workers(
    app: App, tasks: Any, conn: psycopg.Connection, what: str
) -> None:
    mail, _ = tasks
    if what == "*":
        app.client.pause("*")
    else:
        app.client.pause_task("mail")
    job = (await mail.aenqueue()).id
    async with working(app, poll="60s") as runtime:
        await eventually_async(lambda: runtime.notifier and runtime.notifier.works)
        await eventually_async(lambda: runtime.exchanges[0].empty)
        assert app.client.resume("*") if what == "*" else app.client.resume_task("mail")
        await eventually_async(lambda: statuses(conn)[job] == "succeeded")


def test_cancel_by_filter(app: App, tasks: Any, conn: psycopg.Connection) -> None:
    mail, report = tasks
    app.enqueue_many([mail.call(), report.call(), mail.with_queue("other").call()])
    first = app.client.cancel_many(Filter(task="mail"), limit=1)
    second = app.client.cancel_many(Filter(task="mail"), after=max(first), limit=1)
    assert len(first | second) == 2
    assert sorted(statuses(conn).values()) == ["cancelled", "cancelled", "pending"]


async def test_change(app: App, tasks: Any, conn: psycopg.Connection) -> None:
    mail, report = tasks
    a, b = mail.enqueue().id, mail.with_expires("10m").with_delay("1h").enqueue().id
    other = report.enqueue().id
    christmas = datetime(2030, 12, 24, 18, tzinfo=UTC)
    assert app.client.change([a], to=Change(queue="slow", priority=7)) == [a]
    assert app.client.change(None, Filter(task="mail"), to=Change(run_at=christmas)) == [a, b]
    found = [app.client.job(i) for i in (a, b, other)]
    assert [(j.queue, j.priority) for j in found] == [("slow", 7), ("default", 0), ("default", 0)]
    assert found[0].run_at == found[1].run_at == christmas
    assert found[1].expires_at == christmas + timedelta(minutes=10)
    assert found[2].run_at < christmas
    conn.execute("update pgqueue.jobs set status = 'cancelled' where id = %s", (b,))
    assert app.client.change([a, b], to=Change(delay=0)) == [a], "only pending ones"


async def test_made_due_it_is_started_at_once(
    app: App, tasks: Any, conn: psycopg.Connection
) -> None:
    mail, _ = tasks
    job = mail.with_delay("1h").enqueue().id
    async with working(app, poll="60s") as runtime:
        await eventually_async(lambda: runtime.notifier and runtime.notifier.works)
        app.client.change([job], to=Change(delay=0))
        await eventually_async(lambda: statuses(conn)[job] == "succeeded")


@pytest.mark.parametrize(
    ("to", "words"),
    [
        (Change(), "change what"),
        (Change(run_at=datetime(2030, 1, 1, tzinfo=UTC), delay=1), "not both"),
        (Change(run_at=datetime(2030, 1, 1)), "with a time zone"),
        (Change(priority=99999), "priority must be"),
        (Change(queue="a b"), "queue name"),
    ],
)
def test_refused(app: App, to: Change, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        app.client.change([1], to=to)


def test_on_the_command_line(cli: Cli, conn: psycopg.Connection) -> None:
    conn.execute("select pgqueue.enqueue('mail') from generate_series(1, 2500)")
    conn.execute("select pgqueue.enqueue('report')")
    assert (
        cli("pause", "--task", "mail", "--all").stdout == "paused: task mail\npaused: all queues\n"
    )
    assert [row["name"] for row in cli.json("paused")] == ["*", "mail"]
    assert "mail" in cli("paused").stdout
    assert "resumed: all queues" in cli("resume", "--all").stdout
    assert "was not paused" in cli("resume", "--all").stdout
    assert "what? give queues" in cli("pause", code=2).stderr
    assert cli.json("change", "--task", "mail", "--priority", "3", "--dry-run") == {
        "would_change": 2500
    }
    assert (
        "would change: 2,500 pending jobs"
        in cli("change", "--task", "mail", "--to-queue", "q", "--dry-run").stdout
    )
    assert (
        "Change 2,500 pending jobs?"
        in cli("change", "--task", "mail", "--to-queue", "q", code=130, stdin="n\n").stderr
    )
    assert (
        len(cli.json("change", "--task", "mail", "--to-queue", "slow", "--yes")["changed"]) == 2500
    )
    assert cli.json("change", "1", "--delay", "1h")["changed"] == [1]
    assert "is not a time" in cli("change", "1", "--run-at", "tomorrow", code=2).stderr
    assert "change what?" in cli("change", "1", code=2).stderr
    assert "which jobs?" in cli("change", "--priority", "1", code=2).stderr
    assert "not both" in cli("cancel", "1", "--all", code=2).stderr
    assert cli.json("cancel", "--queue", "slow", "--dry-run") == {"would_cancel": 2500}
    assert len(cli.json("cancel", "--queue", "slow", "--yes")["cancelled"]) == 2500
    left = conn.execute(
        "select status, count(*) from pgqueue.jobs group by 1 order by 1"
    ).fetchall()
    assert left == [("cancelled", 2500), ("pending", 1)]


def test_each_claim_knows_what_is_paused(app: App, conn: psycopg.Connection) -> None:
    """Directly, for a worker may find any of the three first."""
    conn.execute("select pgqueue.enqueue('t')")
    lanes = [Lane("default", 0, datetime(2000, 1, 1, tzinfo=UTC), 0)]
    taking: Taking = {"limit": 9, "claim_id": uuid4(), "worker_id": uuid4(), "lease": 60.0}

    def claimed() -> int:
        return (
            len(perform(conn, claims.claim(lanes, **taking)))
            + len(perform(conn, claims.trade([], lanes, delete=False, **taking))[1])
            + len(perform(conn, claims.sweep(None, **taking)).jobs)
        )

    for pause, resume in (
        (lambda: app.client.pause_task("t"), lambda: app.client.resume_task("t")),
        (lambda: app.client.pause("*"), lambda: app.client.resume("*")),
        (lambda: app.client.pause("default"), lambda: app.client.resume("default")),
        (
            lambda: app.client.limit_queue("default", limit=1),
            lambda: app.client.limit_queue("default"),
        ),
    ):
        pause()
        assert claimed() == 0
        resume()
    assert claimed() == 1
