"""A rolling deployment: jobs with arguments that only the newer workers know."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import psycopg
import pytest

from pgqueue import App, ConfigError, Context, Job
from pgqueue.codec import signature_of
from pgqueue.config import Settings
from pgqueue.errors import ArgumentsError, UnknownArguments
from tests.cli.support import Cli
from tests.deploys import process_tasks
from tests.support import drain, eventually_async, working

Row = tuple[Any, ...]


def rows(conn: psycopg.Connection) -> list[Row]:
    return conn.execute(
        "select status, attempt, crashes, last_error, left_because, cardinality(left_by)"
        " from pgqueue.jobs order by id"
    ).fetchall()


def age(conn: psycopg.Connection, interval: str) -> None:
    """Let time pass for the jobs that were left."""
    conn.execute(
        "update pgqueue.jobs set left_at = left_at - %s::interval, left_until = left_until - %s::interval",
        (interval, interval),
    )


@pytest.fixture
async def newer(dsn: str) -> AsyncIterator[App]:
    app = App(dsn)
    yield app
    await app.aclose()


def in_thread(app: App, ran: list[Any]) -> None:
    @app.task(name="t", max_retries=0)
    def t(name: str) -> None:
        ran.append(name)


def in_loop(app: App, ran: list[Any]) -> None:
    @app.task(name="t", max_retries=0)
    async def t(name: str) -> None:
        ran.append(name)


def with_context(app: App, ran: list[Any]) -> None:
    @app.task(name="t", max_retries=0)
    async def t(ctx: Context, name: str) -> None:
        ran.append(name)


@pytest.mark.parametrize("old", [in_thread, in_loop, with_context])
async def test_the_old_version_leaves_them_for_the_new(
    app: App, newer: App, conn: psycopg.Connection, old: Callable[[App, list[Any]], None]
) -> None:
    ran: list[Any] = []
    old(app, ran)

    @newer.task(name="t", max_retries=0)
    async def t(name: str, tag: str = "") -> None:
        ran.append((name, tag))

    newer.enqueue_many([t.call(f"n{n}", "red") for n in range(50)])
    await drain(app)
    assert ran == []
    assert {row[:4] for row in rows(conn)} == {("pending", 0, 0, None)}
    assert {row[5] for row in rows(conn)} == {1}, "each is looked at once by a worker"
    assert conn.execute("select count(*) from pgqueue.attempts").fetchone() == (0,)
    assert conn.execute("select count(*) from pgqueue.jobs where run_at > now()").fetchone() == (0,)
    async with working(app), working(newer):
        await eventually_async(lambda: {row[0] for row in rows(conn)} == {"succeeded"})
    assert sorted(ran) == sorted((f"n{n}", "red") for n in range(50))


async def test_calls_without_the_new_argument_go_on_everywhere(
    app: App, newer: App, conn: psycopg.Connection
) -> None:
    ran: list[Any] = []
    in_loop(app, ran)

    @newer.task(name="t")
    async def t(name: str, tag: str = "") -> None: ...

    newer.enqueue_many([t.call("a"), t.call("b", "red"), t.call("c")])
    await drain(app)
    assert sorted(ran) == ["a", "c"]


async def test_after_a_while_they_fail_with_a_clear_text(
    app: App, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    in_loop(app, [])
    heard: list[Any] = []
    app.on_dead(heard.append)
    conn.execute("""select pgqueue.enqueue('t', '{"name": "a", "tagg": 1}', max_retries => 0)""")
    await drain(app)
    age(conn, "59 minutes")
    await drain(app)
    assert rows(conn)[0][0] == "pending"
    age(conn, "2 minutes")
    await drain(app)
    [(status, attempt, crashes, error, *_)] = rows(conn)
    assert (status, attempt, crashes) == ("dead", 1, 0)
    assert error == (
        "UnknownArguments: arguments of task 't': this version of the task has no argument 'tagg', it takes"
        " name; left for a worker of a newer version, for 1h at most"
    )
    assert [(each.error_type, each.attempt) for each in heard] == [("UnknownArguments", 1)]
    assert conn.execute("select outcome, error_type from pgqueue.attempts").fetchall() == [
        ("dead", "UnknownArguments")
    ]
    assert "dead, see pgqueue job" in caplog.text


async def test_a_retry_by_hand_waits_anew(app: App, conn: psycopg.Connection) -> None:
    in_loop(app, [])
    conn.execute("""select pgqueue.enqueue('t', '{"name": "a", "tag": 1}')""")
    await drain(app, newer_worker_wait=0)
    assert rows(conn)[0][0] == "dead", "a wait of 0 is none"
    age(conn, "2 hours")
    app.client.retry(1)
    await drain(app)
    assert rows(conn)[0][0] == "pending"
    await drain(app, newer_worker_wait="forever")
    age(conn, "300 days")
    await drain(app, newer_worker_wait="forever")
    assert rows(conn)[0][0] == "pending"


async def test_one_that_ran_meanwhile_waits_anew(
    app: App, newer: App, conn: psycopg.Connection
) -> None:
    """Back and forth: the time since an older worker left it long ago is not held against it."""
    in_loop(app, [])

    @newer.task(name="t", max_retries=5, backoff="1h")
    async def t(name: str, tag: str = "") -> None:
        raise ValueError

    t.enqueue("a", "red")
    await drain(app)
    age(conn, "50 minutes")
    await drain(newer)
    assert rows(conn)[0][:4] == ("pending", 1, 0, "ValueError")
    conn.execute("update pgqueue.jobs set run_at = now()")
    age(conn, "50 minutes")
    await drain(app)
    assert rows(conn)[0][0] == "pending"


async def test_what_lacks_an_argument_is_dead_at_once(app: App, conn: psycopg.Connection) -> None:
    """Nothing newer takes fewer: it is misspelt."""
    in_loop(app, [])
    conn.execute("""select pgqueue.enqueue('t', '{"nam": "a"}')""")
    conn.execute("""select pgqueue.enqueue('t', '{"name": 1, "tag": 1}')""")
    conn.execute("""select pgqueue.enqueue('t', '{"name": 1}')""")
    await drain(app)
    assert [row[0] for row in rows(conn)] == ["dead"] * 3
    assert "nam" in rows(conn)[0][3]


async def test_of_a_schedule(app: App, conn: psycopg.Connection) -> None:
    in_loop(app, [])
    conn.execute(
        """select pgqueue.add_schedule('s', 'every 1d', 't', '{"name": "a", "tag": 1}'), pgqueue.run_schedule('s')"""
    )
    await drain(app)
    assert rows(conn)[0][0] == "pending"
    assert "no argument 'tag'" in rows(conn)[0][4]


async def test_a_job_class_with_a_new_field(app: App, conn: psycopg.Connection) -> None:
    class Fielded(Job):
        name = "fielded"
        user: str

        async def handle(self) -> None: ...

    conn.execute("""select pgqueue.enqueue('fielded', '{"user": "a", "tag": 1}')""")
    await drain(app)
    assert rows(conn)[0][0] == "pending"
    assert "no argument 'tag', it takes user" in rows(conn)[0][4]


async def test_a_process_task(dsn: str, conn: psycopg.Connection) -> None:
    process_tasks.app.use(dsn=dsn)
    conn.execute("""select pgqueue.enqueue('measured', '{"text": "a", "tag": 1}')""")
    conn.execute("""select pgqueue.enqueue('measured', '{"text": "a"}')""")
    await drain(process_tasks.app)
    assert [row[0] for row in rows(conn)] == ["pending", "succeeded"]


async def test_under_limits_and_in_order(app: App, newer: App, conn: psycopg.Connection) -> None:
    ran: list[Any] = []

    @app.task(name="t", order_by="key")
    async def old(key: str, n: int) -> None:
        ran.append((key, n))

    @newer.task(name="t", order_by="key")
    async def new(key: str, n: int, tag: str = "") -> None:
        ran.append((key, n))

    newer.enqueue_many([new.call("a", 1, "red"), new.call("a", 2), new.call("b", 1)])
    await drain(app)
    assert ran == [("b", 1)], "what comes after one that waits in strict order waits as well"
    await drain(newer)
    assert ran == [("b", 1), ("a", 1), ("a", 2)]


async def test_the_reason_is_shown(app: App, conn: psycopg.Connection, dsn: str) -> None:
    in_loop(app, [])
    conn.execute("""select pgqueue.enqueue('t', '{"name": "a", "nmae": 1}')""")
    await drain(app)
    reason = app.client.job(1).waiting_because
    assert reason is not None
    assert "no argument 'nmae'" in reason
    assert "did you mean name?" in reason
    cli = Cli(dsn)
    assert "waits: arguments of task 't'" in cli("jobs").stdout
    assert "no argument 'nmae'" in cli("job", "1").stdout
    assert cli.json("job", "1")["job"]["waiting_because"] == reason


def test_the_wait_is_a_setting() -> None:
    assert Settings().with_(newer_worker_wait="5m").newer_worker_wait == 300
    assert Settings().with_(newer_worker_wait=None).newer_worker_wait is None
    with pytest.raises(ConfigError):
        Settings().with_(newer_worker_wait="soon")


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """An argument that refuses what it does not know."""

    x: int


@pytest.mark.parametrize(
    ("args", "newer", "says"),
    [
        ('{"a": 1, "b": {"x": 1}, "c": 2, "d": 3}', True, "no argument 'c', 'd', it takes a, b"),
        ('{"a": 1, "b": {"x": 1, "y": 2}}', True, "unknown field `y`"),
        ('{"a": 1, "b": {"x": 1, "y": 2}, "c": 1}', True, "no argument 'c'"),
        ('{"b": {"x": 1}, "c": 2}', False, "do not fit"),
        ('{"a": "one", "b": {"x": 1}, "c": 2}', False, "do not fit"),
        ('{"a": 1, "b": {"y": 2}}', True, "unknown field `y`"),
        ('["a"]', False, "do not fit"),
        (
            "{" + ",".join(f'"{"k" * 200}{n}": {n}' for n in range(2000)) + ', "a": 1}',
            True,
            ", ..., it",
        ),
    ],
)
def test_what_counts_as_newer(args: str, newer: bool, says: str) -> None:
    def task(a: int, b: Strict | None = None) -> None: ...

    with pytest.raises(ArgumentsError) as raised:
        signature_of(task).decode(args)
    assert isinstance(raised.value, UnknownArguments) == newer
    assert says in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_a_pydantic_model_that_forbids_more() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        x: int

    def task(m: Model) -> None: ...

    task.__annotations__["m"] = Model
    with pytest.raises(UnknownArguments, match="unknown field"):
        signature_of(task).decode('{"m": {"x": 1, "y": 2}}')
    with pytest.raises(ArgumentsError) as raised:
        signature_of(task).decode('{"m": {"y": 2}}')
    assert not isinstance(raised.value, UnknownArguments)
