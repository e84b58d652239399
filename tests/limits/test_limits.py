"""Limits, rates, order and fair shares, by the claim that knows them."""

from __future__ import annotations

import json
import time
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
from tests.support import drain, eventually_async, make_due, statuses, working


class Claimer:
    """Claims as a worker does."""

    def __init__(self, app: App, conn: psycopg.Connection) -> None:
        self.conn = conn
        self.wait: float | None = None
        perform(conn, limits.declare(app.settings_declared(), patience=0))

    def claim(self, limit: int, queue: str = "default") -> list[ClaimedJob]:
        taking: claims.Taking = {
            "limit": limit, "claim_id": uuid4(), "worker_id": uuid4(), "lease": 60.0,
        }  # fmt: skip
        found = perform(self.conn, limits.claim(queue, **taking))
        self.wait = found.wait
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
        ({"rate": 0}, "from 1 in 30 years"),
        ({"limit": 1, "per": "a", "order_by": "b"}, "name different arguments"),
        ({"weights": {"a": 1}}, "weights go with fair_by"),
        ({"fair_by": "a", "weights": {"a": 0}}, "weights are whole numbers"),
        ({"fair_by": "a", "weights": {"a": 2.5}}, "weights are whole numbers"),
        ({"fair_by": "a", "weights": {"a": "3"}}, "weights are whole numbers"),
        ({"fair_by": "a", "weights": {"a": True}}, "weights are whole numbers"),
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


@pytest.mark.parametrize("limited", ["key", "queue", "both"])
def test_a_rate_is_reached_however_seldom_claims_come(
    app: App, conn: psycopg.Connection, limited: str
) -> None:
    """While jobs wait, what a late claim could not start is made up for, also without a burst."""
    if limited != "queue":
        keyed(app, rate="500/s")
    if limited != "key":
        app.queue("default", rate="500/s")
    claimer = Claimer(app, conn)
    key = None if limited == "queue" else "*"
    conn.execute(
        "select pgqueue.enqueue('t', '{\"key\": \"a\"}', limit_key => %s) from generate_series(1, 400)",
        (key,),
    )
    begun = time.monotonic()
    started = len(claimer.claim(100))
    assert started == 1
    for number in range(1, 11):
        later(conn, "25 ms")
        jobs = claimer.claim(100)
        started += len(jobs)
        claimer.complete(jobs)
        assert 12 * number <= started <= 1 + 500 * (0.025 * number + time.monotonic() - begun)
    assert claimer.wait is not None
    assert claimer.wait <= 0.002


def later(conn: psycopg.Connection, interval: str) -> None:
    """Let time pass for the rates: they count from here on, whatever the test took."""
    conn.execute("update pgqueue.buckets set at = clock_timestamp() - %s::interval", (interval,))


def test_after_a_quiet_time_no_more_than_the_burst(app: App, conn: psycopg.Connection) -> None:
    t = keyed(app, rate="500/s")
    t.enqueue("a")
    claimer = Claimer(app, conn)
    assert len(claimer.claim(100)) == 1
    app.enqueue_many([t.call("a")] * 50)
    later(conn, "1 hour")
    assert len(claimer.claim(100)) == 1, "nothing waited meanwhile"
    later(conn, "1 hour")
    assert len(claimer.claim(100)) == 49
    app.enqueue_many([t.call("a")] * 2000)
    later(conn, "1 hour")
    claimer.claim(1)
    later(conn, "1 hour")
    assert len(claimer.claim(2000)) == 500, "of one second at most"


def test_a_limit_that_is_reached_is_not_waited_for_as_a_rate(
    app: App, conn: psycopg.Connection
) -> None:
    t = keyed(app, limit=1, rate="5/s", burst=5)
    app.enqueue_many([t.call("a")] * 3)
    claimer = Claimer(app, conn)
    assert len(claimer.claim(10)) == 1
    assert claimer.claim(10) == []
    assert claimer.wait is None, (
        "there are tokens: the end of the job that runs is what it waits for"
    )


def test_who_finds_the_queue_being_claimed_from_looks_again_soon(
    app: App, conn: psycopg.Connection, dsn: str
) -> None:
    t = keyed(app, rate="500/s")
    t.enqueue("a")
    claimer = Claimer(app, conn)
    conn.execute("insert into pgqueue.queues (name) values ('default') on conflict do nothing")
    with psycopg.connect(dsn) as other:
        other.execute("select from pgqueue.queues where name = 'default' for update")
        assert claimer.claim(9) == []
        assert claimer.wait == 0.02


def test_a_clock_that_was_ahead_holds_up_no_rate(app: App, conn: psycopg.Connection) -> None:
    t = keyed(app, rate="1/s")
    app.enqueue_many([t.call("a")] * 3)
    claimer = Claimer(app, conn)
    claimer.claim(1)
    conn.execute("update pgqueue.buckets set at = 'infinity'")
    assert claimer.claim(1) == []
    later(conn, "1 s")
    assert len(claimer.claim(1)) == 1


