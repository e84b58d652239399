"""Names, durations, backoff and filters: refused with a clear error, or they work in the database."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
from hypothesis import given
from hypothesis import strategies as st

from pgqueue import App, Backoff, ConfigError, Filter
from pgqueue.durations import LONGEST, seconds
from pgqueue.job import NewJob, check_name, check_queue
from pgqueue.options import Options, options_of
from pgqueue.sql import check_schema, load
from tests.fuzz.support import fuzz, json_values, numbers, storable, text

whatever = text | numbers | st.none() | st.booleans() | st.binary(max_size=5) | st.timedeltas()


def test_queues_and_tasks(app: App, conn: psycopg.Connection) -> None:
    @fuzz(150)
    @given(text | st.from_regex(r"[A-Za-z0-9_.:-]{1,64}", fullmatch=True), text)
    def check(queue: str, task: str) -> None:
        try:
            new = NewJob(check_name(task), "{}", check_queue(queue))
        except ConfigError as error:
            assert "\n" not in str(error)
            return
        (job_id,) = app.client.insert([new], on=conn)
        job = app.client.job(job_id, on=conn)
        assert (job.task, job.queue) == (task, queue)
        where = Filter(queue=queue, task=task)
        assert job_id in [found.id for found in app.client.jobs(where, on=conn)]
        app.client.pause(queue, on=conn)
        assert app.client.resume(queue, on=conn)

    check()


@fuzz(300)
@given(text)
def test_schemas(name: str) -> None:
    try:
        checked = check_schema(name)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert checked.isascii()
        assert all("pgqueue." not in s.numbered or name == "pgqueue" for s in load(name).values())


@fuzz(300)
@given(whatever)
def test_durations(value: Any) -> None:
    try:
        result = seconds(value)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert 0 <= result <= LONGEST
        if isinstance(value, timedelta):
            assert result == value.total_seconds()


def test_backoff(conn: psycopg.Connection) -> None:
    """The SQL function copes with any policy a row may hold, in bounds."""
    statement = "select extract(epoch from pgqueue.backoff(%s, %s::jsonb))::float8"

    @fuzz(150)
    @given(whatever, numbers, whatever, numbers, st.integers(-(2**31), 2**31 - 1))
    def check(base: Any, factor: Any, cap: Any, jitter: Any, attempt: int) -> None:
        try:
            policy = Backoff.exponential(base, factor=factor, cap=cap, jitter=jitter)
        except ValueError as error:
            assert "\n" not in str(error)
            return
        options = options_of(backoff=policy)
        text = psycopg.types.json.Jsonb(options.new_job("t", "{}").backoff)
        row = conn.execute(statement, (attempt, text)).fetchone()
        assert row is not None
        assert 0 <= row[0] <= LONGEST

    check()


@fuzz(300)
@given(whatever, whatever, whatever, whatever)
def test_options(queue: Any, priority: Any, retries: Any, backoff: Any) -> None:
    for given_ in ({"queue": queue}, {"priority": priority}, {"max_retries": retries},
                   {"backoff": backoff}):  # fmt: skip
        try:
            assert isinstance(options_of(**given_), Options)
        except ConfigError as error:
            assert "\n" not in str(error)


def test_filters(app: App, conn: psycopg.Connection) -> None:
    conn.execute("insert into pgqueue.jobs (task, status, finished_at, last_error)"
                 " values ('t', 'dead', now(), 'Error: 100% \\ _x_ ''quoted''')")  # fmt: skip

    @fuzz(150)
    @given(text | st.sampled_from(["100%", "_X_", "\\", "'QUOTED'"]), whatever)
    def check(error: str, since: Any) -> None:
        try:
            found = app.client.jobs(Filter(error=error, since=since), on=conn)
        except ValueError as wrong:
            assert "\n" not in str(wrong)
        else:
            held = error.lower() in "error: 100% \\ _x_ 'quoted'"
            assert (len(found) == 1) == held or since is not None

    check()


def test_plain_sql(conn: psycopg.Connection) -> None:
    """``pgqueue.enqueue`` inserts exactly what it is given, or refuses with one error of its class."""

    @fuzz(200)
    @given(storable, storable | st.sampled_from(["default", "mail"]), json_values,
           st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))  # fmt: skip
    def check(task: str, queue: str, args: Any, priority: int, retries: int) -> None:
        conn.execute("delete from pgqueue.jobs")
        try:
            row = conn.execute(
                "select pgqueue.enqueue(%s, %s, %s, priority => %s, max_retries => %s)",
                (task, psycopg.types.json.Jsonb(args), queue, priority, retries),
            ).fetchone()
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError, ValueError,
                UnicodeEncodeError):  # fmt: skip
            assert conn.execute("select count(*) from pgqueue.jobs").fetchone() == (0,)
            return
        assert conn.execute("select id, task, queue, priority, max_retries from pgqueue.jobs"
                            ).fetchall() == [(row[0], task, queue, priority, retries)]  # type: ignore[index]  # fmt: skip

    check()
