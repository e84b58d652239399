"""What the worker does about each kind of error of the database."""

from __future__ import annotations

import asyncio
import logging

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import App
from pgqueue.job import NewJob
from pgqueue.operations import maintenance
from pgqueue.sql import compile_statement
from pgqueue.worker import service
from pgqueue.worker.database import MOST_RETRIES, Database, DatabaseAway, StatementRefused
from pgqueue.worker.verdict import Verdict, verdict
from tests.faults.proxy import Proxy
from tests.support import eventually_async, statuses, working

STATS = maintenance.stats()
LEVEL = compile_statement("level", "select current_setting('transaction_isolation')")


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, Verdict.LOST), ("08000", Verdict.LOST), ("08003", Verdict.LOST),
        ("08006", Verdict.LOST), ("57P01", Verdict.LOST), ("57P02", Verdict.LOST),
        ("57P03", Verdict.LOST), ("25006", Verdict.UNUSABLE), ("53100", Verdict.UNUSABLE),
        ("53200", Verdict.UNUSABLE), ("53300", Verdict.UNUSABLE), ("26000", Verdict.UNUSABLE),
        ("40001", Verdict.AGAIN), ("40P01", Verdict.AGAIN), ("55P03", Verdict.AGAIN),
        ("42P01", Verdict.REFUSED), ("42703", Verdict.REFUSED), ("42501", Verdict.REFUSED),
        ("57014", Verdict.REFUSED), ("23505", Verdict.REFUSED),
    ],
)  # fmt: skip
def test_the_table(state: str | None, expected: Verdict) -> None:
    assert verdict(state) is expected


@pytest.mark.parametrize(
    "state", ["25006", "53100", "53200", "53300", "57P01", "57P02", "57P03", "08006"]
)
async def test_a_connection_of_no_use_is_dropped(proxy: Proxy, through: str, state: str) -> None:
    database = Database(through, "pgqueue")
    await database.run(STATS)
    proxy.error = state
    with pytest.raises(DatabaseAway) as caught:
        await database.run(STATS)
    assert caught.value.sent is (verdict(state) is Verdict.LOST)
    await eventually_async(lambda: proxy.connections == 0)
    proxy.error = None
    await database.run(STATS)
    assert database.session == 2
    await database.close()


async def test_a_lost_connection_may_have_carried_out_the_statement(
    proxy: Proxy, through: str
) -> None:
    database = Database(through, "pgqueue")
    await database.run(STATS)
    proxy.mode = "drop_replies"
    running = asyncio.create_task(database.run(STATS))
    seen: list[bytes] = []
    proxy.watch = seen.append
    await eventually_async(lambda: seen)
    proxy.reset()
    with pytest.raises(DatabaseAway) as caught:
        await running
    assert caught.value.sent
    await database.close()


async def test_a_read_only_server_is_noticed_when_idle(dsn: str, impatient: None) -> None:
    """What a role or a database makes read-only is switched off; what the server or a DSN does, is not."""
    database = Database(
        make_conninfo(dsn, options="-c default_transaction_read_only=on"), "pgqueue"
    )
    await database.run(STATS)
    database._used = 0.0
    with pytest.raises(DatabaseAway, match="read-only"):
        await database.check()
    assert database._link is None
    await database.close()
    name = conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"alter database {name} set default_transaction_read_only = on".encode())
    database = Database(dsn, "pgqueue")
    await database.run(STATS)
    database._used = 0.0
    await database.check()
    await database.close()


def fail_the_first(proxy: Proxy, count: int, state: str) -> list[bytes]:
    """Answer the first ``count`` statements with an error; returns the list of those sent."""
    sent: list[bytes] = []

    def watch(data: bytes) -> None:
        sent.append(data)
        proxy.error = state if len(sent) <= count else None

    proxy.watch = watch
    return sent


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03"])
async def test_conflicts_are_tried_again(proxy: Proxy, through: str, state: str) -> None:
    database = Database(through, "pgqueue")
    await database.run(STATS)
    fail_the_first(proxy, MOST_RETRIES, state)
    await database.run(STATS)
    sent = fail_the_first(proxy, 1000, state)
    with pytest.raises(StatementRefused) as caught:
        await database.run(STATS)
    assert caught.value.state == state
    assert len(sent) == MOST_RETRIES + 1
    assert database.session == 1  # the connection is sound
    proxy.error, proxy.watch = None, lambda data: None
    await database.close()


