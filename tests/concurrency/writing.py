"""Which statements write jobs, or lock them: read from the SQL itself, so that a new one is found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import psycopg

from pgqueue.sql import Statement

_WRITES = re.compile(
    r"\b(?:update|delete from|insert into|merge into|copy) (?:only )?pgqueue\.jobs\b"
    r"|\bpgqueue\.jobs\b[^;]*?\bfor (?:no key )?update of j\b",
    re.I,
)
_CALLS = re.compile(r"\bpgqueue\.(\w+)\s*\(")
LOCK = re.compile(r"\s+for (?:no key )?update of j(?P<skip> skip locked)?")


def calls(text: str) -> list[str]:
    """The functions of the schema that are named outside of quotes."""
    return _CALLS.findall(re.sub(r"'[^']*'", "''", text))


def functions(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """The source of each function of the schema by its name; those of one name together."""
    rows = conn.execute(
        "select p.proname, string_agg(p.prosrc, E'\\n') from pg_proc p"
        " where p.pronamespace = 'pgqueue'::regnamespace group by 1"
    )
    return dict(rows.fetchall())  # type: ignore[arg-type]


def writing_functions(sources: Mapping[str, str]) -> set[str]:
    """Those that write or lock jobs, by themselves or by a function that they call."""
    found = {name for name, source in sources.items() if _WRITES.search(source)}
    while more := {
        name for name, source in sources.items()
        if name not in found and found & set(calls(source))
    }:  # fmt: skip
        found |= more
    return found


def writing_statements(statements: Mapping[str, Statement], functions: set[str]) -> set[str]:
    """The names of statements that write or lock jobs."""
    return {
        name for name, statement in statements.items()
        if _WRITES.search(statement.numbered) or functions & set(calls(statement.numbered))
    }  # fmt: skip


def called(text: str, sources: Mapping[str, str]) -> set[str]:
    """The functions that a text calls, and those that they call."""
    found: set[str] = set()
    new = set(calls(text)) & set(sources)
    while new:
        found |= new
        new = {name for each in new for name in calls(sources[each]) if name in sources} - found
    return found
