"""Configuration files, DSNs and command lines: a clear error, never a traceback."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue import ConfigError, config
from pgqueue.cli import COMMANDS, main
from pgqueue.config import Config, Settings
from pgqueue.connect import asyncpg_uri, describe, libpq_dsn, parse
from tests.fuzz.support import fuzz, storable, text

KEYS = [f.name for f in fields(Settings)] + ["dsn", "app", "schema", "redact", "keys", "colour"]
toml_values = st.one_of(
    st.sampled_from([
        "true", "1", "-1", "1.5", "nan", "inf", '""', '"60s"', '"forever"', '"x"', "[]", '["a"]',
        "[1]", "{}", "{a = 1}", "1979-05-27", "99999999999999999999", "0", "20", '"true"', '"-token"',
    ]),
    st.text(max_size=10),
)  # fmt: skip


def test_files(tmp_path: Path) -> None:
    @fuzz(300)
    @given(
        st.sampled_from(["pgqueue.toml", "pyproject.toml"]),
        st.sampled_from(["", "[tool.pgqueue]\n", "tool = 3\n", "[[tool.pgqueue]]\n"]),
        st.dictionaries(st.sampled_from(KEYS), toml_values, max_size=3),
        st.dictionaries(st.sampled_from(KEYS), st.text(max_size=10), max_size=2),
    )
    def check(name: str, head: str, table: dict[str, str], environ: dict[str, str]) -> None:
        for old in tmp_path.iterdir():
            old.unlink()
        lines = "".join(f"{key} = {value}\n" for key, value in table.items())
        (tmp_path / name).write_bytes((head + lines).encode("utf-8", "surrogatepass"))
        try:
            loaded = config.load(tmp_path, {f"PGQUEUE_{k.upper()}": v for k, v in environ.items()})
        except ConfigError as error:
            assert "\n" not in str(error)
        else:
            assert isinstance(loaded, Config)

    check()


@fuzz(500)
@given(text | st.text("postgresql://user:@host/db?%=&'\\ 0A", max_size=60))
def test_any_text_is_a_dsn_or_refused(dsn: str) -> None:
    for use in (describe, asyncpg_uri, libpq_dsn):
        try:
            use(dsn)
        except ConfigError as error:
            assert "\n" not in str(error)


@fuzz(300)
@given(storable, storable)
def test_any_password_is_read_back_and_not_described(user: str, password: str) -> None:
    uri = f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@db.example/shop"
    words = f"host=db.example dbname=shop user={_quoted(user)} password={_quoted(password)}"
    for dsn in (uri, words):
        for each in (dsn, asyncpg_uri(dsn), libpq_dsn(dsn)):
            assert parse(each).get("password", "") == password
            assert parse(each).get("user", "") == user or not user  # then it is the system's
        assert describe(dsn) == "shop at db.example"


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


OPTIONS = [
    "--json", "--queue", "--task", "--error", "--since", "--status", "--limit", "--before", "--all", "--yes",
    "--args", "--check", "--sql", "--to", "--app", "--schema", "--show-args", "--help", "-q", "-c", "--lease",
    "--max-jobs", "--log-format", "--drain", "--", "-", "--poll", "--concurrency", "-w", "--workers",
]  # fmt: skip
VALUES = [
    "mail",
    "1",
    "0",
    "-1",
    "99999999999999999999",
    "2h",
    "dead",
    "{}",
    "[1]",
    "no.such:app",
    "json",
    "base",
]
words = st.sampled_from(OPTIONS) | st.sampled_from(VALUES) | text


def test_command_lines(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    monkeypatch.chdir(tmp_path)

    @fuzz(150)
    @given(st.sampled_from(list(COMMANDS)), st.lists(words, max_size=6))
    def check(command: str, arguments: list[str]) -> None:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main([command, *arguments])
        code: Any = ended.value.code
        assert code in (0, 1, 2, 3, 4, 130), (command, arguments)
        lines = [line for line in err.getvalue().splitlines() if line]
        assert "Traceback" not in err.getvalue()
        if code in (3, 4):
            assert len(lines) == 1, lines
        if code:
            assert lines or out.getvalue()

    handlers = logging.getLogger().handlers[:]
    check()
    logging.getLogger().handlers[:] = handlers  # `work` sets up logging of its own
