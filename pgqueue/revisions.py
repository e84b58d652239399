"""Runs the SQL of a migration: in its transaction, or beside the queue's work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import context, op
from sqlalchemy import CursorResult, text

from pgqueue.sql import commands, load, qualify

# PostgreSQL's own functions and operators only: whoever may create others in public must not get them called.
SAFE_PATH = "pg_catalog, pg_temp"
# What migrate_beside changes and migrate_inside puts back.
_CHANGED = ("lock_timeout", "statement_timeout", "search_path")


def create_schema(schema: str) -> str:
    """SQL that makes the schema if it is missing.

    ``create schema if not exists`` would ask for the right to make schemas even if an administrator has made this one.
    """
    return (
        f"do $$ begin if pg_catalog.to_regnamespace('{schema}') is null then"
        f' create schema "{schema}"; end if; end $$'
    )


def run_baseline(revision: str) -> None:
    """Make the schema, which nobody else does in a user's own Alembic, and what is in it."""
    op.execute(_plain(create_schema(_schema())))
    run(revision, "up")


def run(revision: str, direction: str) -> None:
    """Run a revision's ``up`` or ``down`` script; ``revision`` is the path of its ``.py`` file.

    The transaction may be that of a user's own Alembic: its search_path is as before afterwards.
    """
    with _safe_path():
        _run_script(_script(revision, direction))


def run_beside(revision: str) -> None:
    """Run a script of ``create index concurrently``, one by one: writes go on meanwhile.

    Each waits for the transactions that are older than it is. After a failure it goes on where it
    ended. Where there are no jobs, and as printed SQL, the script runs in the transaction.
    """
    script = _script(revision, "up")
    if context.is_offline_mode() or not _do("any_job").scalar():
        with _safe_path():
            _run_script(script.replace(" concurrently ", " "))
        return
    *indexes, version = commands(script)
    owner = _do("current_role").scalar()
    before = {name: _do("session_setting", name=name).scalar() for name in _CHANGED}
    with op.get_context().autocommit_block():
        # The role of the transaction has ended with it.
        _do("migrate_beside", role=owner)
        try:
            _build(indexes)
        finally:
            _do("migrate_inside", **before)
    op.execute(_plain(version))


def _run_script(script: str) -> None:
    """As it is where it is printed; else command by command, for asyncpg takes one at a time."""
    for command in [script] if context.is_offline_mode() else commands(script):
        op.execute(_plain(command))


@contextmanager
def _safe_path() -> Iterator[None]:
    if context.is_offline_mode():
        op.execute(f"set local search_path = {SAFE_PATH}")
        yield
        op.execute("reset search_path")
        return
    before = _do("search_path").scalar()
    _do("set_search_path", search_path=SAFE_PATH)
    yield
    _do("set_search_path", search_path=before)


def _build(indexes: list[str]) -> None:
    named = {index.split(" concurrently ")[1].split()[0]: index for index in indexes}
    unfinished = _do("unfinished_indexes", schema=_schema(), names=list(named))
    for name in unfinished.scalars().all():
        op.execute(_plain(f"drop index concurrently {name}"))
    for name, index in named.items():
        if _do("index_exists", schema=_schema(), name=name).first() is None:
            op.execute(_plain(index))


def _do(statement: str, **values: object) -> CursorResult[Any]:
    return op.get_bind().execute(text(load(_schema())[statement].named), values)


def _schema() -> str:
    schema: str = context.config.attributes.get("schema", "pgqueue")
    return schema


def _script(revision: str, direction: str) -> str:
    return qualify(Path(revision).with_suffix(f".{direction}.sql").read_text("utf-8"), _schema())


def _plain(sql: str) -> Any:
    # No bind parameters in there: a colon is a colon.
    return text(sql.replace(":", "\\:"))
