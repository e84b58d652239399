"""Whatever a role, a database or the caller's session sets: statements of pgqueue work the same."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import App, ArgumentsError, Context, DatabaseReadOnly, PrivilegeMissing, Worker, schema
from pgqueue.operations.jobs import Filter
from tests.cli.test_cli import Cli
from tests.servers import bouncer
from tests.support import drain, eventually_async, statuses, with_password, working

IMPOSED = {
    "datestyle": "'SQL, DMY'",
    "intervalstyle": "sql_standard",
    "timezone": "'America/St_Johns'",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "statement_timeout": "'60ms'",
    "lock_timeout": "'1ms'",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "row_security": "off",
    "client_encoding": "LATIN1",
    "search_path": "nowhere",
}


@pytest.fixture(params=["alter database {0} set", "alter role {1} in database {0} set"])
def imposed(request: pytest.FixtureRequest, conn: psycopg.Connection) -> Iterator[None]:
    """All of them at once, for sessions that begin from now on."""
    where = request.param.format(conn.info.dbname, conn.info.user)
    for name, value in IMPOSED.items():
        conn.execute(f"{where} {name} = {value}".encode())
    yield
    for name in IMPOSED:
        conn.execute(f"{where} {name} to default".encode())


async def test_our_own_connections_pin_what_they_rely_on(
    app: App, conn: psycopg.Connection, imposed: None
) -> None:
    @app.task(name="t", result=True)
    async def t(text: str) -> str:
        return text

    await t.aenqueue("naïve €")
    await asyncio.to_thread(t.enqueue, "naïve €")
    app.enqueue_many([t.call("€") for _ in range(500)])
    await app.aenqueue_many([t.call("€") for _ in range(500)])
    await drain(app)
    assert set(statuses(conn).values()) == {"succeeded"}
    assert len(app.client.jobs(Filter(task="t"), limit=2000)) == 1002
    assert (await app.aclient.job(1)).created_at.utcoffset() is not None
    assert app.client.job(1).args == {"text": "naïve €"}
    assert app.client.workers() == await app.aclient.workers()
    assert app.handle(1, t).result("5s") == "naïve €"


# Those of them that a caller can live with; the others are that caller's own time limits.
LIVED_WITH = (
    "datestyle", "intervalstyle", "timezone", "bytea_output", "extra_float_digits",
    "standard_conforming_strings", "array_nulls", "default_transaction_isolation", "search_path",
)  # fmt: skip


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "SQL_ASCII"])
async def test_on_the_callers_connection_nothing_is_relied_on(
    app: App, dsn: str, encoding: str
) -> None:
    @app.task(name="t")
    def t(text: str) -> None: ...

    set_all = "; ".join(f"set {name} = {IMPOSED[name]}" for name in LIVED_WITH)
    with psycopg.connect(dsn, client_encoding=encoding) as own:
        own.execute(set_all.encode())
        t.on(own).enqueue("naïve")
        handles = app.enqueue_many([t.call("naïve") for _ in range(500)], on=own)
        assert app.client.job(handles[0].id, on=own).args == {"text": "naïve"}
        assert app.client.job(handles[-1].id, on=own).task == "t"
        assert len(app.client.jobs(limit=1000, on=own)) == 501
        own.commit()
    async with await psycopg.AsyncConnection.connect(dsn, client_encoding=encoding) as aown:
        await aown.execute(set_all.encode())
        await t.on(aown).aenqueue("naïve")
        await app.aenqueue_many([t.call("naïve") for _ in range(500)], on=aown)
        assert len(await app.aclient.jobs(limit=2000, on=aown)) == 1002
    assert {job.args["text"] for job in app.client.jobs(limit=2000)} == {"naïve"}


async def test_a_session_that_only_reads_is_said(app: App, dsn: str) -> None:
    @app.task(name="t")
    def t() -> None: ...

    with psycopg.connect(make_conninfo(dsn, options="-c default_transaction_read_only=on")) as own:
        with pytest.raises(DatabaseReadOnly, match="takes no writes"):
            t.on(own).enqueue()


async def test_a_worker_that_sees_no_rows_says_so(
    app: App, dsn: str, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="t")
    def t() -> None: ...

    t.enqueue()
    name = f"pgqueue_rls_{uuid4().hex[:8]}"
    conn.execute(f"create role {name} login {with_password(conn)}".encode())
    try:
        conn.execute(f"grant usage on schema pgqueue to {name}".encode())
        conn.execute(f"grant all on all tables in schema pgqueue to {name}".encode())
        conn.execute(f"grant all on all sequences in schema pgqueue to {name}".encode())
        conn.execute(b"grant execute on all functions in schema pgqueue to public")
        conn.execute(b"alter table pgqueue.jobs enable row level security")
        other = App(make_conninfo(dsn, user=name))
        other.task(name="t")(lambda: None)
        with pytest.raises(PrivilegeMissing, match="hides every row of jobs in schema pgqueue"):
            await drain(other)
        conn.execute(f"create policy workers on pgqueue.jobs to {name} using (true)".encode())
        await drain(other)
        assert set(statuses(conn).values()) == {"succeeded"}
        assert "runs only jobs that its policies show" in caplog.text
        await other.aclose()
    finally:
        conn.execute(f"drop owned by {name}".encode())
        conn.execute(f"drop role {name}".encode())


@pytest.fixture
def encoded(server: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database in another encoding, migrated."""
    name = f"pgqueue_enc_{uuid4().hex[:8]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(
            f"create database {name} template template0 encoding '{request.param}' locale 'C'".encode()
        )
    dsn = make_conninfo(server, dbname=name)
    schema.upgrade(dsn)
    yield dsn
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"drop database {name} with (force)".encode())


