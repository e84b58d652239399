"""The database's schema: upgrade it, print its SQL, and refuse a version that does not fit."""

from __future__ import annotations

import io
import re
from pathlib import Path
from threading import Lock
from typing import Any

import psycopg

from pgqueue.connect import libpq_dsn
from pgqueue.errors import PgQueueError, SchemaError
from pgqueue.sql import DEFAULT_SCHEMA, check_schema, load

EXPECTED = 1
OLDEST_SERVER = 140_000
# Alembic's environment is global to the process.
_ALEMBIC = Lock()


def migrations_path() -> Path:
    """The Alembic environment: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def check(found: int | None) -> None:
    """Raise SchemaError, in one line that says what to do, unless ``found`` is what this code needs."""
    if found is None:
        raise SchemaError("the database has no pgqueue schema; run: pgqueue migrate")
    if found < EXPECTED:
        raise SchemaError(
            f"the database has pgqueue schema {found}, this version needs {EXPECTED};"
            " run: pgqueue migrate"
        )
    if found > EXPECTED:
        raise SchemaError(
            f"the database has pgqueue schema {found}, this version knows only {EXPECTED};"
            " install a newer pgqueue-postgres"
        )


def version(connection: psycopg.Connection[Any], *, schema: str = DEFAULT_SCHEMA) -> int | None:
    """The version stamped on the schema; None if there is none."""
    statement = load(schema)["schema_comment"].numbered.encode()
    row = psycopg.RawCursor(connection).execute(statement, [check_schema(schema)]).fetchone()
    match = re.search(r"schema (\d+)$", (row[0] if row else None) or "")
    return int(match[1]) if match else None


def upgrade(dsn: str, *, schema: str = DEFAULT_SCHEMA, to: str = "head") -> None:
    """Bring the schema to a revision; a second migrator waits for the first.

    Raises:
        ConfigError: the DSN or the schema name cannot be used.
        PgQueueError: the server is older than PostgreSQL 14, or the revision is unknown.
        psycopg.OperationalError: the server cannot be reached.
    """
    _migrate(dsn, "upgrade", schema, to)


def downgrade(dsn: str, *, schema: str = DEFAULT_SCHEMA, to: str = "base") -> None:
    """Take the schema back to a revision; ``base`` removes everything, jobs as well."""
    _migrate(dsn, "downgrade", schema, to)


def sql(*, schema: str = DEFAULT_SCHEMA, to: str = "head") -> str:
    """The whole upgrade as plain SQL, for other migration tools."""
    from alembic import command

    text = io.StringIO()
    config = _config(schema)
    config.output_buffer = text
    with _ALEMBIC:
        command.upgrade(config, _revision(to), sql=True)
    return text.getvalue()


def _migrate(dsn: str, verb: str, schema: str, to: str) -> None:
    from alembic import command
    from alembic.util.exc import CommandError
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    config = _config(schema)
    url = libpq_dsn(dsn)
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(url, prepare_threshold=None),
        poolclass=NullPool,
    )
    with _ALEMBIC, engine.connect() as connection:
        server = connection.connection.driver_connection.info.server_version  # type: ignore[union-attr]
        if server < OLDEST_SERVER:
            raise PgQueueError(f"pgqueue needs PostgreSQL 14 or newer, this is {server // 10000}")
        config.attributes["connection"] = connection
        try:
            getattr(command, verb)(config, _revision(to))
        except CommandError as error:
            raise PgQueueError(f"cannot migrate to {to!r}: {error}") from None


def _config(schema: str) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    config.attributes["schema"] = check_schema(schema)
    return config


def _revision(to: str) -> str:
    if to == "head":
        return "pgqueue@head"
    return f"pgqueue_{int(to):04d}" if to.isdigit() else to
