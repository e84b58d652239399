"""Migrations: there and back, at once, under another name, inside a user's own Alembic."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from psycopg.conninfo import make_conninfo

from pgqueue import App, ConfigError, SchemaError, schema
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
    ("comment", "says"),
    [
        (None, "has no pgqueue schema"),
        ("somebody's words", "has no pgqueue schema"),
        ("pgqueue schema 0", "needs 1; run: pgqueue migrate"),
        ("pgqueue schema 90", "serves versions made for 90 or newer.* install a newer"),
        ("pgqueue schema 90, serves schema 50", "serves versions made for 50 or newer"),
    ],
)
def test_a_schema_that_does_not_fit(comment: str | None, says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        schema.check(schema.parse(comment))


def test_a_schema_that_fits() -> None:
    for comment in ("pgqueue schema 1", "pgqueue schema 2, serves schema 1",
                    "pgqueue schema 7, serves schema 1"):  # fmt: skip
        schema.check(schema.parse(comment))


def test_the_stamp_says_what_it_serves(empty_dsn: str) -> None:
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
