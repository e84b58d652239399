"""Schedules declared in code, and made at run time from Python and SQL."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest

from pgqueue import App, ConfigError, Context, Job, ScheduleNotFound, TaskError
from pgqueue.job import NewJob
from pgqueue.operations import schedules
from pgqueue.operations.schedules import Declared
from pgqueue.schedule import NewSchedule, new_schedule
from tests.schedules import declaring
from tests.schedules.firing import Passes, age, entry, ticks, until_idle
from tests.support import drain

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


def test_changed_code_changes_the_row_and_a_late_start_of_the_old_does_not(
    app: App, conn: psycopg.Connection
) -> None:
    old, new = entry("s", "0 1 * * *"), entry("s", "0 2 * * *")
    assert declare(app, old) == Declared("s", True, None)
    assert declare(app, old) == Declared("s", False, None)
    before = app.client.schedule("s")
    assert declare(app, new) == Declared("s", True, None)
    after = app.client.schedule("s")
    assert after.expression == "0 2 * * *"
    assert after.last_tick > before.last_tick  # nothing before the change is missed
    for _ in range(3):  # old and new processes start over and over during a deployment
        assert declare(app, old) == Declared("s", False, "newer")
        assert declare(app, new) == Declared("s", False, None)
    assert declare(app, entry("s", "0 3 * * *")) == Declared("s", True, None)
    assert declare(app, new) == Declared("s", False, "newer")
    conn.execute("update pgqueue.schedules set declared_at = declared_at - interval '61 minutes'")
    assert declare(app, new) == Declared("s", True, None)  # gone back to on purpose
    assert declare(app, entry("s", "0 3 * * *"), force=True) == Declared("s", True, None)


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
