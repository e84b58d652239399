"""What the user can get wrong at enqueue: a clear error, and nothing written."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.orm import Session

from pgqueue import (
    App,
    ArgumentsError,
    ConfigError,
    ConnectionUnusable,
    Context,
    Job,
    PgQueueError,
    SchemaError,
    TaskError,
    Worker,
)  # fmt: skip
from pgqueue.connect import asyncpg_uri
from pgqueue.retry import errors_of
from tests.support import drain


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


class Broken:
    """Its own code fails."""

    def model_dump(self, mode: str) -> None:
        raise KeyError("no such field")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (math.nan, "not JSON compliant"),
        (math.inf, "not JSON compliant"),
        ("a\0b", "NUL"),
        ({"k\0": 1}, "NUL"),
        ("\ud800", "surrogate"),
        ("x" * 1_100_000, "at most 1,048,576"),
        (nested(70), "deeper than 64"),
        (nested(5000), "deeper than 64"),
        (object(), "cannot be stored"),
        (10**5000, "so many digits"),
        ({10**5000: 1}, "so many digits"),
        (Broken(), "KeyError"),
    ],
    ids=[
        "nan",
        "inf",
        "nul",
        "nul-key",
        "surrogate",
        "large",
        "deep",
        "very-deep",
        "object",
        "number",
        "number-key",
        "broken",
    ],
)
def test_arguments_that_cannot_be_stored(
    app: App, conn: psycopg.Connection, value: Any, says: str
) -> None:
    @app.task(name="t")
    def task(value: Any) -> None: ...

    with pytest.raises(ArgumentsError, match=says):
        task.enqueue(value)
    assert conn.execute("select count(*) from pgqueue.jobs").fetchone() == (0,)


def test_a_written_out_escape_is_not_a_nul(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="t")
    def task(value: str) -> None: ...

    task.enqueue("\\u0000")
    assert conn.execute("select args->>'value' from pgqueue.jobs").fetchone() == ("\\u0000",)


def test_large_arguments_warn(app: App) -> None:
    @app.task(name="t")
    def task(value: str) -> None: ...

    with pytest.warns(UserWarning, match="store the document"):
        task.call("x" * 300_000)


def test_arguments_that_do_not_fit(app: App) -> None:
    @app.task(name="t")
    def task(number: int, *, text: str = "") -> None: ...

    wrong: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}), ((1, 2), {}), ((1,), {"other": 1}), (("1",), {}), ((1,), {"text": 5}),
    ]  # fmt: skip
    for args, kwargs in wrong:
        with pytest.raises(ArgumentsError, match="arguments of t"):
            task.enqueue(*args, **kwargs)


@pytest.mark.parametrize(
    "verb",
    [
        lambda t: t.with_queue("a b"),
        lambda t: t.with_queue(""),
        lambda t: t.with_queue("x" * 65),
        lambda t: t.with_priority(40_000),
        lambda t: t.with_priority(1.5),
        lambda t: t.with_max_retries(-1),
        lambda t: t.with_max_retries(1001),
        lambda t: t.with_delay(-1),
        lambda t: t.with_delay("soon"),
        lambda t: t.with_delay("400d"),
        lambda t: t.with_delay(float("nan")),
        lambda t: t.with_backoff("-5s"),
        lambda t: t.with_run_at(datetime(2030, 1, 1)),
        lambda t: t.with_run_at("tomorrow"),
    ],
)
def test_options_out_of_range(app: App, verb: Any) -> None:
    @app.task(name="t")
    def task() -> None: ...

    with pytest.raises(ConfigError):
        verb(task)


WRONG: dict[str, dict[str, Any]] = {
    "retry_on takes classes of exceptions, .* got 'x'": {"retry_on": ("x",)},
    "retry_on takes classes of exceptions, .* got 'ValueError'": {"retry_on": "ValueError"},
    "retry_on takes classes of exceptions, .* got <class 'int'>": {"retry_on": [int]},
    "retry_on takes classes of exceptions, .* got ValueError": {"retry_on": ValueError()},
    "aliases takes several names, got the text 'old'": {"aliases": "old"},
}


@pytest.mark.parametrize("words", WRONG)
def test_options_of_the_wrong_kind(app: App, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        app.task(name="t", **WRONG[words])(lambda: None)
    with pytest.raises(ConfigError, match=words):
        app.job(type("Wrong", (Job,), {"handle": lambda self: None, **WRONG[words]}))


@pytest.mark.parametrize("errors", [OSError, [OSError], {OSError, KeyError}, (OSError,)])
async def test_what_is_retried_may_be_one_class_or_a_list(
    app: App, conn: psycopg.Connection, errors: Any
) -> None:
    @app.task(name="t", retry_on=errors, backoff="1h")
    def t(listed: bool) -> None:
        raise ExceptionGroup("several", [ConnectionError() if listed else ValueError()])

    class J(Job):
        listed: bool
        name = "j"
        backoff = "1h"
        retry_on = errors

        def handle(self) -> None:
            raise ConnectionError if self.listed else ValueError

    for listed in (True, False):
        t.enqueue(listed)
        app.dispatch(J(listed)).enqueue()
    await drain(app)
    rows = conn.execute("select (args->>'listed')::bool, status from pgqueue.jobs").fetchall()
    assert sorted(rows) == [(False, "dead")] * 2 + [(True, "pending")] * 2


def test_what_is_retried_may_be_listed_once() -> None:
    assert errors_of(error for error in (OSError, KeyError)) == (OSError, KeyError)  # type: ignore[arg-type]


def test_functions_that_cannot_be_tasks(app: App) -> None:
    with pytest.raises(TaskError, match="stored by name"):

        @app.task(name="a")
        def many(*numbers: int) -> None: ...

        many.enqueue(1)
    with pytest.raises(TaskError, match="does not go with"):

        @app.task(name="b", run="process")
        async def wrong() -> None: ...

    with pytest.raises(TaskError, match="two tasks are named c"):

        @app.task(name="c")
        def one() -> None: ...

        @app.task(name="c")
        def two() -> None: ...


async def test_connections_that_cannot_be_used(app: App, dsn: str) -> None:
    @app.task(name="t")
    def task() -> None: ...

    closed = psycopg.connect(dsn)
    closed.close()
    with pytest.raises(ConnectionUnusable, match="closed"):
        task.on(closed).enqueue()
    with pytest.raises(ConnectionUnusable, match="it takes a psycopg"):
        task.on(object()).enqueue()
    pg = await asyncpg.connect(asyncpg_uri(dsn))
    with pytest.raises(ConnectionUnusable, match="async connection"):
        task.on(pg).enqueue()
    await pg.close()
    with pytest.raises(ConnectionUnusable, match="closed"):
        await task.on(pg).aenqueue()
    with psycopg.connect(dsn) as sync, pytest.raises(ConnectionUnusable, match="sync connection"):
        await task.on(sync).aenqueue()
    with pytest.raises(ConnectionUnusable, match="not a pool"):
        await task.on(asyncpg.create_pool(asyncpg_uri(dsn))).aenqueue()


def test_a_database_without_the_schema(empty_dsn: str) -> None:
    app = App(empty_dsn)

    @app.task(name="t")
    def task() -> None: ...

    with psycopg.connect(empty_dsn) as conn, pytest.raises(SchemaError, match="pgqueue migrate"):
        task.on(conn).enqueue()
    with pytest.raises(SchemaError, match="pgqueue migrate"):
        task.enqueue()
    app.close()


def test_a_forgotten_connection_is_no_transaction_of_its_own(
    app: App, conn: psycopg.Connection
) -> None:
    @app.task(name="t")
    def task() -> None: ...

    class Forgotten(Job):
        name = "forgotten"

        def handle(self) -> None: ...

    with pytest.raises(ConnectionUnusable, match=r"on\(None\)"):
        task.on(None).enqueue()
    with pytest.raises(ConnectionUnusable, match=r"on\(None\)"):
        app.dispatch(Forgotten()).call()
        app.dispatch(Forgotten()).on(None).enqueue()
    assert conn.execute("select count(*) from pgqueue.jobs").fetchone() == (0,)


@pytest.mark.parametrize("bound", ["connection", "session"])
def test_sqlalchemy_on_another_database(app: App, bound: str) -> None:
    engine = sqlalchemy.create_engine("sqlite://")

    @app.task(name="t")
    def task() -> None: ...

    with engine.connect() as connection, Session(engine) as session:
        with pytest.raises(ConnectionUnusable, match="this connection is sqlite"):
            task.on(connection if bound == "connection" else session).enqueue()
    engine.dispose()


def test_enqueue_many_takes_any_iterable_of_calls(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="t")
    def task(number: int) -> None: ...

    class Counted(Job):
        name = "counted"

        def handle(self) -> None: ...

    handles = app.enqueue_many(task.call(number) for number in range(3))
    assert [row[0] for row in conn.execute("select id from pgqueue.jobs")] == [
        h.id for h in handles
    ]
    with pytest.raises(ConfigError, match=r"dispatch\(job\)\.call\(\) returns, got Counted"):
        app.enqueue_many([Counted()])  # type: ignore[list-item]


def test_a_field_that_hides_what_every_job_has() -> None:
    for field in ("queue", "retry_on", "aliases", "definition", "handle"):
        with pytest.raises(TaskError, match=f"{field} has a meaning in every job"):
            type("Hiding", (Job,), {"__annotations__": {field: str}, "__module__": "m"})


async def test_with_in_an_async_task_would_block_the_loop(app: App) -> None:
    said: list[str] = []

    @app.task(name="t", max_retries=0)
    async def task(ctx: Context) -> None:
        try:
            with ctx.transaction():
                said.append("entered")
        except PgQueueError as error:
            said.append(str(error))

    await task.aenqueue()
    await drain(app)
    assert said[0].startswith("an async task takes `async with")


@pytest.mark.parametrize("queues", ["mail", {"mail": 0}, ["no spaces"]])
def test_a_worker_refuses_wrong_queues_when_it_is_made(app: App, queues: Any) -> None:
    with pytest.raises(ConfigError):
        Worker(app, queues)
