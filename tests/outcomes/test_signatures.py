"""How parameters may be declared: what is wrong is said when the app is loaded, what is right runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgqueue import App, ArgumentsError, Context, Job, TaskError, Worker, given
from pgqueue.testing import QueueTester, inline
from tests.outcomes import lazy_tasks
from tests.support import drain, statuses


async def test_only_the_types_of_arguments_are_resolved(app: App, conn: psycopg.Connection) -> None:
    lazy_tasks.app.use(dsn=app.dsn)
    lazy_tasks.ran.clear()
    handles: list[Any] = [
        lazy_tasks.sync.enqueue(1),
        lazy_tasks.in_async.enqueue(2, lazy_tasks.Later(3)),
    ]
    lazy_tasks.stepped.enqueue()
    lazy_tasks.app.dispatch(lazy_tasks.Lazy(4)).enqueue()
    conn.execute("""select pgqueue.enqueue('async', '{"number": 5}')""")
    await drain(lazy_tasks.app, concurrency=1)
    assert set(statuses(conn).values()) == {"succeeded"}
    assert lazy_tasks.ran == [
        ("sync", 1), (2, lazy_tasks.Later(3)), 5, ("lazy", 4), (5, None),
    ]  # fmt: skip
    assert [await handle.aresult() for handle in handles] == [1, 2]


def test_an_argument_that_does_not_resolve_is_said_when_the_app_is_loaded(dsn: str) -> None:
    from tests.outcomes import unresolved_tasks

    words = "the annotation of amount does not resolve: name 'Decimal' is not defined"
    unresolved_tasks.app.use(dsn=dsn)
    with pytest.raises(TaskError, match=words):
        unresolved_tasks.app.check()
    with pytest.raises(TaskError, match=words):
        Worker(unresolved_tasks.app).run()
    with pytest.raises(TaskError, match=words):
        unresolved_tasks.pay.enqueue(1)
    done = subprocess.run(
        [sys.executable, "-m", "pgqueue", "work", "--app", "tests.outcomes.unresolved_tasks:app"],
        env={**os.environ, "PGQUEUE_DSN": dsn}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode != 0


def test_what_is_known_is_said_when_it_is_declared(app: App) -> None:
    def takes(argument: Any) -> None: ...

    for kind in (complex, object(), "list[complex]"):
        takes.__annotations__ = {"argument": kind}
        with pytest.raises(TaskError):
            app.task(name="t")(takes)
    with pytest.raises(TaskError, match="limited by 'other', which is no parameter"):
        app.task(name="limited", limit=1, per="other")(takes_one)


def takes_one(one: int) -> None: ...


class Client:
    """A resource."""


async def test_parameters_that_have_no_name_for_callers(app: App, conn: psycopg.Connection) -> None:
    got: list[Any] = []

    @app.resource
    def client() -> Iterator[Client]:
        yield Client()

    @app.task(name="plain")
    def plain(a: int, b: int = 2, /) -> None:
        got.append((a, b))

    @app.task(name="mixed")
    async def mixed(ctx: Context, a: int, /, b: int, *, c: int = 3) -> None:
        got.append((ctx.task, a, b, c))

    @app.task(name="given", unique=True)
    def takes_resource(a: int, found: Client = given(), /, b: int = 5) -> None:
        got.append((a, type(found), b))

    plain.enqueue(1)
    plain.enqueue(3, 4)
    mixed.enqueue(1, 2)
    mixed.enqueue(1, b=5, c=6)
    takes_resource.enqueue(1)
    conn.execute("""select pgqueue.enqueue('plain', '{"a": 7, "b": 8}')""")
    await drain(app, concurrency=1)
    assert set(statuses(conn).values()) == {"succeeded"}
    assert got == [
        (1, 2), (3, 4), ("mixed", 1, 2, 3), ("mixed", 1, 5, 6), (1, Client, 5), (7, 8),
    ]  # fmt: skip
    with pytest.raises(ArgumentsError, match="positional"):
        plain.enqueue(a=1)  # type: ignore[call-arg]
    with pytest.raises(ArgumentsError):
        plain.enqueue(1, 2, 3)  # type: ignore[call-arg]


def test_so_in_the_kit(dsn: str, conn: psycopg.Connection) -> None:
    app, got = App(dsn), list[Any]()

    @app.task(name="mixed")
    def mixed(ctx: Context, a: int, /, b: int) -> None:
        got.append((ctx.task, a, b))

    mixed.on(conn).enqueue(1, 2)
    QueueTester(app, conn).drain()
    with inline(app):
        mixed.enqueue(3, b=4)
    assert got == [("mixed", 1, 2), ("mixed", 3, 4)]


async def test_a_partial_and_an_object_that_is_called(app: App, conn: psycopg.Connection) -> None:
    import functools

    got: list[Any] = []

    def function(first: int, second: str) -> None:
        got.append((first, second))

    class Called:
        async def __call__(self, number: int) -> None:
            got.append(number)

    with pytest.raises(TaskError, match="has no name of its own"):
        app.task(functools.partial(function, 1))
    partial: Any = app.task(name="partial")(functools.partial(function, 1))
    called: Any = app.task(name="called")(Called())
    partial.enqueue(second="two")
    called.enqueue(3)
    await drain(app, concurrency=1)
    assert set(statuses(conn).values()) == {"succeeded"}
    assert got == [(1, "two"), 3]


def test_a_class_with_a_field_that_does_not_resolve(app: App) -> None:
    @app.job
    class Unknown(Job):
        name = "unknown"
        amount: Decimal  # type: ignore[name-defined]  # noqa: F821

        def handle(self) -> None: ...

    with pytest.raises(TaskError, match="the annotation of amount does not resolve"):
        app.check()