@pytest.mark.parametrize(
    "rate", ["0", "-1", "5e-324", "9e-10", "1000001", "1.7e308", "infinity", "nan"]
)
def test_rates_from_sql_are_in_bounds(conn: psycopg.Connection, rate: str) -> None:
    for table in ("queues", "tasks"):
        with pytest.raises(psycopg.errors.CheckViolation, match=f"{table}_rate"):
            conn.execute(
                f"insert into pgqueue.{table} (name, rate) values ('t', %s)".encode(), (rate,)
            )


@pytest.mark.parametrize("rate", ["1e-9", "1e6"])
@pytest.mark.parametrize("burst", [None, 1, 2147483647])
def test_no_number_that_the_tables_take_stops_the_claims(
    app: App, conn: psycopg.Connection, rate: str, burst: int | None
) -> None:
    t = keyed(app, fair_by="key", weights={"a": 1000})
    app.enqueue_many([t.call(key) for key in "aabb"])
    claimer = Claimer(app, conn)
    for table in ("queues", "tasks"):
        conn.execute(
            f"update pgqueue.{table} set rate = %s::float8, burst = %s, max_running = 2147483647".encode(),
            (rate, burst),
        )
    claimer.claim(1)
    later(conn, "100 years")
    claimer.claim(1000)
    conn.execute("update pgqueue.buckets set tokens = 'NaN'")
    claimer.claim(1000)


@pytest.mark.parametrize(
    "weights",
    ['{"a": 2.5}', '{"a": 0}', '{"a": -1}', '{"a": 1001}', '{"a": "3"}', '{"a": null}', '{"a": [1]}',
     '{"a": 1e400}', '{"a": true}', '[1]', '"a"', '{"b": 1, "a": {}}'],
)  # fmt: skip
def test_weights_from_sql_are_whole_numbers(conn: psycopg.Connection, weights: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="tasks_weights"):
        conn.execute("insert into pgqueue.tasks (name, weights) values ('t', %s)", (weights,))


def test_weights_written_with_a_point(app: App, conn: psycopg.Connection) -> None:
    t = keyed(app, fair_by="key")
    app.enqueue_many([t.call(key) for key in "aabb"])
    claimer = Claimer(app, conn)
    conn.execute("update pgqueue.tasks set weights = '{\"a\": 2.0}'")
    assert keys(claimer.claim(3)) == "aab"


async def test_one_that_expired_in_order_is_passed_and_cancelled(
    app: App, conn: psycopg.Connection
) -> None:
    ran: list[int] = []

    @app.task(name="t", order_by="key")
    async def t(key: str, n: int) -> None:
        ran.append(n)

    app.enqueue_many([t.with_expires("1h").call("a", n) for n in range(20)] + [t.call("a", 20)])
    conn.execute(
        "update pgqueue.jobs set expires_at = now() - interval '1 s' where expires_at is not null"
    )
    claimer = Claimer(app, conn)
    assert [job.id for job in claimer.claim(100)] == [21]
    conn.execute("update pgqueue.jobs set status = 'pending', worker_id = null where id = 21")
    async with working(app):
        await eventually_async(
            lambda: list(statuses(conn).values()) == ["cancelled"] * 20 + ["succeeded"]
        )
    assert ran == [20]


@pytest.mark.parametrize("ordered", ["strict", "skip"])
def test_expired_ones_of_either_order(app: App, conn: psycopg.Connection, ordered: str) -> None:
    t = keyed(app, order_by="key", ordered=ordered)
    app.enqueue_many([t.with_expires("1h").call("a"), t.with_expires("1h").call("a")])
    conn.execute("update pgqueue.jobs set expires_at = now() - interval '1 s' where id = 1")
    claimer = Claimer(app, conn)
    assert [job.id for job in claimer.claim(100)] == [2]


def test_keys_of_tasks_whose_names_have_colons(app: App, conn: psycopg.Connection) -> None:
    """Neither a limit nor a unique key is shared between a:b with c and a with b:c."""
    for task, key in (("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c"), ("a", "b:c:"), ("a:b:", "c")):
        conn.execute("select pgqueue.enqueue(%s, limit_key => %s)", (task, key))
        conn.execute("select pgqueue.enqueue(%s, unique_key => %s)", (task, key))
        workflow = json.dumps([{"task": task, "limit_key": key}])
        conn.execute("select * from pgqueue.enqueue_workflow(%s)", (workflow,))
    found = conn.execute("select limit_key, count(*) from pgqueue.jobs group by 1").fetchall()
    assert {key: n for key, n in found if key} == dict.fromkeys((key for key, _ in found if key), 2)
    assert len(found) == 6
    assert conn.execute(
        "select count(*) from pgqueue.jobs where unique_key is not null"
    ).fetchone() == (5,)


def test_a_weight_of_a_task_whose_name_has_a_colon(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="x:t", fair_by="key", weights={"a:b": 3})
    async def t(key: str) -> None: ...

    app.enqueue_many([t.call(key) for key in ("a:b", "c") * 20])
    claimer = Claimer(app, conn)
    found = [json.loads(job.args)["key"] for job in claimer.claim(8)]
    assert (found.count("a:b"), found.count("c")) == (6, 2)
