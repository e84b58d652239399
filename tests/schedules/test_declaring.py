"""Schedules declared in code, and made at run time from Python and SQL."""

from __future__ import annotations

import logging
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App, ConfigError, Context, Job, ScheduleNotFound, TaskError
from pgqueue.job import NewJob
from pgqueue.operations import maintenance, schedules
from pgqueue.operations.schedules import Declared
from pgqueue.schedule import NewSchedule, new_schedule
from tests.model.machine import perform
from tests.schedules import declaring
from tests.schedules.firing import Passes, age, entry, ticks, until_idle
from tests.support import alive, drain, eventually_async, working

JOB = NewJob("t", "{}")


class Remind(Job):
    whom: str
    queue = "mail"

    async def handle(self) -> None: ...


def test_what_code_declares() -> None:
    found = {s.name: s for s in declaring.app.schedules}
    assert set(found) == {"tests.schedules.declaring.nightly", "sales", "poll", "stock"}
    nightly = found["tests.schedules.declaring.nightly"]
    assert (nightly.expression, nightly.tz, nightly.overlap) == (
        "30 2 * * *",
        "Europe/Oslo",
        "skip",
    )
    assert (found["sales"].job.args, found["sales"].catch_up) == ('{"kind":"sales"}', "all")
    assert (found["poll"].expression, found["poll"].job.priority) == ("every 30s", 5)
    assert found["stock"].job.queue == "slow"


def test_what_cannot_be_declared() -> None:
    app = App()

    @app.task(name="t")
    def task(ctx: Context, a: int, b: int = 2) -> None: ...

    job = task.call(1)
    for wrong, says in (
        ({"cron": "0 25 * * *"}, "the hour '25'"),
        ({"cron": "@daily", "tz": "Oslo"}, "no time zone 'Oslo'"),
        ({"cron": "@daily", "catch_up": "some"}, "catch_up must be one of none, latest, all"),
        ({"cron": "@daily", "overlap": "no"}, "overlap must be one of allow, skip"),
        ({"cron": "@daily", "every": "1m"}, "either cron"),
        ({"tz": "UTC"}, "either cron"),
        ({"every": "soon"}, "every must look like"),
    ):
        with pytest.raises(ConfigError, match=says):
            app.task(name=f"x{wrong}", **wrong)(lambda: None)  # type: ignore[call-overload]
    with pytest.raises(TaskError, match=r"needs a: declare its schedule with app\.cron"):
        app.task(name="u", cron="@daily")(task.function)
    app.cron("@daily", job)
    with pytest.raises(TaskError, match="two schedules are named t"):
        app.cron("@hourly", job)
    with pytest.raises(ConfigError, match="does not go with a schedule"):
        app.cron("@daily", task.with_delay("1m").call(1), name="later")
    with pytest.raises(ConfigError, match=r"what task\.call"):
        app.cron("@daily", task, name="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no option 'crom'"):
        app.task(name="v", crom="@daily")(lambda: None)  # type: ignore[call-overload]
    for declare in (lambda: app.cron("@daily", task), lambda: app.every("5s", task)):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"what task\.call"):
            declare()


async def test_a_worker_writes_them_when_it_starts(app: App, conn: psycopg.Connection) -> None:
    ran: list[int] = []

    @app.task(name="t", cron="@daily", tz="Europe/Oslo")
    async def task(ctx: Context, number: int = 7) -> None:
        ran.append(number)

    await drain(app)
    await _until_declared(app)
    (found,) = app.client.schedules()
    assert (found.name, found.tz, found.source) == ("t", "Europe/Oslo", "code")
    assert app.client.run_schedule("t") == app.client.schedule_runs("t")[0].job_id
    await drain(app)
    assert ran == [7]


async def _until_declared(app: App) -> None:
    """A drained worker may have ended before its scheduler's first pass."""
    await app._way(None).arun(schedules.declare(app.schedules), None)


def declare(app: App, schedule: NewSchedule, *, force: bool = False) -> Declared:
    (each,) = app._way(None).run(schedules.declare([schedule], force=force), None)
    return each


V1, V2, V3 = (entry("s", f"0 {hour} * * *") for hour in (1, 2, 3))
VERSIONS = {"1": V1, "2": V2, "3": V3}


