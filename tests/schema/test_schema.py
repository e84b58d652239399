"""Migrations: there and back, at once, under another name, inside a user's own Alembic."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from psycopg.conninfo import make_conninfo

from pgqueue import App, ConfigError, PrivilegeMissing, SchemaError, schema
from pgqueue.connect import parse
from pgqueue.sql import script
from tests.schema_page import page
from tests.support import drain
from tests.upgrades import next_release

ROOT = Path(__file__).parents[2]

CATALOG = """
    select format('%s %s', c.relkind, c.oid::regclass) from pg_class c
      where c.relnamespace = to_regnamespace('pgqueue')
    union all select format('f %s', p.oid::regprocedure) from pg_proc p
      where p.pronamespace = to_regnamespace('pgqueue')
    order by 1
"""


def catalog(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as conn:
        return [row[0] for row in conn.execute(CATALOG).fetchall()]


def dsn_to_url(dsn: str, driver: str) -> Any:
    """The URL of a database for SQLAlchemy."""
    from sqlalchemy import URL

    p = parse(dsn)
    query = {"host": p["host"]} if p["host"].startswith("/") else {}
    return URL.create(
        f"postgresql+{driver}", p.get("user"), p.get("password"), None if query else p["host"],
        int(p.get("port") or 5432), p["dbname"], query=query,
    )  # fmt: skip


def version(dsn: str) -> int | None:
    with psycopg.connect(dsn) as conn:
        return schema.version(conn)


def test_up_down_up_is_clean(empty_dsn: str) -> None:
    schema.upgrade(empty_dsn)
    first = catalog(empty_dsn)
    assert version(empty_dsn) == schema.EXPECTED
    schema.downgrade(empty_dsn)
    left = [line for line in catalog(empty_dsn) if "alembic_version" not in line]
    assert left == []
    assert version(empty_dsn) is None
    schema.upgrade(empty_dsn)
    assert catalog(empty_dsn) == first


def test_a_later_revision_goes_there_and_back(
    empty_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.upgrade(empty_dsn)
    first = catalog(empty_dsn)
    copy = next_release.migrations(tmp_path)
    monkeypatch.setattr(schema, "migrations_path", lambda: copy)
    for to in (2, 3):
        schema.upgrade(empty_dsn, to=str(to))
        assert version(empty_dsn) == to
    assert "f pgqueue.note(bigint)" in catalog(empty_dsn)
    for to in (2, 1):
        schema.downgrade(empty_dsn, to=str(to))
        assert version(empty_dsn) == to
    assert catalog(empty_dsn) == first
    schema.upgrade(empty_dsn)
    assert version(empty_dsn) == next_release.NEWEST
    schema.downgrade(empty_dsn)
    assert version(empty_dsn) is None


def test_many_migrators_at_once(empty_dsn: str) -> None:
    run = [sys.executable, "-m", "pgqueue", "migrate", "--dsn", empty_dsn]
    migrators = [subprocess.Popen(run, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [migrator.wait(60) for migrator in migrators] == [0] * 4
    assert version(empty_dsn) == schema.EXPECTED


def test_the_page_is_the_schema(empty_dsn: str) -> None:
    assert (ROOT / "migrations/schema.sql").read_text("utf-8") == page(), "run: make schema"
    names = re.findall(r"^create (?:table|view|function) (pgqueue\.\w+)", page(), re.M)
    assert len(names) == len(set(names)) > 50
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(page().encode())
    by_hand = catalog(empty_dsn)
    assert version(empty_dsn) == schema.EXPECTED
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("drop schema pgqueue cascade")
    schema.upgrade(empty_dsn)
    assert [line for line in catalog(empty_dsn) if "alembic_version" not in line] == by_hand


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (None, "has no pgqueue schema"),
        ("somebody's words", "has no pgqueue schema"),
        (" select 0, 0 ", "needs 1; run: pgqueue migrate"),
        ("select 90, 90", "serves versions made for 90 or newer.* install a newer"),
        ("select 90, 50", "serves versions made for 50 or newer"),
    ],
)
def test_a_schema_that_does_not_fit(body: str | None, says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        schema.check(schema.parse(body))


def test_a_schema_that_fits() -> None:
    for body in ("select 1, 1", "select 2, 1", "select 7, 1"):
        schema.check(schema.parse(body))


def test_the_schema_says_what_it_serves(empty_dsn: str) -> None:
    schema.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn) as conn:
        assert schema.stamp(conn) == schema.Stamp(schema.EXPECTED, schema.EXPECTED)


async def test_another_schema_name(empty_dsn: str) -> None:
    schema.upgrade(empty_dsn, schema="jobs_of_shop")
    app = App(empty_dsn, schema="jobs_of_shop")
    ran: list[int] = []

    @app.task(name="t")
    async def task(number: int) -> None:
        ran.append(number)

    await task.aenqueue(1)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("select jobs_of_shop.enqueue('t', '{\"number\": 2}')")
    await drain(app)
    assert sorted(ran) == [1, 2]
    assert catalog(empty_dsn) == []
    await app.aclose()


@pytest.mark.parametrize("name", ["user", "order", "table"])
async def test_a_schema_named_by_a_word_of_sql(empty_dsn: str, name: str) -> None:
    schema.upgrade(empty_dsn, schema=name)
    app = App(empty_dsn, schema=name)
    ran: list[int] = []

    @app.task(name="t", limit=1)
    async def task(number: int) -> None:
        ran.append(number)

    await task.aenqueue(1)
    task.enqueue(2)
    await drain(app)
    assert sorted(ran) == [1, 2]
    assert [queue.queue for queue in app.client.stats()] == ["default"]
    await app.aclose()
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(script("roles", schema=name, roles="words_").encode())
        for role in (
            "operator",
            "readonly",
            "worker",
            "emitter",
            "sql_producer",
            "producer",
            "migrator",
        ):
            conn.execute(f"drop owned by words_{role}; drop role words_{role}".encode())
        conn.execute(
            "reassign owned by words_owner to current_user; drop owned by words_owner; drop role words_owner"
        )
    schema.downgrade(empty_dsn, schema=name)


@pytest.mark.parametrize("name", ["public", "information_schema", "pg_catalog", "pg_toast"])
def test_a_schema_that_is_not_its_own(empty_dsn: str, name: str) -> None:
    with pytest.raises(ConfigError, match="needs one of its own"):
        schema.upgrade(empty_dsn, schema=name)


def test_a_schema_that_an_administrator_made(empty_dsn: str) -> None:
    """Its owner may create tables in it, but no schemas in the database."""
    owner = f"shop_{uuid4().hex[:8]}"
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(f"create role {owner} login password 'x'".encode())
        try:
            conn.execute(f"create schema jobs authorization {owner}".encode())
            conn.execute(f"create schema printed authorization {owner}".encode())
            as_owner = make_conninfo(empty_dsn, user=owner, password="x")
            schema.upgrade(as_owner, schema="jobs")
            with psycopg.connect(as_owner, autocommit=True) as owned:
                owned.execute(schema.sql(schema="printed").encode())
                assert schema.version(owned, schema="printed") == schema.EXPECTED
            with pytest.raises(PrivilegeMissing, match="may not create schema other"):
                schema.upgrade(as_owner, schema="other")
        finally:
            conn.execute(f"drop owned by {owner} cascade; drop role {owner}".encode())


def test_the_version_survives_a_dump_without_comments(empty_dsn: str) -> None:
    schema.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("comment on schema pgqueue is 'Owner: team shop'")
        assert schema.version(conn) == schema.EXPECTED
        conn.execute("comment on schema pgqueue is null")
        conn.execute("comment on function pgqueue.schema_version is null")
        assert schema.version(conn) == schema.EXPECTED
    schema.upgrade(empty_dsn)


@pytest.mark.parametrize("name", ["", "Pgqueue", 'a"b', "a;drop", "a" * 49, "1a", "a.b"])
def test_hostile_schema_names(empty_dsn: str, name: str) -> None:
    with pytest.raises(ConfigError):
        schema.upgrade(empty_dsn, schema=name)
    with pytest.raises(ConfigError):
        schema.sql(schema=name)


def test_included_in_a_users_own_alembic(empty_dsn: str, tmp_path: Path) -> None:
    env = "from alembic import context\n" \
          "connection = context.config.attributes['connection']\n" \
          "context.configure(connection=connection)\n" \
          "with context.begin_transaction():\n    context.run_migrations()\n"  # fmt: skip
    own = "from alembic import op\nrevision = 'own_1'\ndown_revision = None\n" \
          "depends_on = 'pgqueue_0001'\n" \
          "def upgrade():\n    op.execute('create table own (id int)')\n"  # fmt: skip
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(env)
    (tmp_path / "versions/own_1.py").write_text(own)
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("path_separator", "newline")
    config.set_main_option(
        "version_locations", f"{tmp_path}/versions\n{schema.migrations_path()}/versions"
    )
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(empty_dsn), poolclass=NullPool
    )
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")
    assert version(empty_dsn) == schema.EXPECTED


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_env_py_of_the_page_works(empty_dsn: str, tmp_path: Path, kind: str) -> None:
    page = (ROOT / "docs/howto/migrations.md").read_text("utf-8")
    of_page = dict(zip(("sync", "async"), re.findall(r"```py\n(.*?)```", page, re.S), strict=True))
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(of_page[kind])
    url = dsn_to_url(empty_dsn, "psycopg" if kind == "sync" else "asyncpg")
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option(
        "sqlalchemy.url", url.render_as_string(hide_password=False).replace("%", "%%")
    )
    config.set_main_option("path_separator", "newline")
    config.set_main_option(
        "version_locations", f"{tmp_path}/versions\n{schema.migrations_path()}/versions"
    )
    command.upgrade(config, "heads")
    assert version(empty_dsn) == schema.EXPECTED
    command.check(config)  # autogenerate finds nothing to drop


def test_included_in_a_users_own_async_alembic(empty_dsn: str) -> None:
    """asyncpg prepares what it sends, so each command is sent by itself."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory
    from sqlalchemy.ext.asyncio import create_async_engine

    config = Config()
    config.set_main_option("script_location", str(schema.migrations_path()))
    (revision,) = ScriptDirectory.from_config(config).walk_revisions()

    def upgrade(connection: Any) -> None:
        from alembic.runtime.environment import EnvironmentContext

        with EnvironmentContext(config, ScriptDirectory.from_config(config)) as environment:
            environment.configure(connection=connection)
            with Operations.context(MigrationContext.configure(connection)):
                connection.exec_driver_sql("set local search_path = shop")
                revision.module.upgrade()
                assert connection.exec_driver_sql("show search_path").scalar() == "shop"

    async def run() -> None:
        engine = create_async_engine(dsn_to_url(empty_dsn, "asyncpg"))
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
        await engine.dispose()

    asyncio.run(run())
    assert version(empty_dsn) == schema.EXPECTED