@pytest.mark.parametrize("encoded", ["LATIN1", "SQL_ASCII"], indirect=True)
async def test_a_progress_that_cannot_be_stored_harms_no_other(encoded: str) -> None:
    app = App(encoded)
    told = asyncio.Event()

    @app.task(name="t")
    async def t(ctx: Context, text: str) -> None:
        ctx.progress(1, 2, {"euro": "€", "surrogate": "\ud800"}.get(text, text))
        await told.wait()

    handles = [t.enqueue(text) for text in ("euro", "naïve", "surrogate")]
    async with working(app):
        await eventually_async(lambda: all(app.client.job(h.id).progress for h in handles[1:]))
        told.set()
        await eventually_async(lambda: not app.client.count(Filter(task="t"), status="running"))
    assert [app.client.job(handle.id).status for handle in handles] == ["succeeded"] * 3
    await app.aclose()


@pytest.mark.parametrize("encoded", ["LATIN1", "SQL_ASCII"], indirect=True)
async def test_databases_in_other_encodings(encoded: str) -> None:
    app = App(encoded)

    @app.task(name="t", result=True)
    async def t(text: str) -> str:
        return text

    t.enqueue("naïve")
    await t.aenqueue("naïve")
    app.enqueue_many([t.call("naïve") for _ in range(500)])
    with psycopg.connect(encoded) as own:
        t.on(own).enqueue("naïve")
        app.enqueue_many([t.call("naïve") for _ in range(500)], on=own)
        assert len(app.client.jobs(limit=2000, on=own)) == 1003
        own.commit()
    await drain(app)
    with psycopg.connect(encoded, client_encoding="UTF8") as conn:
        assert set(statuses(conn).values()) == {"succeeded"}
    assert {job.args["text"] for job in app.client.jobs(limit=2000)} == {"naïve"}
    assert app.handle(1, t).result("5s") == "naïve"
    await app.aclose()


@pytest.mark.parametrize("encoded", ["LATIN1"], indirect=True)
async def test_a_character_that_the_database_lacks_is_said(encoded: str) -> None:
    app = App(encoded)

    @app.task(name="t")
    def t(text: str) -> None: ...

    says = pytest.raises(
        ArgumentsError, match=r"cannot take .*: with encoding UTF8 for the database"
    )
    with says:
        t.enqueue("€")
    with says:
        await t.aenqueue("€")
    with says:
        app.enqueue_many([t.call("€")] * 600)
    with psycopg.connect(encoded, client_encoding="LATIN1") as own, says:
        t.on(own).enqueue("€")
    await app.aclose()


@pytest.mark.parametrize(
    ("encoded", "says"),
    [
        ("LATIN1", "is in LATIN1: jobs whose arguments"),
        ("SQL_ASCII", "is in SQL_ASCII: PostgreSQL stores"),
    ],
    indirect=["encoded"],
)
async def test_a_migration_and_a_worker_say_what_an_encoding_means(
    encoded: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    schema.upgrade(encoded)
    with psycopg.connect(encoded) as connection:
        (remark,) = schema.remarks(connection)
    assert says in remark
    app = App(encoded)
    await drain(app)
    await app.aclose()
    said = [record.name for record in caplog.records if record.getMessage() == remark]
    assert said == ["pgqueue.schema", "pgqueue.worker"]
    for command in (["migrate"], ["migrate", "--check"]):
        assert says in await asyncio.to_thread(lambda c=command: Cli(encoded)(*c).stderr)


@pytest.mark.parametrize("encoded", ["SQL_ASCII"], indirect=True)
@pytest.mark.parametrize("several", [False, True], ids=["", "several"])
def test_a_supervisor_says_it_once_for_all_its_processes(
    encoded: str, dsn: str, several: bool
) -> None:
    schema.upgrade(encoded)
    databases = ["--dsn", encoded, *(["--dsn", dsn] if several else [])]
    done = Cli(encoded)(
        "work", "--app", "tests.cli.support:app", "--workers", "3", "--drain", *databases
    )
    assert done.stderr.count("is in SQL_ASCII") == 1


def test_nothing_is_remarked_of_a_usual_database(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        assert schema.remarks(connection) == []


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("alter database {0} set", "is on for the database {0}: alter database {0} reset"),
        (
            "alter role {1} in database {0} set",
            "is on for the role {1} in the database {0}: alter role {1} in",
        ),
    ],
)
async def test_read_only_by_role_or_database_is_switched_off_or_said(
    app: App,
    conn: psycopg.Connection,
    dsn: str,
    request: pytest.FixtureRequest,
    where: str,
    says: str,
) -> None:
    """A pooler's sessions are shared: nothing of them can be changed."""
    names = conn.info.dbname, conn.info.user

    @app.task(name="t")
    def t() -> None: ...

    t.enqueue()
    conn.execute(f"{where.format(*names)} default_transaction_read_only = on".encode())
    await drain(app)
    assert set(statuses(conn).values()) == {"succeeded"}
    schema.upgrade(dsn)
    with bouncer.pgbouncer(request.getfixturevalue("pgbouncer_program"), dsn) as pooled:
        with pytest.raises(DatabaseReadOnly, match=re.escape(says.format(*names))):
            schema.upgrade(pooled)
        other = App(pooled)
        with pytest.raises(DatabaseReadOnly, match=re.escape(says.format(*names))):
            await Worker(other).arun()
        await other.aclose()


async def test_read_only_by_the_dsn_is_said(dsn: str) -> None:
    given = make_conninfo(dsn, options="-c default_transaction_read_only=on")
    app = App(given)
    with pytest.raises(DatabaseReadOnly, match="is on for the DSN"):
        await Worker(app).arun()
    with pytest.raises(DatabaseReadOnly, match="is on for the DSN"):
        schema.upgrade(given)
    await app.aclose()