class Deployment:
    """Workers of three versions: ``3+`` starts one, ``3!`` says that it lives, ``3`` looks, ``3-`` ends it; ``3s`` syncs."""

    def __init__(self, app: App, conn: psycopg.Connection) -> None:
        self.app, self.conn = app, conn
        self.workers = {version: uuid4() for version in VERSIONS}

    def does(self, word: str) -> None:
        version, what = VERSIONS.get(word[0]), word[1:]
        if word == "later":
            self.conn.execute(
                "update pgqueue.schedules set missing_at = missing_at - interval '10 s'"
            )
        elif word == "lapse":
            self.conn.execute("update pgqueue.workers set live_until = clock_timestamp()")
        elif word == "hand":
            self.app.client.add_schedule("s", "0 9 * * *", JOB)
        elif version is None:
            raise AssertionError(word)
        elif what == "-":
            perform(self.conn, maintenance.worker_gone(self.workers[word[0]]))
        elif what == "s":
            perform(self.conn, schedules.declare([version], force=True))
        else:
            if what in ("+", "!"):
                perform(
                    self.conn,
                    alive(self.workers[word[0]], declares=["s"], declarations=[version.digest]),
                )
            if what == "+" or (what == "" and perform(self.conn, schedules.changed([version]))):
                perform(self.conn, schedules.declare([version], patience=10.0))

    def hour(self, steps: str) -> str:
        for word in steps.split():
            self.does(word)
        return self.app.client.schedule("s").expression.split()[1]


@pytest.mark.parametrize(
    ("steps", "hour"),
    [
        ("1+", "1"),
        ("1+ 2+", "2"),
        # Old and new processes start over and over during a deployment, in any order.
        ("1+ 2+ 1+ 1", "2"),
        ("1+ 2+ 3+ 1+ 2+ 1 2", "3"),
        ("1+ 2+ 3+ 1+ later 1 2+ later 2", "3"),
        # The only new worker is away for a moment.
        ("1+ 2+ 2- 1", "1 waits"),
        ("1+ 2+ 2- 1 2+ later 1", "2"),
        ("1+ 2+ 2- 1 2+ 2- later 1", "1 waits"),
        ("1+ 2+ 2- 1 2! 1 2- later 1", "1 waits"),
        ("1+ 2+ 2- 1 1", "1 waits"),
        # A rollback: the last worker of the newer version has ended, or was killed and its lease is over.
        ("1+ 2+ 2- 1 later 1", "1"),
        ("1+ 2+ 1- 1+ 2- 1 later 1", "1"),
        ("1+ 2+ lapse 1 later 1", "1"),
        ("1+ 1- 2+ 2- 1+ later 1", "1"),
        # To the newest of those that live.
        ("1+ 2+ 3+ 3- 1 2 later 1 2", "2"),
        ("1+ 2+ 3+ 3- 2- 1 later 1", "1"),
        ("1+ 2+ 3+ 3- 1 later 1", "3"),
        # And forward again, at once.
        ("1+ 2+ 2- 1 later 1 2+", "2"),
        ("1+ 2+ 2- 1 later 1 3+ 1 2+", "3"),
        # By the command, at once, whoever lives; until a worker of that version has come and gone.
        ("1+ 2+ 1s", "1"),
        ("1+ 2+ 1s 2 later 2", "1"),
        ("2+ 1s 2 later 2", "1"),
        ("1+ 2+ 3+ 1s 2 3 later 2 3 1", "1"),
        ("2+ 1s 1+ 1- 2 later 2", "2"),
        ("2+ 1s 3+ 2", "3"),
        ("1+ 2+ 2- 1 later 1 1s 2+", "1"),
        # What a person has changed stays.
        ("1+ hand 2+ later 2", "9"),
        ("1+ hand 2s", "2"),
    ],
)
def test_which_declaration_holds(app: App, conn: psycopg.Connection, steps: str, hour: str) -> None:
    found = Deployment(app, conn).hour(steps)
    assert found == ("2" if hour == "1 waits" else hour)


def test_changed_code_changes_the_row(app: App) -> None:
    assert declare(app, V1) == Declared("s", True, None)
    assert declare(app, V1) == Declared("s", False, None)
    before = app.client.schedule("s")
    assert declare(app, V2) == Declared("s", True, None)
    after = app.client.schedule("s")
    assert after.expression == "0 2 * * *"
    assert after.last_tick > before.last_tick  # nothing before the change is missed
    assert declare(app, V1) == Declared("s", False, "newer")
    assert declare(app, V1, force=True) == Declared("s", True, None)
    assert declare(app, V1, force=True) == Declared("s", False, None)


