"""A schedule that code declared is paused once no live worker declares it any more, and says so."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App, Job
from pgqueue.operations import maintenance, schedules
from pgqueue.schedule import Schedule, fire
from pgqueue.worker.runtime import Runtime
from tests.model.machine import perform
from tests.schedules.firing import JOB, age, entry, ticks
from tests.support import alive, eventually_async, working

DECLARER = uuid4()


class By:
    """What workers and people do to the schedule "s", by words."""

    def __init__(self, app: App, conn: psycopg.Connection) -> None:
        self.app, self.conn = app, conn

    def steps(self, text: str) -> tuple[bool, str | None]:
        for word in text.split():
            getattr(self, word)()
        found = self.app.client.schedule("s")
        assert (found.paused_at is None) == (found.pause_reason is None)
        return found.paused_at is not None, found.pause_reason

    def declares(self) -> None:
        """A worker starts whose code has it."""
        perform(self.conn, alive(DECLARER, declares=["s"]))
        perform(self.conn, schedules.declare([entry("s")]))
        perform(self.conn, schedules.review(["s"], patience=10.0))

    def begins(self) -> None:
        """The same, before it has said that it is alive."""
        perform(self.conn, schedules.declare([entry("s")]))
        perform(self.conn, schedules.review(["s"], patience=10.0))

    def ends(self) -> None:
        perform(self.conn, maintenance.worker_gone(DECLARER))

    def killed(self) -> None:
        self.conn.execute("update pgqueue.workers set live_until = clock_timestamp()")

    def looks(self) -> None:
        """Another worker does, whose code does not have it."""
        perform(self.conn, schedules.review(["other"], patience=10.0))

    def later(self) -> None:
        self.conn.execute(
            "update pgqueue.schedules set undeclared_at = undeclared_at - interval '10 seconds'"
        )

    def pause(self) -> None:
        self.app.client.pause_schedule("s")

    def resume(self) -> None:
        self.app.client.resume_schedule("s")

    def add(self) -> None:
        self.app.client.add_schedule("s", "* * * * *", JOB)

    def sync(self) -> None:
        app = App(self.app.dsn)
        app.cron("* * * * *", JOB, name="s")
        app.write_schedules()
        app.close()


TICKS, UNDECLARED, BY_HAND = (False, None), (True, "undeclared"), (True, "hand")
GONE = "declares ends looks later looks"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("declares looks later looks", TICKS),
        ("begins looks later declares looks", TICKS),
        ("declares ends looks", TICKS),
        ("declares ends looks looks", TICKS),  # too soon after the first
        ("declares ends later looks", TICKS),  # nobody had looked before
        (GONE, UNDECLARED),
        ("declares killed looks later looks", UNDECLARED),
        # A rolling restart.
        ("declares ends looks declares later looks", TICKS),
        ("declares ends looks declares ends looks looks", TICKS),
        (f"{GONE} begins", TICKS),
        (f"{GONE} declares", TICKS),
        (f"{GONE} declares ends looks later looks", UNDECLARED),
        # A pause by hand stays one.
        ("declares pause looks", BY_HAND),
        ("declares pause ends looks later looks", BY_HAND),
        ("declares pause ends looks later looks declares", BY_HAND),
        (f"{GONE} pause", BY_HAND),
        (f"{GONE} pause declares", BY_HAND),
        ("declares pause declares resume", TICKS),
        # So does a resume by hand, until a worker has declared it once more.
        (f"{GONE} resume looks later looks", TICKS),
        (f"{GONE} resume resume looks later looks", TICKS),
        (f"{GONE} resume pause looks later looks", BY_HAND),
        ("declares pause ends looks resume looks later looks", TICKS),
        ("declares pause resume ends looks later looks", UNDECLARED),
        (f"{GONE} resume declares ends looks later looks", UNDECLARED),
        # What is put in at run time is nobody's but the user's.
        ("add looks later looks", TICKS),
        ("add declares ends looks later looks", TICKS),
        ("declares add ends looks later looks", TICKS),
        (f"{GONE} add", TICKS),
        (f"{GONE} add looks later looks", TICKS),
        (f"{GONE} pause add", BY_HAND),
        # What was written before its workers start waits for them.
        ("sync looks later looks", TICKS),
        ("sync declares ends looks later looks", UNDECLARED),
        (f"{GONE} sync looks later looks", TICKS),
        (f"{GONE} pause sync looks later looks", BY_HAND),
        ("add sync declares ends looks later looks", UNDECLARED),
    ],
)
def test_what_becomes_of_a_schedule(
    app: App, conn: psycopg.Connection, steps: str, expected: tuple[bool, str | None]
) -> None:
    assert By(app, conn).steps(steps) == expected


def test_an_undeclared_one_says_since_when(app: App, conn: psycopg.Connection) -> None:
    by = By(app, conn)
    by.steps("declares ends looks")
    since = app.client.schedule("s").undeclared_at
    assert since is not None
    by.steps("looks")
    assert app.client.schedule("s").undeclared_at == since
    by.steps("later looks looks")
    found = app.client.schedule("s")
    assert found.undeclared_at is not None
    assert found.paused_at is not None
    assert found.undeclared_at < since < found.paused_at
    by.steps("declares")
    assert app.client.schedule("s").undeclared_at is None


def test_in_plain_sql(app: App, conn: psycopg.Connection) -> None:
    """A pause by an update is one by hand; the functions are those of the clients."""
    by = By(app, conn)
    by.steps("declares ends")
    conn.execute("update pgqueue.schedules set paused_at = clock_timestamp()")
    assert by.steps("looks later looks declares") == BY_HAND
    conn.execute("select pgqueue.resume_schedule('s')")
    assert by.steps("looks ends looks later looks") == UNDECLARED
    conn.execute("select pgqueue.add_schedule('s', '* * * * *', 't')")
    assert by.steps("looks later looks") == TICKS


def test_a_look_passes_by_what_a_person_is_changing(
    app: App, dsn: str, conn: psycopg.Connection
) -> None:
    by = By(app, conn)
    by.steps("declares ends looks later looks")
    with psycopg.connect(dsn) as person:
        person.execute("select pgqueue.resume_schedule('s')")
        conn.execute("set statement_timeout = '5s'")
        assert perform(conn, schedules.review(["s"], patience=10.0)) == []
    assert by.steps("looks later looks") == TICKS


def jobs_of_code(app: App) -> None:
    """Every way to declare a schedule."""

    @app.task(name="async", every="1s")
    async def one() -> None: ...

    @app.task(name="thread", cron="* * * * * *")
    def two() -> None: ...

    @app.task(name="given")
    def three() -> None: ...

    @app.job
    class Four(Job):
        def handle(self) -> None: ...

    app.cron("* * * * * *", three.call(), name="cron")
    app.every("1s", app.dispatch(Four()).with_queue("slow").call(), name="class")


NAMES = {"async", "thread", "cron", "class"}


async def looked(app: App, *queues: str) -> None:
    """A worker of the app starts, looks at the schedules once and ends."""
    async with working(app, list(queues) or None) as runtime:
        await once_reviewed(runtime)


async def once_reviewed(runtime: Runtime) -> None:
    (scheduler,) = [s for s in runtime.services if s.name == "scheduler"]
    await eventually_async(lambda: scheduler._review_at > 0)  # type: ignore[attr-defined]


def by_name(app: App) -> dict[str, Schedule]:
    return {each.name: each for each in app.client.schedules()}


def paused(app: App) -> dict[str, str | None]:
    return {name: each.pause_reason for name, each in by_name(app).items() if each.paused_at}


async def test_workers_of_changed_code_pause_what_is_gone_from_it(
    dsn: str, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pgqueue.scheduler")
    before, after = App(dsn), App(dsn)
    jobs_of_code(before)

    @after.task(name="t", cron="0 0 1 1 *")
    def still() -> None: ...

    async with working(before):
        await eventually_async(lambda: all(ticks(conn, name) for name in NAMES))
    before.client.add_schedule("own", "0 0 1 1 *", JOB)
    await looked(after)
    assert paused(after) == {}
    assert {name for name, each in by_name(after).items() if each.undeclared_at} == NAMES
    By(after, conn).later()
    await looked(after, "default")
    assert paused(after) == dict.fromkeys(NAMES, "undeclared")
    said = [r.getMessage() for r in caplog.records if r.name == "pgqueue.scheduler"]
    assert len(said) == len(NAMES)
    assert said[0].startswith("schedule 'async' is paused: no live worker has declared it since 20")
    assert said[0].endswith("pgqueue cron remove async, or keep it: pgqueue cron resume async")
    count = len(ticks(conn, "async"))
    for name in NAMES:
        age(conn, "1 hour", name)
    await looked(after)
    assert len(ticks(conn, "async")) == count
    async with working(before):  # the deployment is taken back
        await eventually_async(lambda: len(ticks(conn, "async")) > count)
        assert paused(before) == {}
    assert "schedule 'async' goes on: a worker declares it again" in caplog.text
    await asyncio.gather(before.aclose(), after.aclose())


async def test_a_worker_of_another_app_leaves_alone_what_a_live_one_declares(
    dsn: str, conn: psycopg.Connection
) -> None:
    """Also one that works on other queues than those of its schedules."""
    shop, mail = App(dsn), App(dsn)
    jobs_of_code(shop)

    async with working(shop, ["reports"]) as runtime:
        await eventually_async(lambda: set(by_name(shop)) == NAMES)
        await eventually_async(lambda: any(w.id == runtime.id for w in shop.client.workers()))
        for _ in range(2):
            await looked(mail)
            By(shop, conn).later()
        assert {each.undeclared_at for each in by_name(shop).values()} == {None}
        assert paused(shop) == {}
    await asyncio.gather(shop.aclose(), mail.aclose())


async def test_a_running_worker_looks_again_and_again(
    dsn: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last worker that declares it ends while another works on; a new one brings it back."""
    monkeypatch.setattr("pgqueue.worker.scheduler.REVIEW_EVERY", 0.05)
    monkeypatch.setattr("pgqueue.worker.scheduler.LOOK_EVERY", 0.05)
    monkeypatch.setattr("pgqueue.worker.scheduler.UNDECLARED_FOR", 0.05)
    shop, mail = App(dsn), App(dsn)
    jobs_of_code(shop)
    async with working(mail):
        async with working(shop):
            await eventually_async(lambda: set(by_name(shop)) == NAMES)
        await eventually_async(lambda: set(paused(mail)) == NAMES)
        async with working(shop):
            await eventually_async(lambda: not paused(mail))
    await asyncio.gather(shop.aclose(), mail.aclose())


@pytest.mark.parametrize(
    ("catch_up", "expected"), [("none", (0, 1)), ("latest", (1,)), ("all", (12,))]
)
def test_ticks_meanwhile_are_for_catch_up(
    app: App, conn: psycopg.Connection, catch_up: Any, expected: tuple[int, ...]
) -> None:
    """As if no worker had run."""
    declared = entry("s", "0 */2 * * *", catch_up=catch_up)
    perform(conn, schedules.declare([declared]))
    for _ in range(2):
        perform(conn, schedules.review([], patience=0.0))
    age(conn, "24 hours")
    assert perform(conn, schedules.look(limit=10)).due == []
    perform(conn, schedules.review(["s"], patience=10.0))
    look = perform(conn, schedules.look(limit=10))
    perform(conn, schedules.fire([fire(due, look.now) for due in look.due]))
    assert len(ticks(conn)) in expected
