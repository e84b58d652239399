"""Times that plain SQL put in and no client can read: each row is shown with the nearest time, and stops no other."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner

from pgqueue import App, ConfigError, Context, Retry, Snooze
from pgqueue.cli import group
from pgqueue.job import Status
from pgqueue.operations.jobs import Change
from tests.model.machine import perform
from tests.support import alive, drain, statuses

NO_TIMES = ["infinity", "-infinity", "0044-03-15 BC", "10000-01-01", "294276-12-31"]
READABLE = (datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC))


def times_of(conn: psycopg.Connection, table: str) -> list[str]:
    rows = conn.execute(
        "select column_name from information_schema.columns where table_schema = 'pgqueue'"
        " and table_name = %s and data_type = 'timestamp with time zone' order by 1",
        [table],
    ).fetchall()
    return [row[0] for row in rows]


def spoil(conn: psycopg.Connection, table: str, time: str, where: str = "true") -> None:
    """Put the time into every column of rows that is one."""
    changes = ", ".join(f"{column} = '{time}'" for column in times_of(conn, table))
    conn.execute(f"update pgqueue.{table} set {changes} where {where}".encode())


def test_what_is_readable(conn: psycopg.Connection) -> None:
    for time, shown in (
        (None, None), ("infinity", READABLE[1]), ("-infinity", READABLE[0]), ("0001-01-01 BC", READABLE[0]),
        ("2026-11-30T12:00:00.123456Z", datetime(2026, 11, 30, 12, 0, 0, 123456, UTC)),
    ):  # fmt: skip
        row = conn.execute("select pgqueue.readable(%s::timestamptz)", [time]).fetchone()
        assert row == (shown,)


@pytest.mark.parametrize("time", NO_TIMES)
async def test_every_list_shows_every_row(app: App, conn: psycopg.Connection, time: str) -> None:
    @app.task(name="t")
    async def task() -> None: ...

    flow = app.workflow("flow")
    flow.add(task.call())
    flow.enqueue()
    app.client.add_schedule("s", "@daily", task.call())
    app.client.run_schedule("s")
    for name in ("mail", "*"):
        app.client.pause(name)
    app.client.pause_task("u")
    perform(conn, alive(uuid4()))
    conn.execute("insert into pgqueue.attempts (job_id, attempt, outcome) values (1, 1, 'error')")
    conn.execute("insert into pgqueue.steps (job_id, name, kind) values (1, 'one', 'step')")
    columns = times_of(conn, "jobs")
    for column in columns:
        conn.execute(
            f"insert into pgqueue.jobs (task, queue, status, {column})"
            " select 't', 'mail', status, %s from unnest(%s::text[]) as status".encode(),
            [time, [each.value for each in Status if each is not Status.BLOCKED]],
        )
    for table in (
        "jobs",
        "attempts",
        "steps",
        "workers",
        "workflows",
        "schedules",
        "queues",
        "tasks",
    ):
        assert times_of(conn, table)
        spoil(conn, table, time, "id <= 2" if table == "jobs" else "true")
    client = app.client
    shown = client.jobs(limit=500)
    assert len(shown) == 5 * len(columns) + 2
    for status in Status:
        client.jobs(status=status)
    shown += [client.job(job.id) for job in shown]
    found: list[Any] = [
        *shown, *client.attempts(1), *client.steps(1), *client.workers(), *client.workflows(),
        *client.schedules(), *client.schedule_runs("s"), *client.stats(), *client.paused(),
    ]  # fmt: skip
    for each in found:
        for name in dir(each):
            value = None if name.startswith("_") else getattr(each, name)
            if isinstance(value, datetime):
                assert READABLE[0] <= value.astimezone(UTC) <= READABLE[1] or name == "read_at"
    for command in (
        "jobs",
        "stats",
        "workers",
        "workflows",
        "cron list",
        "cron runs s",
        "job 1",
        "queue mail",
    ):
        for form in ([], ["--json"]):
            ran = CliRunner().invoke(group, [*command.split(), "--dsn", app.dsn or "", *form])
            assert ran.exit_code == 0, (command, ran.output, ran.exception)
            if form:
                json.loads(ran.output)


@pytest.mark.parametrize("time", NO_TIMES)
async def test_the_jobs_beside_it_run(app: App, conn: psycopg.Connection, time: str) -> None:
    ran: list[int] = []

    @app.task(name="t")
    async def task(ctx: Context) -> None:
        ran.append(ctx.id)
        assert ctx.tick is None or isinstance(ctx.tick, datetime)

    columns = times_of(conn, "jobs")
    for column in columns:
        conn.execute(f"insert into pgqueue.jobs (task, {column}) values ('t', %s)".encode(), [time])
        conn.execute(
            f"insert into pgqueue.jobs (task, status, finished_at, {column}) select 't', 'succeeded', now(), %s".encode()
            if column != "finished_at"
            else b"insert into pgqueue.jobs (task, status, finished_at) select 't', 'succeeded', %s",
            [time],
        )
        conn.execute(
            f"insert into pgqueue.jobs (task, limit_key, {column}) values ('t', 't:k', %s)".encode(),
            [time],
        )
    good = [(await task.aenqueue()).id for _ in range(3)]
    await drain(app)
    assert set(good) <= set(ran)
    left = {i for i, status in statuses(conn).items() if status == "pending"}
    never = {"infinity", "10000-01-01", "294276-12-31"}
    expected = 2 if time in never else 0
    assert len(left) == expected, conn.execute(
        "select * from pgqueue.jobs where status = 'pending'"
    ).fetchall()


@pytest.mark.parametrize("time", NO_TIMES)
async def test_a_job_that_comes_back_at_once_with_no_time_for_its_place(
    app: App, conn: psycopg.Connection, time: str
) -> None:
    """Its place in the queue may be before all time; what it waits for is a number of seconds all the same."""
    runs: list[int] = []

    @app.task(name="t")
    async def task() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise Snooze(0)

    job = await task.aenqueue()
    conn.execute("update pgqueue.jobs set run_at = %s where %s < now()", [time, time])
    await drain(app)
    assert len(runs) == 3
    assert statuses(conn)[job.id] == "succeeded"


@pytest.mark.parametrize("time", NO_TIMES)
def test_a_change_of_time(app: App, conn: psycopg.Connection, time: str) -> None:
    @app.task(name="t", expires="1h")
    def task() -> None: ...

    ids = [task.enqueue().id for _ in range(3)]
    conn.execute("update pgqueue.jobs set run_at = %s where id = %s", [time, ids[0]])
    conn.execute("update pgqueue.jobs set expires_at = %s where id = %s", [time, ids[1]])
    assert app.client.change(ids, to=Change(delay="1h")) == ids


SENTINELS = [datetime.min, datetime.max, datetime(1899, 12, 31), datetime(9000, 1, 2)]


@pytest.mark.parametrize("time", [each.replace(tzinfo=UTC) for each in SENTINELS])
def test_a_run_at_that_is_no_date_is_refused(
    app: App, conn: psycopg.Connection, time: datetime
) -> None:
    """By every way in; with the time and the bounds."""

    @app.task(name="t", expires="365d")
    def task() -> None: ...

    says = "run_at must be from 1900-01-01 to 9000-01-01, got"
    for zone in (UTC, datetime.now().astimezone().tzinfo):
        with pytest.raises(ConfigError, match=says):
            task.with_run_at(time.replace(tzinfo=zone))
    job = task.enqueue()
    with pytest.raises(ConfigError, match=says):
        app.client.change([job.id], to=Change(run_at=time))
    text = time.isoformat()
    for call in (
        "select pgqueue.enqueue('t', run_at => %(at)s::timestamptz, expires => '365 days')",
        "select * from pgqueue.enqueue_jobs(jsonb_build_array(jsonb_build_object('task', 't', 'args', '{}'::jsonb,"
        " 'queue', 'default', 'priority', 0, 'max_retries', 1, 'run_at', %(at)s::text)))",
        "select * from pgqueue.enqueue_workflow(jsonb_build_array(jsonb_build_object('task', 't', 'run_at', %(at)s::text)))",
    ):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=says):
            conn.execute(call.encode(), {"at": text})
    ran = CliRunner().invoke(
        group, ["change", str(job.id), "--run-at", text, "--dsn", app.dsn or ""]
    )
    assert ran.exit_code != 0
    assert says in str(ran.exception)


@pytest.mark.parametrize(
    "time", [datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)]
)
def test_the_first_and_the_last_run_at(app: App, time: datetime) -> None:
    @app.task(name="t", expires="365d")
    def task() -> None: ...

    job = task.with_run_at(time).enqueue()
    shown = app.client.job(job.id)
    assert shown.run_at == time
    assert shown.expires_at == time + timedelta(days=365)


TOO_LONG = [
    float("inf"),
    float("nan"),
    -1,
    366 * 86_400,
    1e300,
    timedelta.max,
    "99999999999999d",
    "-1s",
]


@pytest.mark.parametrize("length", TOO_LONG, ids=str)
def test_lengths_of_time_are_bounded_by_every_way_in(app: App, length: Any) -> None:
    @app.task(name="t")
    def task() -> None: ...

    for way in (
        task.with_delay, task.with_expires, lambda v: task.with_unique(within=v),
        lambda v: task.with_backoff(v), lambda v: Change(delay=v).values(), Snooze,
        lambda v: Retry(after=v), lambda v: app.task(name="u", expires=v)(lambda: None),
        lambda v: app.task(name="u", every=v)(lambda: None),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            way(length)


@pytest.mark.parametrize("length", ["366 days", "-1 second", "178000000 years"])
@pytest.mark.parametrize("name", ["delay", "expires", "unique_for"])
def test_lengths_of_time_in_sql(conn: psycopg.Connection, name: str, length: str) -> None:
    key = ", unique_key => 'k'" if name == "unique_for" else ""
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"{name} must be from"):
        conn.execute(f"select pgqueue.enqueue('t', {name} => '{length}'{key})".encode())


@pytest.mark.parametrize("length", [1e300, -1, 366 * 86_400, "NaN", "Infinity"])
@pytest.mark.parametrize("name", ["delay", "expires", "unique_for"])
def test_lengths_of_time_in_json(conn: psycopg.Connection, name: str, length: float | str) -> None:
    job = {"task": "t", "args": {}, "queue": "q", "priority": 0, "max_retries": 1, name: length}
    if name == "unique_for":
        job["unique_key"] = "k"
    for call in ("enqueue_jobs", "enqueue_workflow"):
        if call == "enqueue_workflow" and name == "unique_for":
            continue
        with pytest.raises(psycopg.errors.DataError):
            conn.execute(f"select pgqueue.{call}(%s::jsonb)".encode(), [json.dumps([job])])
    assert conn.execute("select count(*) from pgqueue.jobs").fetchone() == (0,)


@pytest.mark.parametrize("length", [float("inf"), float("nan"), 1e300, 366 * 86_400])
async def test_a_handler_that_sleeps_for_no_time(app: App, length: float) -> None:
    """Its job fails and says why; the others go on."""
    ran: list[int] = []

    @app.task(name="bad", max_retries=0)
    async def bad(ctx: Context) -> None:
        await ctx.sleep(length)

    @app.task(name="waits", max_retries=0)
    async def waits(ctx: Context) -> None:
        await ctx.wait_for_event("never", length)

    @app.task(name="good")
    async def good() -> None:
        ran.append(1)

    jobs = [(await task.aenqueue()).id for task in (bad, waits, good)]
    await drain(app)
    assert ran == [1]
    for job in jobs[:2]:
        found = await app.aclient.job(job)
        assert found.status is Status.DEAD
        assert "must be from 0 to 365 days" in (found.last_error or "")