def test_the_order_of_declarations_is_bounded(app: App, conn: psycopg.Connection) -> None:
    entries = [entry("s", f"{minute} 1 * * *") for minute in range(60)]
    for force in (False, True):
        for each in entries:
            declare(app, each, force=force)
        row = conn.execute("select declarations from pgqueue.schedules").fetchone()
        assert row == ([each.digest for each in entries[-50:]],)


async def test_a_rollback_by_running_workers(
    dsn: str,
    conn: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The old ones that were never stopped write their schedule again when the last new one is gone."""
    for name, value in (("REVIEW_EVERY", 0.05), ("LOOK_EVERY", 0.05), ("UNDECLARED_FOR", 0.1)):
        monkeypatch.setattr(f"pgqueue.worker.scheduler.{name}", value)
    old, new = App(dsn), App(dsn)
    old.cron("0 1 * * *", JOB, name="s")
    new.cron("0 2 * * *", JOB, name="s")

    def hour() -> str | None:
        return next((s.expression.split()[1] for s in old.client.schedules()), None)

    with caplog.at_level(logging.INFO, "pgqueue.scheduler"):
        async with working(old):
            await eventually_async(lambda: hour() == "1")
            async with working(new):
                await eventually_async(lambda: hour() == "2")
                await eventually_async(
                    lambda: "declared otherwise by a newer version" in caplog.text
                )
                assert hour() == "2"
            await eventually_async(lambda: hour() == "1")
            async with working(new):
                await eventually_async(lambda: hour() == "2")
    said = "schedule 's' is as this code declares it again: no live worker declares it otherwise"
    assert said in [record.getMessage() for record in caplog.records]
    await old.aclose()
    await new.aclose()


def test_a_pause_outlives_a_deployment(app: App) -> None:
    declare(app, entry("s", "0 1 * * *"))
    app.client.pause_schedule("s")
    declare(app, entry("s", "0 2 * * *"))
    assert app.client.schedule("s").paused_at is not None


async def test_what_was_changed_by_hand_stays(
    app: App, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    declare(app, entry("s", "0 1 * * *"))
    app.client.add_schedule("s", "0 5 * * *", JOB)
    with caplog.at_level(logging.WARNING, "pgqueue.scheduler"):
        async with Passes(dsn, entry("s", "0 2 * * *")) as scheduler:
            await until_idle(scheduler)
            await until_idle(scheduler)
    assert [r.getMessage() for r in caplog.records] == [
        "schedule 's' was changed by hand and stays so; this code's is written by: pgqueue cron sync"
    ]
    assert app.client.schedule("s").expression == "0 5 * * *"
    assert declare(app, entry("s", "0 2 * * *"), force=True).written
    assert app.client.schedule("s").source == "code"


async def test_with_cron(app: App, conn: psycopg.Connection) -> None:
    made = (
        app.dispatch(Remind("ada"))
        .with_priority(3)
        .with_cron("0 0 9 * * *", tz="Europe/Oslo")
        .enqueue()
    )
    assert (made.name, made.expression) == (Remind.definition.name, "0 0 9 * * *")
    assert (made.queue, made.priority, made.source) == ("mail", 3, "hand")
    assert [f"{run:%H:%M}" for run in made.next_runs(2)] == ["09:00"] * 2
    changed = await app.dispatch(Remind("bob")).with_cron("every 1m").with_queue("slow")
    assert (changed.name, changed.queue) == (made.name, "slow")
    assert conn.execute("select args from pgqueue.schedules").fetchall() == [({"whom": "bob"},)]
    with conn.transaction(force_rollback=True):
        app.dispatch(Remind("eve")).with_cron("@daily", name="eve").on(conn).enqueue()
        assert app.client.schedule("eve", on=conn).task == made.task
    assert len(app.client.schedules()) == 1
    with pytest.raises(ConfigError, match="the hour '99'"):
        app.dispatch(Remind("x")).with_cron("0 99 * * *").enqueue()
    with pytest.warns(ResourceWarning, match="was never written"):
        app.dispatch(Remind("x")).with_cron("@daily")


async def test_managed_at_run_time(app: App) -> None:
    app.client.add_schedule("s", "0 9 * * *", JOB, tz="Europe/Oslo")
    assert [s.name for s in await app.aclient.schedules()] == ["s"]
    await app.aclient.pause_schedule("s")
    assert app.client.schedule("s").next_runs() == []
    first = await app.aclient.run_schedule("s")  # also while paused
    app.client.resume_schedule("s")
    assert [run.job_id for run in await app.aclient.schedule_runs("s")] == [first]
    assert app.client.schedule("s").paused_at is None
    app.client.remove_schedule("s")
    assert app.client.job(first).task == "t"
    for missing in (app.client.remove_schedule, app.client.pause_schedule,
                    app.client.resume_schedule, app.client.run_schedule, app.client.schedule):  # fmt: skip
        with pytest.raises(ScheduleNotFound, match="no schedule 's'"):
            missing("s")
    for name in ("", "a\nb", "x" * 201):
        with pytest.raises(ConfigError, match="schedule name"):
            app.client.add_schedule(name, "@daily", JOB)


async def test_managed_in_sql(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute(
        "select pgqueue.add_schedule('s', '*/5 * * * *', 't', '{\"a\": 1}', tz => 'Europe/Oslo',"
        " queue => 'mail', catch_up => 'all')"
    )
    age(conn, "10 minutes")
    async with Passes(dsn) as scheduler:
        await until_idle(scheduler)
    assert len(ticks(conn)) == 2
    assert conn.execute(
        "select pgqueue.run_schedule('s'), pgqueue.run_schedule('none')"
    ).fetchone() == (3, None)
    rows = conn.execute(
        "select job_id, tick is null from pgqueue.schedule_runs order by 1"
    ).fetchall()
    assert rows == [(1, False), (2, False), (3, True)]
    assert conn.execute(
        "select pgqueue.pause_schedule('s'), pgqueue.pause_schedule('x')"
    ).fetchone() == (True, False)
    assert conn.execute(
        "select pgqueue.resume_schedule('s'), pgqueue.resume_schedule('x')"
    ).fetchone() == (True, False)
    assert conn.execute(
        "select pgqueue.remove_schedule('s'), pgqueue.remove_schedule('s')"
    ).fetchone() == (True, False)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": ""}, "name of a schedule"),
        ({"name": None}, "name of a schedule"),
        ({"expression": "* * * *"}, "five cron fields"),
        ({"expression": "@reboot"}, "five cron fields"),
        ({"tz": "; drop"}, "time zone"),
        ({"task": ""}, "task must have"),
        ({"args": "[]"}, "JSON object"),
        ({"queue": "a b"}, "queue 'a b'"),
        ({"priority": 99999}, "priority"),
        ({"max_retries": -1}, "max_retries"),
        ({"backoff": '{"base": "x"}'}, "backoff"),
        ({"catch_up": "some"}, "catch_up"),
        ({"overlap": None}, "overlap"),
    ],
)
def test_sql_refuses_what_is_wrong(
    conn: psycopg.Connection, changes: dict[str, Any], says: str
) -> None:
    values: dict[str, Any] = {"name": "s", "expression": "@daily", "task": "t", **changes}
    call = ", ".join(f"{key} => %({key})s" for key in values)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=says):
        conn.execute(f"select pgqueue.add_schedule({call})".encode(), values)
    with pytest.raises(psycopg.errors.CheckViolation):  # nor would an insert stop the others later
        conn.execute("insert into pgqueue.schedules (name, expression, task, queue)"
                     " values ('s', '@daily', 't', 'a b')")  # fmt: skip


def test_a_digest_tells_declarations_apart() -> None:
    when = {"cron": "@daily"}
    same = {
        new_schedule("s", NewJob("t", "{}", backoff={"base": 1.0}), when).digest for _ in range(2)
    }
    assert len(same) == 1
    others = {
        new_schedule("s", NewJob("t", "{}"), when).digest,
        new_schedule("s", NewJob("t", '{"a":1}'), when).digest,
        new_schedule("s", NewJob("t", "{}"), {**when, "tz": "Europe/Oslo"}).digest,
    }
    assert len(others | same) == 4
