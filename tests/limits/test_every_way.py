"""What a task declares holds for its jobs whichever way they come: call, SQL, schedule, workflow, or there already."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App, ConfigError, Task
from pgqueue.limits import key_text
from pgqueue.operations import limits, schedules
from pgqueue.operations.limits import Declared
from pgqueue.schedule import Firing
from tests.cli.support import Cli
from tests.limits.test_limits import Claimer, keyed, keys
from tests.model.machine import perform
from tests.support import alive, eventually_async, working

Connection = psycopg.Connection[Any]
AnyTask = Task[Any, Any]


def declare(app: App, conn: Connection, **more: Any) -> list[str]:
    return perform(conn, limits.declare(app.settings_declared(), **{"patience": 0, **more}))


def limited_task(app: App) -> AnyTask:
    @app.task(
        name="t",
        queue="q",
        priority=7,
        max_retries=3,
        expires="1h",
        limit=1,
        per="key",
        cron="@yearly",
    )
    async def t(key: str = "usual") -> None: ...

    return t


def call(app: App, conn: Connection, t: AnyTask) -> None:
    t.enqueue()


def many(app: App, conn: Connection, t: AnyTask) -> None:
    app.enqueue_many([t.call(), t.call("usual")])


def sql(app: App, conn: Connection, t: AnyTask) -> None:
    conn.execute("select pgqueue.enqueue('t')")


def sql_with_args(app: App, conn: Connection, t: AnyTask) -> None:
    conn.execute("select pgqueue.enqueue('t', '{\"key\": \"usual\"}')")


def sql_many(app: App, conn: Connection, t: AnyTask) -> None:
    conn.execute('select pgqueue.enqueue_jobs(\'[{"task": "t", "args": {}}]\')')


def sql_workflow(app: App, conn: Connection, t: AnyTask) -> None:
    conn.execute('select pgqueue.enqueue_workflow(\'[{"task": "t"}]\')')


def by_name(app: App, conn: Connection, t: AnyTask) -> None:
    with App(app.dsn) as producer:
        producer.named("t").enqueue()


def workflow(app: App, conn: Connection, t: AnyTask) -> None:
    flow = app.workflow("w")
    flow.add(t.call())
    flow.enqueue()


def run_now(app: App, conn: Connection, t: AnyTask) -> None:
    perform(conn, schedules.declare(app.schedules))
    app.client.run_schedule("t")


def tick(app: App, conn: Connection, t: AnyTask) -> None:
    perform(conn, schedules.declare(app.schedules))
    conn.execute(
        "update pgqueue.schedules set last_tick = now() - interval '2 years', next_tick = '-infinity'"
    )
    (due,) = perform(conn, schedules.look(limit=1)).due
    now = due.last_tick + timedelta(days=400)
    perform(
        conn,
        schedules.fire([Firing("t", due.last_tick, None, [now], now, now + timedelta(days=1000))]),
    )


def schedule_from_sql(app: App, conn: Connection, t: AnyTask) -> None:
    conn.execute("select pgqueue.add_schedule('s', '@yearly', 't')")
    app.client.run_schedule("s")


def retried(app: App, conn: Connection, t: AnyTask) -> None:
    call(app, conn, t)
    app.client.cancel(1)
    app.client.retry_many([1])
    conn.execute(
        "update pgqueue.jobs set expires_at = run_at + interval '1 h'"
    )  # it has none any more


WAYS = [
    call,
    many,
    sql,
    sql_with_args,
    sql_many,
    by_name,
    sql_workflow,
    workflow,
    run_now,
    tick,
    schedule_from_sql,
    retried,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_job_has_what_its_task_declares(
    app: App, conn: Connection, way: Callable[[App, Connection, AnyTask], None]
) -> None:
    t = limited_task(app)
    declare(app, conn)
    way(app, conn, t)
    found = conn.execute(
        "select distinct limit_key, queue, priority, max_retries, round(extract(epoch from expires_at - run_at))"
        " from pgqueue.jobs"
    ).fetchall()
    assert found == [("t:usual", "q", 7, 3, 3600)]


@pytest.mark.parametrize(
    "way", [sql, sql_many, by_name, sql_workflow, tick, run_now], ids=lambda way: way.__name__
)
def test_what_is_said_of_a_queue_comes_after_what_the_task_declares(
    app: App, conn: Connection, way: Callable[[App, Connection, AnyTask], None]
) -> None:
    @app.task(name="t", priority=7, cron="@yearly")
    async def t() -> None: ...

    app.queue("default", priority=1, max_retries=2, expires="2h")
    declare(app, conn)
    way(app, conn, t)
    found = conn.execute(
        "select limit_key, priority, max_retries, round(extract(epoch from expires_at - run_at)) from pgqueue.jobs"
    ).fetchall()
    assert found == [(None, 7, 2, 7200)]


async def test_no_way_in_is_around_a_limit(app: App, conn: Connection) -> None:
    at_once, most = 0, 0
    done: list[int] = []
    lock = threading.Lock()

    @app.task(name="t", limit=1)
    def t() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        threading.Event().wait(0.005)
        with lock:
            at_once -= 1
            done.append(1)

    app.cron("@yearly", t.call(), name="s")
    conn.execute("insert into pgqueue.jobs (task) select 't' from generate_series(1, 10)")
    async with working(app, concurrency=10):
        await eventually_async(lambda: done)
        conn.execute("select pgqueue.enqueue('t') from generate_series(1, 5)")
        conn.execute("select pgqueue.run_schedule('s') from generate_series(1, 5)")
        app.enqueue_many([t.call()] * 5)
        await eventually_async(lambda: len(done) == 25)
    assert most == 1


@pytest.mark.parametrize("by", ["code", "hand"])
def test_a_limit_holds_for_what_waits_and_what_runs_already(
    app: App, conn: Connection, by: str
) -> None:
    conn.execute(
        "insert into pgqueue.jobs (task, args) select 't', '{\"key\": \"a\"}' from generate_series(1, 10)"
    )
    conn.execute(
        "update pgqueue.jobs set status = 'running', worker_id = gen_random_uuid(), claim_id = gen_random_uuid()"
        " where id <= 3"
    )
    keyed(app, **({"limit": 4, "per": "key"} if by == "code" else {}))
    claimer = Claimer(app, conn)
    if by == "hand":
        app.client.limit_task("t", limit=4)
    assert perform(conn, limits.keying()) == (True, by == "hand")
    assert perform(conn, limits.key_jobs(limit=5)) == [4, 5, 6, 7, 8]
    assert [job.id for job in claimer.claim(9)] == [4]
    assert perform(conn, limits.key_jobs()) == [9, 10]
    assert claimer.claim(9) == []


async def test_jobs_without_a_key_are_not_started_before_they_have_one(
    app: App, conn: Connection
) -> None:
    """Of code that knows of no limit: another version, or one that has none."""

    @app.task(name="t")
    async def t() -> None: ...

    @app.task(name="other")
    async def other() -> None: ...

    app.client.limit_task("t", limit=2)
    async with working(app, concurrency=10):
        app.enqueue_many([t.call() for _ in range(20)] + [other.call()])
        await eventually_async(
            lambda: (
                conn.execute(
                    "select count(*) from pgqueue.jobs where status = 'succeeded'"
                ).fetchone()
                == (21,)
            )
        )
    assert conn.execute(
        "select distinct limit_key from pgqueue.jobs where task = 't'"
    ).fetchall() == [("t:*",)]


def test_a_limit_that_the_code_drops_is_off(app: App, conn: Connection, dsn: str) -> None:
    """When no live worker declares it any more: during a rolling deploy it stays."""
    t = keyed(app, limit=1, per="key", rate="1/h")
    declare(app, conn)
    app.enqueue_many([t.call("a") for _ in range(5)])
    worker = uuid4()
    perform(conn, alive(worker, limits=app.settings_declared().as_json()))
    new = App(dsn)
    keyed(new)
    assert declare(new, conn) == []
    assert len(Claimer(new, conn).claim(9)) == 1
    perform(conn, alive(worker, lease=0.0, limits=None))
    assert declare(new, conn, starting=False) == ["task t"]
    assert len(Claimer(new, conn).claim(9)) == 4
    assert new.client.limits() == []


def test_who_declares_nothing_of_a_queue_or_task_leaves_it(
    app: App, conn: Connection, dsn: str
) -> None:
    keyed(app, limit=1)
    app.queue("mail", limit=2)
    declare(app, conn)
    other = App(dsn)
    assert declare(other, conn) == []
    assert {each.name: each.max_running for each in app.client.limits()} == {"t": 1, "mail": 2}


def test_an_older_version_that_starts_again_does_not_have_the_last_word(
    app: App, conn: Connection, dsn: str
) -> None:
    app.queue("mail", limit=2)
    new = App(dsn)
    new.queue("mail", limit=5)
    declare(app, conn)
    perform(conn, alive(old := uuid4(), limits=app.settings_declared().as_json()))
    perform(conn, alive(uuid4(), limits=new.settings_declared().as_json()))
    declare(new, conn)
    declare(app, conn)  # started again
    assert declare(new, conn, starting=False) == []
    perform(conn, alive(old, lease=0.0))
    assert declare(new, conn, starting=False, patience=60) == [], "its worker may not be known yet"
    assert declare(new, conn, starting=False) == ["queue mail"]
    assert [each.max_running for each in app.client.limits()] == [5]


def test_what_was_set_by_hand_stays_until_the_code_says_something_else_of_it(
    app: App, conn: Connection, dsn: str
) -> None:
    cli = Cli(dsn)
    cli("limit", "mail", "--limit", "2")
    cli("queue", "mail", "--keep-dead", "forever")
    app.queue("mail")
    assert declare(app, conn) == ["queue mail"]
    assert declare(app, conn) == []
    shown = cli("queue", "mail").stdout
    assert "limit: 2 (by hand)" in shown
    assert "keep_dead: forever (by hand)" in shown
    assert "declared in code, changed by hand" in shown
    app.queue("mail", max_pending=10)
    declare(app, conn)
    shown = cli("queue", "mail").stdout
    assert "limit: 2 (by hand)" in shown
    assert "max_pending: 10 (declared in code)" in shown
    app.queue("mail", max_pending=10, limit=7)
    declare(app, conn)
    shown = cli("queue", "mail").stdout
    assert "limit: 7 (declared in code)" in shown
    assert "keep_dead: forever (by hand)" in shown
    cli("limit", "mail", "--off")
    assert "limit: none (by hand; the code declares one)" in cli("queue", "mail").stdout
    declare(app, conn)
    assert cli.json("limits") == []
    row = cli.json("queue", "mail")["queue"]
    assert set(row["by_hand"]) == {"max_running", "keep_dead"}


VALUES = [
    None, "null", "None", "", "''", 1, "1", 1.5, "1.5", -1, "-1", True, "true", False, "false", 0, "0", "a", '"a"', "A",
    "a b", " a", "ä", [1], "[1]", {"a": 1}, '{"a": 1}', {"b": 1, "aa": [None, "x\n"]}, "x" * 300, "x" * 300 + "y", "x" * 301,
    "tab\t", "\\", "\u2028", "1a", 10**30, 1e-7, "n", "nul",
]  # fmt: skip


def test_each_value_has_a_key_of_its_own_and_the_same_in_sql(conn: Connection) -> None:
    python = [key_text(value) for value in VALUES]
    assert len(set(python)) == len(VALUES)
    for value, key in zip(VALUES, python, strict=True):
        row = conn.execute(
            "select pgqueue.key_text(%s::text::jsonb)", (json.dumps(value),)
        ).fetchone()
        assert row == (key,), value
    assert max(map(len, python)) <= 265
    assert key_text("acme") == "acme"


def test_numbers_that_are_equal_have_one_key(conn: Connection) -> None:
    for text in ("1", "1.0", "1.00", "10e-1"):
        assert conn.execute("select pgqueue.key_text(%s::text::jsonb)", (text,)).fetchone() == (
            "1",
        )


def test_weights_are_by_value(app: App, conn: Connection) -> None:
    @app.task(name="t", fair_by="tenant", weights={7: 3, None: 2})
    async def t(tenant: int | None) -> None: ...

    assert app.settings_declared() == Declared(
        {"t": {"keyed": True, "per": "tenant", "weights": {"7": 3, "null": 2}}}, {}
    )
    app.enqueue_many([t.call(tenant) for tenant in [7, None, 8] * 100])
    found = [json.loads(job.args)["tenant"] for job in Claimer(app, conn).claim(60)]
    assert {tenant: found.count(tenant) for tenant in (7, None, 8)} == {7: 30, None: 20, 8: 10}
    with pytest.raises(ConfigError, match="by the value of the argument"):
        app.task(name="u", fair_by="tenant", weights={(1, 2): 3})(lambda tenant: None)


def test_a_rate_is_a_token_bucket(app: App, conn: Connection) -> None:
    """``rate="2/10s", burst=2`` starts three in five seconds: two at once, and one of the five seconds since."""
    t = keyed(app, rate="2/10s", burst=2)
    app.enqueue_many([t.call("a")] * 9)
    claimer = Claimer(app, conn)
    assert len(claimer.claim(9)) == 2
    conn.execute("update pgqueue.buckets set at = at - interval '5 s'")
    assert len(claimer.claim(9)) == 1
    assert keys(claimer.claim(9)) == ""