@pytest.mark.parametrize("state", ["40001", "42501", "53100", "57P01"])
async def test_results_and_jobs_outlast_the_errors(
    proxy: Proxy, through: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, state: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(service, "MOST_BACKOFF", 1.0)
    app = App(through)
    ran: list[int] = []
    go = asyncio.Event()

    @app.task
    async def wait(number: int) -> None:
        ran.append(number)
        await go.wait()

    with psycopg.connect(conn.info.dsn, password=conn.info.password, autocommit=True) as direct:
        for number in range(5):
            wait.on(direct).enqueue(number)
        async with working(app, poll=0.05) as runtime:
            await eventually_async(lambda: len(ran) == 5)
            proxy.error = state
            go.set()
            await eventually_async(lambda: _warnings(caplog))  # no claim from before is on its way
            wait.on(direct).enqueue(5)
            seen: list[bytes] = []
            proxy.watch = seen.append
            await eventually_async(lambda: len(seen) > 20)
            assert sorted(statuses(conn).values()) == ["pending"] + ["running"] * 5
            proxy.error, proxy.watch = None, lambda data: None
            await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"] * 6)
            assert [e.recorder.lost for e in runtime.exchanges] == [0]
    assert ran == list(range(6))
    # At most one of each: a connection, a statement, a result.
    assert 1 <= len(_warnings(caplog)) <= 3, _warnings(caplog)
    await app.aclose()


async def test_a_schema_that_is_away_is_said_once_and_waited_for(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(service, "MOST_BACKOFF", 0.2)

    @app.task
    async def noop() -> None: ...

    async with working(app, poll=0.05) as runtime:
        await noop.aenqueue()
        await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"])
        conn.execute("alter schema pgqueue rename to elsewhere")
        refused = await _failures(runtime.exchanges[0], 5)
        assert "pgqueue migrate" in refused
        conn.execute("alter schema elsewhere rename to pgqueue")
        await noop.aenqueue()
        await eventually_async(lambda: list(statuses(conn).values()) == ["succeeded"] * 2)
    reports = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len([r for r in reports if "42P01" in r.message]) == 1
    assert len(reports) <= 3, [r.message for r in reports]  # 42P01, 42883 of the channels


async def _failures(one: service.Service, count: int) -> str:
    """Wait for so many failed passes of a service; returns the last error."""
    errors: list[Exception] = []
    failed = one._failed

    async def counted(error: Exception, failures: int) -> None:
        errors.append(error)
        await failed(error, failures)

    one._failed = counted  # type: ignore[method-assign]
    await eventually_async(lambda: len(errors) >= count)
    return str(errors[-1])


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
@pytest.mark.parametrize("whose", ["database {0}", "role postgres in database {0}"])
async def test_read_committed_whatever_the_default(
    dsn: str, conn: psycopg.Connection, level: str, whose: str
) -> None:
    conn.execute(
        f"alter {whose.format(conn.info.dbname)}"
        f" set default_transaction_isolation = '{level}'".encode()
    )
    for name in ("control", "heartbeat", "listen"):
        database = Database(dsn, "pgqueue", name=name)
        await database.run(STATS)
        assert database._link is not None
        ((level,),) = await database._link.fetch(LEVEL, {})
        assert level == "read committed"
        await database.close()


async def test_workers_do_not_collide_under_a_serializable_default(
    dsn: str, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    conn.execute(
        f"alter database {conn.info.dbname}"
        " set default_transaction_isolation = 'serializable'".encode()
    )
    apps = [App(dsn) for _ in range(3)]
    ran: list[int] = []
    for app in apps:

        @app.task(name="note")
        async def note(number: int) -> None:
            ran.append(number)

    await apps[0].aclient.insert([NewJob("note", f'{{"number": {n}}}') for n in range(300)])
    async with working(apps[0]), working(apps[1]), working(apps[2]):
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
    assert sorted(ran) == list(range(300))
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if r.levelno >= logging.WARNING]


async def test_looks_that_are_always_cut_short_do_not_stop_the_queue(
    proxy: Proxy, through: str, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    """A held snapshot may keep more dead rows than a look can go over in its time."""
    app = App(through)

    @app.task(name="t")
    async def t() -> None: ...

    conn.execute(
        "insert into pgqueue.jobs (task, status, attempt, run_at, finished_at)"
        " values ('t', 'succeeded', 1, now() - interval '1 hour', now())"
    )

    def cut(data: bytes) -> None:
        proxy.error = "57014" if b"slice as materialized" in data else None

    proxy.watch = cut
    conn.execute("insert into pgqueue.jobs (task) select 't' from generate_series(1, 300)")
    async with working(app, poll=0.05, concurrency=10):
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
        conn.execute("insert into pgqueue.jobs (task) select 't' from generate_series(1, 300)")
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
    assert any("cut short" in warning for warning in _warnings(caplog))


async def test_a_claim_that_is_cut_short_goes_on_where_the_last_job_ended(
    proxy: Proxy, through: str, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(through)

    @app.task(name="t")
    async def t() -> None: ...

    cut: list[bytes] = []

    def watch(data: bytes) -> None:
        claims_forward = b"as lane(queue, priority, after_at" in data and not cut
        proxy.error = "57014" if claims_forward else None
        if claims_forward:
            cut.append(data)

    proxy.watch = watch
    conn.execute("insert into pgqueue.jobs (task) select 't' from generate_series(1, 300)")
    async with working(app, poll=0.05, concurrency=10):
        await eventually_async(lambda: set(statuses(conn).values()) == {"succeeded"})
    assert cut
    assert any("cut short" in warning for warning in _warnings(caplog))
