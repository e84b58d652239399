"""Limits, rates, order and fair shares, by the claim that knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App, Backoff, ConfigError, Task, TaskError
from pgqueue.job import ClaimedJob
from pgqueue.limits import Limits, rate_from
from pgqueue.operations import claims, limits
from tests.cli.support import Cli
from tests.model.machine import perform
from tests.support import drain, make_due, statuses


class Claimer:
    """Claims as a worker does, and remembers where it was."""

    def __init__(self, app: App, conn: psycopg.Connection) -> None:
        self.conn = conn
        self.after: str | None = None
        self.wait: float | None = None
        perform(conn, limits.declare(app.task_limits, app.queue_settings))

    def claim(self, limit: int, queue: str = "default") -> list[ClaimedJob]:
        taking: claims.Taking = {
            "limit": limit, "claim_id": uuid4(), "worker_id": uuid4(), "lease": 60.0,
        }  # fmt: skip
        found = perform(self.conn, limits.claim(queue, self.after, **taking))
        self.after, self.wait = found.last_key, found.wait
        return found.jobs

    def complete(self, jobs: Sequence[ClaimedJob]) -> None:
        self.conn.execute(
            "update pgqueue.jobs set status = 'succeeded', worker_id = null, claim_id = null,"
            " finished_at = now() where id = any (%s)", [[job.id for job in jobs]]
        )  # fmt: skip


def keyed(app: App, **options: Any) -> Task[Any, Any]:
    @app.task(name="t", **options)
    async def t(key: str, n: int = 0) -> None: ...

    return t


def keys(jobs: Sequence[ClaimedJob]) -> str:
    """The keys of jobs in the order of their ids, one letter each."""
    return "".join(job.args.split('"')[3] for job in sorted(jobs, key=lambda job: job.id))


def test_a_limit_per_key(app: App, conn: psycopg.Connection) -> None:
    t = keyed(app, limit=2, per="key")
    app.enqueue_many([t.call(key) for key in "aaaabbbc"])
    claimer = Claimer(app, conn)
    first = claimer.claim(100)
    assert keys(first) == "aabbc"
    assert claimer.claim(100) == []
    claimer.complete(first[:1])
    assert len(claimer.claim(100)) == 1


def test_a_limit_of_a_task(app: App, conn: psycopg.Connection) -> None:
    t = keyed(app, limit=3)
    app.enqueue_many([t.call("a") for _ in range(5)])
    claimer = Claimer(app, conn)
    assert len(claimer.claim(100)) == 3
    assert claimer.claim(100) == []


def test_a_limit_of_a_queue_holds_for_jobs_that_know_nothing_of_it(
    app: App, conn: psycopg.Connection
) -> None:
    app.queue("narrow", limit=3)
    t = keyed(app, queue="narrow", limit=2, per="key")
    conn.execute("select pgqueue.enqueue('u', queue => 'narrow') from generate_series(1, 9)")
    app.enqueue_many([t.call("a") for _ in range(5)])
    claimer = Claimer(app, conn)
    assert len(claimer.claim(100, "narrow")) == 3
    assert claimer.claim(100, "narrow") == []


def test_neither_claim_of_all_lanes_takes_them(app: App, conn: psycopg.Connection) -> None:
    from datetime import UTC, datetime

    app.queue("narrow", limit=3)
    t = keyed(app, limit=2, per="key")
    t.enqueue("a")
    conn.execute("select pgqueue.enqueue('u', queue => 'narrow')")
    Claimer(app, conn)
    taking: claims.Taking = {"limit": 9, "claim_id": uuid4(), "worker_id": uuid4(), "lease": 60.0}
    assert perform(conn, claims.sweep(None, **taking)).jobs == []
    start = datetime(2000, 1, 1, tzinfo=UTC)
    lanes = [claims.Lane(queue, 0, start, 0) for queue in ("default", "narrow")]
    assert perform(conn, claims.claim(lanes, **taking)) == []
    assert [each.name for each in perform(conn, limits.queues_at_work(None))] == [
        "default",
        "narrow",
    ]
    assert perform(conn, limits.queues_at_work(["other"])) == []


def test_a_rate(app: App, conn: psycopg.Connection) -> None:
    t = keyed(app, rate="60/min", burst=3, per="key")
    app.enqueue_many([t.call(key) for key in "aaaaab"])
    claimer = Claimer(app, conn)
    assert keys(claimer.claim(100)) == "aaab"
    assert claimer.claim(100) == []
    assert claimer.wait is not None
    assert 0.5 < claimer.wait <= 1.0
    conn.execute("update pgqueue.buckets set at = at - interval '1 second'")
    assert keys(claimer.claim(100)) == "a"
    conn.execute("update pgqueue.buckets set at = at - interval '1 hour'")
    assert keys(claimer.claim(100)) == "a", "no more than there are"
    tokens = conn.execute("select max(tokens) from pgqueue.buckets").fetchone()
    assert tokens is not None
    assert tokens[0] <= 3


def test_the_rate_of_a_queue(app: App, conn: psycopg.Connection) -> None:
    app.queue("slow", rate=10.0)
    conn.execute("select pgqueue.enqueue('u', queue => 'slow') from generate_series(1, 9)")
    claimer = Claimer(app, conn)
    assert len(claimer.claim(100, "slow")) == 1
    assert claimer.claim(100, "slow") == []
    assert claimer.wait is not None
    assert claimer.wait <= 0.1


def test_what_was_not_taken_costs_no_token(app: App, conn: psycopg.Connection) -> None:
    t = keyed(app, rate=1.0, burst=5, per="key")
    app.enqueue_many([t.call("a")] * 2)
    claimer = Claimer(app, conn)
    assert len(claimer.claim(100)) == 2
    app.enqueue_many([t.call("a")] * 5)
    assert len(claimer.claim(100)) == 3


async def test_strict_order(app: App, conn: psycopg.Connection) -> None:
    ran: list[str] = []

    @app.task(name="t", order_by="account", backoff=Backoff.constant("1h"))
    async def t(account: str, n: int, fail: bool = False) -> None:
        ran.append(f"{account}{n}")
        if fail and ran.count(f"{account}{n}") == 1:
            raise ValueError

    await t.with_priority(-1).aenqueue("a", 1, True)
    app.enqueue_many([t.with_priority(9).call("a", 2), t.call("b", 1), t.call("a", 3)])
    await drain(app)
    assert ran == ["a1", "b1"], "what waits for its retry holds up what comes after it"
    make_due(conn)
    await drain(app)
    assert ran == ["a1", "b1", "a1", "a2", "a3"]


@pytest.mark.parametrize("ordered", ["strict", "skip"])
def test_one_by_one(app: App, conn: psycopg.Connection, ordered: str) -> None:
    t = keyed(app, order_by="key", ordered=ordered)
    app.enqueue_many([t.call(key) for key in "aab"])
    claimer = Claimer(app, conn)
    first = claimer.claim(100)
    assert keys(first) == "ab"
    assert claimer.claim(100) == [], "while the first of a runs"
    claimer.complete(first)
    assert keys(claimer.claim(100)) == "a"


async def test_order_that_lets_pass(app: App, conn: psycopg.Connection) -> None:
    ran: list[int] = []

    @app.task(name="t", order_by="account", ordered="skip", backoff=Backoff.constant("1h"))
    async def t(account: str, n: int) -> None:
        ran.append(n)
        if n == 1 and ran.count(1) == 1:
            raise ValueError

    app.enqueue_many([t.call("a", n) for n in (1, 2, 3)])
    await drain(app)
    assert ran == [1, 2, 3]


def test_tenants_take_turns(app: App, conn: psycopg.Connection) -> None:
    t = keyed(app, fair_by="key")
    app.enqueue_many([t.call("a") for _ in range(1000)] + [t.call("b")] + [t.call("c")] * 3)
    claimer = Claimer(app, conn)
    assert "b" in keys(claimer.claim(3) + claimer.claim(3))
    assert len(claimer.claim(500)) == 500, "work-conserving: a gets what the others do not use"


def test_weights(app: App, conn: psycopg.Connection) -> None:
    t = keyed(app, fair_by="key", weights={"a": 3})
    app.enqueue_many([t.call(key) for key in "ab" * 100])
    claimer = Claimer(app, conn)
    found = keys(claimer.claim(40))
    assert (found.count("a"), found.count("b")) == (30, 10)


def test_many_keys_at_their_limit(app: App, conn: psycopg.Connection) -> None:
    """A claim looks at 500 keys, and the next goes on behind them."""
    t = keyed(app, limit=1, per="key")
    app.enqueue_many([t.call(f"k{n:04}") for n in range(1200)])
    claimer = Claimer(app, conn)
    assert sum(len(claimer.claim(400)) for _ in range(3)) == 1200
    app.enqueue_many([t.call(f"k{n:04}") for n in range(1200)])
    conn.execute(
        "update pgqueue.jobs set status = 'succeeded', worker_id = null where id ="
        " (select max(id) from pgqueue.jobs where status = 'running')"
    )
    assert sum(len(claimer.claim(10)) for _ in range(4)) == 1


def test_paused_and_expired_jobs(app: App, conn: psycopg.Connection) -> None:
    t = keyed(app, fair_by="key")
    t.with_expires("1h").enqueue("a")
    conn.execute("update pgqueue.jobs set expires_at = now() - interval '1 s'")
    claimer = Claimer(app, conn)
    assert claimer.claim(9) == []
    t.enqueue("b")
    for pause, resume in (
        (lambda: app.client.pause("default"), lambda: app.client.resume("default")),
        (lambda: app.client.pause("*"), lambda: app.client.resume("*")),
        (lambda: app.client.pause_task("t"), lambda: app.client.resume_task("t")),
    ):
        pause()
        assert claimer.claim(9) == []
        resume()
    assert keys(claimer.claim(9)) == "b"


def test_a_queue_that_is_being_claimed_from_is_left_alone(
    app: App, conn: psycopg.Connection, dsn: str
) -> None:
    t = keyed(app, limit=1, per="key")
    claimer = Claimer(app, conn)
    assert claimer.claim(9) == []
    t.enqueue("a")
    with psycopg.connect(dsn) as other:
        other.execute("select from pgqueue.queues where name = 'default' for update")
        assert claimer.claim(9) == []
    assert keys(claimer.claim(9)) == "a"


def test_changed_at_run_time_they_stay_until_the_code_changes(
    app: App, conn: psycopg.Connection
) -> None:
    keyed(app, limit=2, per="key")
    app.queue("narrow", limit=3)
    Claimer(app, conn)
    app.client.limit_task("t", limit=7)
    app.client.limit_queue("narrow", limit=1, rate="5/s", burst=2)
    Claimer(app, conn)
    found = {(each.kind, each.name): each for each in app.client.limits()}
    assert found["task", "t"].max_running == 7
    assert found["queue", "narrow"].rate == 5.0
    app.queue("narrow", limit=4)
    Claimer(app, conn)
    assert {e.name: e.max_running for e in app.client.limits()} == {"t": 7, "narrow": 4}
    app.client.limit_queue("narrow")
    assert [each.name for each in app.client.limits()] == ["t"]


async def test_the_lowest_priority_is_not_starved(app: App) -> None:
    """Aging: while higher ones never end, the lowest has one claim in sixteen."""
    ran: list[int] = []

    @app.task(name="urgent", priority=9)
    async def urgent() -> None:
        ran.append(9)
        if len(ran) < 300:
            await urgent.aenqueue()

    @app.task(name="low", priority=-9)
    async def low() -> None:
        ran.append(-9)

    app.enqueue_many([urgent.call() for _ in range(20)] + [low.call()])
    await drain(app, concurrency=1)
    assert ran.index(-9) < 250


async def test_what_fails_beside_limited_queues_is_recorded_as_failed(
    app: App, conn: psycopg.Connection
) -> None:
    """Jobs end while the claims of several queues are under way: each end is what it is."""
    app.queue("narrow", limit=5)

    @app.task(name="fails", max_retries=0)
    async def fails(queue: str) -> None:
        raise ValueError

    @app.task(name="works")
    async def works(queue: str) -> None: ...

    calls = [
        task.with_queue(queue).call(queue)
        for _ in range(150)
        for queue in ("narrow", "wide", "wider")
        for task in (fails, works)
    ]
    app.enqueue_many(calls)
    await drain(app)
    found = conn.execute("select task, status, count(*) from pgqueue.jobs group by 1, 2").fetchall()
    assert sorted(found) == [("fails", "dead", 450), ("works", "succeeded", 450)]


async def test_a_worker_runs_them_all(app: App, conn: psycopg.Connection) -> None:
    """Limited and plain jobs in the same and in other queues, through one worker."""
    limited = keyed(app, limit=1, per="key")

    @app.task(name="plain")
    async def plain() -> None: ...

    app.queue("narrow", limit=2)
    app.enqueue_many(
        [limited.call(f"k{n % 7}") for n in range(50)] + [plain.call() for _ in range(50)]
        + [plain.with_queue("narrow").call() for _ in range(20)]
    )  # fmt: skip
    await drain(app)
    assert set(statuses(conn).values()) == {"succeeded"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "limit must be"),
        ({"limit": True}, "limit must be"),
        ({"per": "key"}, "give limit="),
        ({"burst": 3}, "burst goes with rate"),
        ({"rate": "fast"}, "a rate looks like"),
        ({"rate": 0}, "above 0"),
        ({"limit": 1, "per": "a", "order_by": "b"}, "name different arguments"),
        ({"weights": {"a": 1}}, "weights go with fair_by"),
        ({"fair_by": "a", "weights": {"a": 0}}, "weights are whole numbers"),
        ({"order_by": "a", "ordered": "maybe"}, "ordered must be"),
    ],
)
def test_refused(app: App, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        keyed(app, **options)


def test_an_argument_that_is_not_there(app: App) -> None:
    with pytest.raises(TaskError, match="limited by 'nobody', which is no parameter"):
        keyed(app, fair_by="nobody").call("a")


@pytest.mark.parametrize(
    ("text", "rate"),
    [("100/min", 100 / 60), ("5/s", 5.0), ("10/30s", 1 / 3), ("1 / hour", 1 / 3600), (2, 2.0)],
)
def test_rates(text: Any, rate: float) -> None:
    assert rate_from(text) == pytest.approx(rate)


def test_on_the_command_line(dsn: str, conn: psycopg.Connection) -> None:
    cli = Cli(dsn)
    assert cli("limits").stdout == "no limits\n"
    assert (
        cli("limit", "mail", "--limit", "5", "--rate", "100/min", "--burst", "10").stdout
        == "limited: queue mail\n"
    )
    cli("limit", "--task", "shop.mail", "--limit", "2")
    rows = cli.json("limits")
    assert [(r["kind"], r["name"], r["max_running"]) for r in rows] == [
        ("queue", "mail", 5),
        ("task", "shop.mail", 2),
    ]
    assert "1.67/s" in cli("limits").stdout
    assert "give a queue or --task" in cli("limit", "--limit", "2", code=2).stderr
    assert "limit must be" in cli("limit", "mail", "--limit", "0", code=2).stderr
    assert cli("limit", "mail", "--off").stdout == "no limits any more: queue mail\n"
    assert "give --limit, --rate or --off" in cli("limit", "mail", code=2).stderr


def test_limits_are_values() -> None:
    assert Limits().as_dict() == dict.fromkeys(
        ("max_running", "rate", "burst", "ordered", "weights")
    )


def test_from_sql(conn: psycopg.Connection) -> None:
    conn.execute("select pgqueue.enqueue('t', limit_key => 'a')")
    assert conn.execute("select limit_key from pgqueue.jobs").fetchall() == [("t:a",)]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="limit_key must have"):
        conn.execute("select pgqueue.enqueue('t', limit_key => '')")
