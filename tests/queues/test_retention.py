"""How long ended jobs are kept, queue by queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
import pytest

from pgqueue import App, Dead
from pgqueue.job import Status
from pgqueue.operations import maintenance
from tests.model.machine import perform
from tests.support import drain


def kept(conn: psycopg.Connection) -> list[str]:
    return [row[0] for row in conn.execute("select queue from pgqueue.jobs order by queue")]


@pytest.mark.parametrize("status", ["succeeded", "dead", "cancelled"])
def test_each_queue_has_its_own(conn: psycopg.Connection, status: str) -> None:
    conn.execute(
        "insert into pgqueue.jobs (task, queue, status, finished_at) select 't', q, %s, now() - interval '1 hour'"
        " from unnest('{short,long,plain}'::text[]) q", [status]
    )  # fmt: skip
    conn.execute(
        f"insert into pgqueue.queues (name, keep_{status}) values ('short', '1 minute'), ('long', '1 day')".encode()
    )
    perform(conn, maintenance.prune(Status(status), age=None))
    assert kept(conn) == ["long", "plain"]
    perform(conn, maintenance.prune(Status(status), age=60.0))
    assert kept(conn) == ["long"]


def test_that_of_one_status_says_nothing_of_another(conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into pgqueue.jobs (task, queue, status, finished_at) select 't', 'q', s, now() - interval '1 hour'"
        " from unnest('{succeeded,dead,cancelled}'::text[]) s"
    )
    conn.execute("insert into pgqueue.queues (name, keep_dead) values ('q', '1 minute')")
    for status in (Status.SUCCEEDED, Status.DEAD, Status.CANCELLED):
        perform(conn, maintenance.prune(status, age=None))
    left = conn.execute("select status from pgqueue.jobs order by status").fetchall()
    assert left == [("cancelled",), ("succeeded",)]


@pytest.mark.parametrize("worker", ["1d", 0])
async def test_a_queue_says_which_successes_go_at_once(
    app: App, conn: psycopg.Connection, worker: Any
) -> None:
    settings: Mapping[str, Any] = {"gone": 0, "stays": "forever"}
    for name, keep in settings.items():
        app.queue(name, keep_succeeded=keep)

    @app.task(name="t")
    async def t(fail: bool = False) -> None:
        if fail:
            raise Dead("no")

    app.enqueue_many(
        t.with_queue(queue).call() for _ in range(50) for queue in ("gone", "stays", "plain")
    )
    t.with_queue("gone").enqueue(fail=True)
    await drain(app, keep_succeeded=worker, concurrency=5)
    left = conn.execute(
        "select queue, status, count(*) from pgqueue.jobs group by 1, 2 order by 1, 2"
    ).fetchall()
    plain = [] if worker == 0 else [("plain", "succeeded", 50)]
    assert left == [("gone", "dead", 1), *plain, ("stays", "succeeded", 50)]


async def test_a_worker_prunes_by_them(app: App, conn: psycopg.Connection) -> None:
    app.queue("q", keep_dead="1m")
    conn.execute(
        "insert into pgqueue.jobs (task, queue, status, finished_at) select 't', q, 'dead', now() - interval '1 hour'"
        " from unnest('{q,other}'::text[]) q"
    )
    await drain(app)
    assert kept(conn) == ["other"]