def test_autogenerate_leaves_the_schema_alone() -> None:
    assert not schema.include_name("pgqueue", "schema", {})
    assert schema.include_name(None, "schema", {})
    assert schema.include_name("shop", "schema", {})
    assert schema.include_name("pgqueue", "table", {"schema_name": "shop"})


def test_the_wheel_has_the_migrations(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {p.relative_to(ROOT) for p in (ROOT / "migrations").rglob("*") if p.is_file()}
    wanted = {p for p in wanted if "__pycache__" not in p.parts}
    assert {f"pgqueue/{p}" for p in wanted} <= names
    assert {"pgqueue/py.typed", "pgqueue/sql/claims.sql"} <= names
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-m", "pgqueue", "migrate", "--sql"],
        cwd=tmp_path / "site", check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "create table pgqueue.jobs" in done.stdout


def test_one_dsn_two_spellings(dsn: str) -> None:
    assert version(make_conninfo(dsn)) == schema.EXPECTED


def test_every_table_outlasts_a_crash_of_the_server(conn: psycopg.Connection) -> None:
    """An unlogged one is empty after it: who holds what would be forgotten while handlers run."""
    rows = conn.execute(
        "select relname, relpersistence from pg_class"
        " where relnamespace = 'pgqueue'::regnamespace and relkind in ('r', 'i', 'S')"
    ).fetchall()
    assert len(rows) > 8
    assert {persistence for _, persistence in rows} == {"p"}
