"""Jobs enqueued by the name of their task, by code that does not import it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import psycopg
import pytest

from pgqueue import (
    App,
    ArgumentsError,
    ConfigError,
    ConnectionUnusable,
    Job,
    JobExists,
    JobNotFound,
    Keys,
    QueueFull,
    Secret,
)
from pgqueue.connect import asyncpg_uri
from tests.support import drain

Row = tuple[Any, ...]
COLUMNS = (
    "queue, priority, max_retries, backoff, expires_at - run_at = interval '1 hour', limit_key"
)


@pytest.fixture
async def producer(dsn: str) -> AsyncIterator[App]:
    """An app without the code of any task."""
    async with App(dsn) as app:
        yield app


def rows(conn: psycopg.Connection, columns: str = COLUMNS) -> list[Row]:
    return conn.execute(f"select {columns} from pgqueue.jobs order by id".encode()).fetchall()


async def declared(app: App, ran: list[Any]) -> None:
    """A worker has declared a task with everything that can be declared."""

    @app.task(
        name="shop.send", queue="mail", priority=7, max_retries=3, backoff="2s", expires="1h", limit=1, per="to",
        result=True,
    )  # fmt: skip
    def send(to: str, when: datetime | None = None, ids: tuple[UUID, ...] = ()) -> str:
        ran.append((to, when, ids))
        return to

    await drain(app)


async def test_what_the_task_declares(app: App, producer: App, conn: psycopg.Connection) -> None:
    ran: list[Any] = []
    await declared(app, ran)
    conn.execute("select pgqueue.enqueue('shop.send', '{\"to\": \"a\"}')")
    named = producer.named("shop.send")
    named.enqueue(to="a")
    await named.aenqueue(to="a")
    producer.enqueue_many([named.call(to="a"), named.call(to="a")])
    await producer.aenqueue_many([named.call(to="a")])
    flow = producer.workflow()
    flow.add(named.call(to="a"))
    flow.enqueue()
    found = rows(conn)
    assert found[0][:2] == ("mail", 7)
    assert found == [found[0]] * 7
    await drain(app)
    assert [to for to, *_ in ran] == ["a"] * 7


async def test_what_the_call_says(app: App, producer: App, conn: psycopg.Connection) -> None:
    await declared(app, [])
    named = (
        producer.named("shop.send").with_queue("default").with_priority(0).with_max_retries(10)
        .with_backoff("1m").with_expires("2h").with_delay("1h").with_unique("k")
    )  # fmt: skip
    first, second = named.enqueue(to="a"), named.enqueue(to="b")
    assert (first.inserted, second.inserted, second.id) == (True, False, first.id)
    with pytest.raises(JobExists):
        named.with_unique("k", on_conflict="raise").enqueue(to="b")
    columns = "queue, priority, max_retries, backoff ->> 'seconds', unique_key, limit_key, run_at > now() + interval '59 min', expires_at - run_at = interval '2 hours'"
    (row,) = rows(conn, columns)
    assert row[:3] == ("default", 0, 10)
    assert row[4:] == ("shop.send:k", "shop.send:a", True, True)
    with pytest.raises(ConfigError, match="without its signature it needs with_unique"):
        producer.named("shop.send").with_unique(by=["to"]).call(to="a")


async def test_a_name_that_nobody_knows_yet(
    app: App, producer: App, conn: psycopg.Connection
) -> None:
    handle = producer.named("later").enqueue(n=1)
    assert rows(conn, "task, queue, priority, max_retries, args") == [
        ("later", "default", 0, 10, {"n": 1})
    ]
    ran: list[int] = []

    @app.task(name="later", result=True)
    async def later(n: int) -> int:
        ran.append(n)
        return n + 1

    await drain(app)
    assert (ran, await handle.aresult(timeout=5)) == ([1], 2)


async def test_defaults_of_the_queue(producer: App, conn: psycopg.Connection) -> None:
    producer.client.set_queue("mail", priority=5, max_retries=2)
    producer.named("t").with_queue("mail").enqueue()
    producer.named("t").with_queue("mail").with_priority(0).enqueue()
    assert rows(conn, "priority, max_retries") == [(5, 2), (0, 2)]


async def test_the_callers_transaction(dsn: str, producer: App, conn: psycopg.Connection) -> None:
    named = producer.named("t")
    with psycopg.connect(dsn) as mine:
        named.on(mine).enqueue()
        mine.rollback()
        named.on(mine).with_priority(1).enqueue()
        producer.enqueue_many([named.call()], on=mine)
        assert rows(conn, "1") == []
        mine.commit()
    theirs = await asyncpg.connect(asyncpg_uri(dsn))
    async with theirs.transaction():
        await named.with_priority(2).on(theirs).aenqueue()
    await theirs.close()
    assert rows(conn, "priority") == [(1,), (0,), (2,)]
    with pytest.raises(ConnectionUnusable, match="None"):
        named.on(None)


@pytest.mark.parametrize("count", [499, 1200])
async def test_many(app: App, producer: App, conn: psycopg.Connection, count: int) -> None:
    ran: list[Any] = []
    await declared(app, ran)
    known = app.definition("shop.send")
    assert known is not None

    @producer.task(name="own")
    def own(n: int) -> None: ...

    named = producer.named("shop.send")
    jobs = [named.call(to=str(n)) if n % 3 else own.call(n) for n in range(count)]
    handles = producer.enqueue_many(jobs)
    assert [each.task for each in handles] == ["own" if n % 3 == 0 else "shop.send" for n in range(count)]  # fmt: skip
    handles = await producer.aenqueue_many([named.call(to=str(n)) for n in range(count)])
    assert [each.id for each in handles] == sorted({each.id for each in handles})
    found = conn.execute("select task, queue, priority, count(*) from pgqueue.jobs group by 1, 2, 3 order by 1").fetchall()  # fmt: skip
    owns = len(range(0, count, 3))
    assert found == [("own", "default", 0, owns), ("shop.send", "mail", 7, 2 * count - owns)]


async def test_arguments_are_stored_as_those_of_a_task(app: App, producer: App) -> None:
    ran: list[Any] = []
    await declared(app, ran)
    when, ids = datetime(2030, 1, 1, tzinfo=UTC), (UUID(int=1), UUID(int=2))
    producer.named("shop.send").enqueue(to="a", when=when, ids=ids)
    await drain(app)
    assert ran == [("a", when, ids)]


async def test_results_of_other_jobs(app: App, producer: App) -> None:
    ran: list[Any] = []
    await declared(app, ran)
    flow = producer.workflow()
    first = flow.add(producer.named("shop.send").call(to="a"))
    flow.add(producer.named("shop.send").call(to=first.result), after=[first])
    flow.enqueue()
    await drain(app)
    assert [to for to, *_ in ran] == ["a", "a"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"a": object()}, "object"),
        ({"a": float("nan")}, "t: "),
        ({"a": "\0"}, "NUL"),
        ({"a": "\ud800"}, "surrogate"),
        ({"a": "x" * 1_100_000}, "at most 1,048,576"),
        ({"a b": 1}, "'a b' cannot be the name of a parameter"),
        ({"class": 1}, "'class' cannot be"),
        ({"a": {"$encrypted": "x"}}, "encrypted"),
        ({"a": {"$result": "x"}}, "result"),
    ],
)
def test_arguments_that_cannot_be_stored(
    producer: App, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ArgumentsError, match=words):
        producer.named("t").call(**arguments)


def test_arguments_without_names(producer: App) -> None:
    with pytest.raises(ArgumentsError, match="by the names of its parameters"):
        producer.named("t").enqueue(1)


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", None, 7])
def test_a_bad_name(producer: App, name: Any) -> None:
    with pytest.raises(ConfigError, match="task name"):
        producer.named(name)


def test_no_schedule_by_name(producer: App) -> None:
    with pytest.raises(ConfigError, match="declare it where the task is imported"):
        producer.cron("@daily", producer.named("t").call(), name="s")


async def test_encrypted_arguments(dsn: str, producer: App, conn: psycopg.Connection) -> None:
    keys = Keys.generate()
    async with App(dsn, keys=Keys.parse(keys)) as app:
        ran: list[Any] = []

        @app.task(name="pay")
        def pay(amount: int, card: Secret[str] = "none") -> None:
            ran.append((amount, card))

        await drain(app)
        named, words = producer.named("pay"), "pay encrypts its argument card"
        with pytest.raises(ConfigError, match=words):
            named.enqueue(amount=1, card="4111")
        with pytest.raises(ConfigError, match=words):
            await named.aenqueue(amount=1, card="4111")
        with pytest.raises(ConfigError, match=words):
            producer.enqueue_many([named.call(amount=n, card="4111") for n in range(600)])
        flow = producer.workflow()
        flow.add(named.call(amount=1, card="4111"))
        with pytest.raises(ConfigError, match=words):
            flow.enqueue()
        assert rows(conn, "args") == []
        named.enqueue(amount=1)
        # Where the code is, it is encrypted.
        app.named("pay").enqueue(amount=2, card="4111")
        assert "4111" not in str(rows(conn, "args"))
        await drain(app)
        assert ran == [(1, "none"), (2, "4111")]


async def test_a_task_that_is_unique(app: App, producer: App, conn: psycopg.Connection) -> None:
    @app.task(name="once", unique=True)
    def once(n: int) -> None: ...

    await drain(app)
    with pytest.raises(ConfigError, match="once is declared unique"):
        producer.named("once").enqueue(n=1)
    with pytest.raises(ConfigError, match="once is declared unique"):
        await producer.named("once").aenqueue(n=1)
    producer.named("once").with_unique("1").enqueue(n=1)
    assert not producer.named("once").with_unique("1").enqueue(n=1).inserted
    # Where the code is, its key is.
    app.named("once").enqueue(n=2)
    assert not once.enqueue(2).inserted
    assert len(rows(conn, "id")) == 2


async def test_where_the_code_is(app: App, conn: psycopg.Connection) -> None:
    named = app.named("here")

    @app.task(name="here", queue="mail", priority=4, aliases=["there"])
    def here(n: int) -> None: ...

    class There(Job):
        n: int
        name = "class"
        queue = "cls"

        def handle(self) -> None: ...

    app.job(There)
    named.enqueue(n=1)
    named.with_priority(1).enqueue(n=1)
    await app.named("class").aenqueue(n=1)
    assert rows(conn, "task, queue, priority") == [
        ("here", "mail", 4), ("here", "mail", 1), ("class", "cls", 0),
    ]  # fmt: skip
    with pytest.raises(ArgumentsError, match="missing a required argument"):
        named.enqueue()


async def test_a_full_queue(app: App, producer: App, conn: psycopg.Connection, dsn: str) -> None:
    await declared(app, [])
    producer.client.set_queue("mail", max_pending=2)
    named = producer.named("shop.send")
    named.enqueue(to="a")
    with psycopg.connect(dsn) as mine:
        named.on(mine).enqueue(to="b")
        with pytest.raises(QueueFull, match="queue mail has no room for 1 more") as full:
            named.on(mine).enqueue(to="c")
        assert (full.value.queue, full.value.max_pending) == ("mail", 2)
        mine.commit()  # it goes on
    with pytest.raises(QueueFull, match="3 jobs at once never fit"):
        await producer.aenqueue_many([named.call(to="x")] * 3)
    assert rows(conn, "args ->> 'to'") == [("a",), ("b",)]


async def test_workers_are_woken(app: App, producer: App, conn: psycopg.Connection) -> None:
    await declared(app, [])
    row = conn.execute("select pgqueue.channel('mail')").fetchone()
    assert row is not None
    conn.execute(f'listen "{row[0]}"'.encode())
    producer.named("shop.send").enqueue(to="a")
    assert [note.channel for note in conn.notifies(timeout=20, stop_after=1)] == [row[0]]


def test_the_handle_of_a_job_by_a_named_task(producer: App) -> None:
    handle = producer.named("shop.send").enqueue(to="a")
    assert producer.handle(handle.id, producer.named("shop.send")).task == "shop.send"


@pytest.mark.parametrize("wrong", ["7", None, 1.5, object()])
async def test_a_message_goes_to_the_id_of_a_job(producer: App, wrong: object) -> None:
    for send in (producer.send, producer.asend):
        with pytest.raises(ConfigError, match="job_id must be a whole number"):
            sent = send(wrong, "go")  # type: ignore[operator]
            if inspect.isawaitable(sent):
                await sent
    with pytest.raises(JobNotFound):
        producer.send(2**70, "go")
