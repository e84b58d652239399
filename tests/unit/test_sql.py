"""Rules of the SQL files and of the layout."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pgqueue
from pgqueue.errors import ConfigError
from pgqueue.job import TRANSITIONS, Status
from pgqueue.sql import commands, compile_statement, load, qualify, split

PACKAGE = Path(pgqueue.__file__).parent
SOURCES = sorted((PACKAGE / "sql").glob("*.sql"))


def test_every_parameter_is_cast() -> None:
    for file in SOURCES:
        text = re.sub(r"--[^\n]*", "", file.read_text("utf-8"))
        assert not re.findall(r"(?<![:\w]):[a-z_]+\b(?!::)", text), file.name


def test_every_statement_says_what_it_is_for() -> None:
    for file in SOURCES:
        statements = split(file.read_text("utf-8"))
        assert statements
        for name, text in statements.items():
            assert re.match(r"-- [A-Z]", text), name


def test_compiled_forms() -> None:
    statement = compile_statement("x", "select :a::int, :b::text, :a::int where x like '%';")
    assert statement.numbered == "select $1::int, $2::text, $1::int where x like '%'"
    assert statement.named == "select (:a)::int, (:b)::text, (:a)::int where x like '%'"
    assert statement.pyformat == "select %(a)s::int, %(b)s::text, %(a)s::int where x like '%%'"
    assert statement.parameters == ("a", "b")


def test_another_schema_is_put_in_everywhere() -> None:
    for statement in load("other").values():
        assert "pgqueue." not in statement.numbered
    assert qualify("alter schema pgqueue is 'pgqueue:'", "o") == "alter schema \"o\" is 'o:'"
    with pytest.raises(ConfigError):
        load('x"; drop table y; --')


def test_no_sql_outside_the_sql_files() -> None:
    words = re.compile(r'"[^"\n]*\b(select .* from|insert into|update \w+\.|delete from)\b', re.I)
    for file in PACKAGE.rglob("*.py"):
        if "migrations" not in file.parts:
            assert not words.search(file.read_text("utf-8")), file


def test_a_script_is_cut_into_its_commands() -> None:
    script = "-- a; b\ncreate x as $$ a; 'b $$; select 'it''s;'; -- end\nselect 1"
    assert commands(script) == ["create x as $$ a; 'b $$", "select 'it''s;'", "select 1"]


def test_the_public_names_are_sorted_and_there() -> None:
    assert list(pgqueue.__all__) == sorted(pgqueue.__all__)
    for name in pgqueue.__all__:
        assert hasattr(pgqueue, name)


def test_final_statuses_only_go_back_by_hand() -> None:
    assert TRANSITIONS[Status.SUCCEEDED] == {}
    assert set(TRANSITIONS) == set(Status)


def test_help_costs_no_database_driver() -> None:
    code = "import sys, pgqueue.cli; pgqueue.cli.main(['--help'])"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pgqueue.cli" in imported
    assert not imported & {"psycopg", "asyncpg", "sqlalchemy", "rich", "asyncio", "msgspec"}
