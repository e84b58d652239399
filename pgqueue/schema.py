"""The database's schema: upgrade it, print its SQL, and refuse a version that does not fit."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import psycopg
from psycopg.sql import Identifier

from pgqueue import preflight
from pgqueue.connect import libpq_dsn, without_passwords
from pgqueue.drivers import first_line, sqlstate, sync_driver, translate
from pgqueue.durations import Duration, seconds
from pgqueue.errors import PgQueueError, PrivilegeMissing
from pgqueue.pooler import is_pooled
from pgqueue.sql import DEFAULT_SCHEMA, check_schema, load
from pgqueue.stamp import EXPECTED, Stamp, check, parse

__all__ = [
    "EXPECTED", "Stamp", "check", "downgrade", "include_name", "parse", "remarks", "sql", "stamp", "upgrade", "version",
]  # fmt: skip

log = logging.getLogger("pgqueue.schema")

NOT_ALLOWED = "42501"
# lock_not_available, deadlock_detected
IN_THE_WAY = {"55P03", "40P01"}
# duplicate_table, duplicate_function
EXISTS_ALREADY = {"42P07", "42723"}
PAUSE = 0.5
# Alembic's environment is global to the process.
_ALEMBIC = Lock()


def migrations_path() -> Path:
    """The Alembic environment: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def stamp(connection: psycopg.Connection[Any], *, schema: str = DEFAULT_SCHEMA) -> Stamp | None:
    """The version of the schema and the oldest code it serves; None if there is no schema of pgqueue."""
    statement = load(schema)["schema_version"].encoded
    row = psycopg.RawCursor(connection).execute(statement, [check_schema(schema)]).fetchone()
    return parse(row[0] if row else None)


def version(connection: psycopg.Connection[Any], *, schema: str = DEFAULT_SCHEMA) -> int | None:
    """The version of the schema; None if there is none."""
    found = stamp(connection, schema=schema)
    return None if found is None else found.version


def remarks(connection: psycopg.Connection[Any], *, schema: str = DEFAULT_SCHEMA) -> list[str]:
    """What of the database or the role works, but not as one may expect, in sentences; none as a rule."""
    return preflight.remarks(_look(connection, schema), schema=schema)


def _look(connection: psycopg.Connection[Any], schema: str) -> preflight.Server:
    operation = preflight.look(schema)
    return operation.decode(
        sync_driver(connection).fetch(load(schema)[operation.statement], operation.values)
    )


def upgrade(
    dsn: str, *, schema: str = DEFAULT_SCHEMA, to: str = "head", wait: Duration = 30
) -> None:
    """Bring the schema to a revision; a second migrator waits for the first.

    Args:
        wait: how long to try again when other sessions hold locks on the tables. Each try gives up
            after half a second, so that the jobs queue up behind it no longer than that.

    Raises:
        ConfigError: the DSN or the schema name cannot be used.
        PgQueueError: the server is older than PostgreSQL 14, the revision is unknown, or others
            held their locks all the time; each step is a transaction, and those before it stay.
        PrivilegeMissing: this role is not one that owns the schema.
        DatabaseReadOnly: the server is a standby.
        psycopg.OperationalError: the server cannot be reached.
    """
    _migrate(dsn, "upgrade", schema, to, seconds(wait, name="wait"))


def downgrade(
    dsn: str, *, schema: str = DEFAULT_SCHEMA, to: str = "base", wait: Duration = 30
) -> None:
    """Take the schema back to a revision; ``base`` removes everything, jobs as well."""
    _migrate(dsn, "downgrade", schema, to, seconds(wait, name="wait"))


def sql(*, schema: str = DEFAULT_SCHEMA, to: str = "head") -> str:
    """The whole upgrade as plain SQL, for other migration tools.

    Raises:
        PgQueueError: there is no such version.
    """
    from alembic import command
    from alembic.util.exc import CommandError

    text = io.StringIO()
    config = _config(schema)
    config.output_buffer = text
    try:
        with _ALEMBIC:
            command.upgrade(config, _revision(to), sql=True)
    except CommandError as error:
        raise PgQueueError(f"no SQL to migrate to {to!r}: {error}") from None
    return text.getvalue()


def include_name(name: str | None, type_: str, parent_names: object) -> bool:
    """For ``context.configure(include_name=...)`` of your own Alembic: leave pgqueue's schema alone.

    With ``include_schemas=True``, Alembic's autogenerate would otherwise want to drop its tables, which no
    model of yours describes. The arguments are those that Alembic passes.
    """
    return not (type_ == "schema" and name == DEFAULT_SCHEMA)


def _migrate(dsn: str, verb: str, schema: str, to: str, wait: float) -> None:
    from alembic import command
    from alembic.util.exc import CommandError
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    config = _config(schema)
    url = libpq_dsn(dsn)

    def connect() -> psycopg.Connection[Any]:
        with without_passwords(dsn):
            made = psycopg.connect(url, prepare_threshold=None, client_encoding="UTF8")
        if not is_pooled(made):  # what the role makes read-only is not, for this session
            made.execute(load()["pin_more"].encoded)
        made.commit()
        return made

    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)
    with _ALEMBIC, engine.connect() as connection:
        driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
        server = _look(driver, schema)
        driver.rollback()
        preflight.check_migration(server)
        for remark in preflight.remarks(server, schema=schema):
            log.warning("%s", remark)
        config.attributes["connection"] = connection
        config.attributes["wait"] = wait

        def run() -> None:
            getattr(command, verb)(config, _revision(to))

        try:
            _patiently(
                run,
                wait,
                lambda: _holders(driver, schema),
                lambda error: _not_allowed(error, driver, schema),
            )
        except CommandError as error:
            raise PgQueueError(f"cannot migrate to {to!r}: {error}") from None


def _patiently(
    run: Callable[[], None],
    wait: float,
    holders: Callable[[], str],
    not_allowed: Callable[[Exception], PgQueueError],
) -> None:
    """Try again while others hold locks: a waiting migration would stop everybody behind it."""
    deadline = time.monotonic() + wait
    while True:
        try:
            return run()
        except Exception as error:
            if sqlstate(error) == NOT_ALLOWED:
                raise not_allowed(error) from error
            if sqlstate(error) in EXISTS_ALREADY:
                raise PgQueueError(
                    f"the schema has tables or functions that a migration of it did not make ({first_line(error)}):"
                    " was it made by hand, or by an unreleased version? Move it away, or drop it if it may go"
                ) from error
            if sqlstate(error) not in IN_THE_WAY:
                raise
            if time.monotonic() >= deadline:
                raise PgQueueError(
                    f"gave up after {wait:g} s, this step changed nothing: other sessions hold locks on"
                    f" the tables ({holders()}); end them or try again: pgqueue migrate"
                ) from None
        time.sleep(PAUSE)


def _not_allowed(
    error: Exception, connection: psycopg.Connection[Any], schema: str
) -> PgQueueError:
    """Before the first migration there are no roles yet to be granted one of."""
    if "permission denied for database" in str(error):
        info = connection.info
        return PrivilegeMissing(
            f"{info.user} may not create schema {schema}: as an administrator run: grant create on"
            f" database {_quoted(info.dbname)} to {_quoted(info.user)}"
        )
    return translate(error, "migrate") or PgQueueError(str(error))


def _quoted(name: str) -> str:
    return Identifier(name).as_string(None)


def _holders(connection: psycopg.Connection[Any], schema: str) -> str:
    statement = load(schema)["lock_holders"].encoded
    rows = psycopg.RawCursor(connection).execute(statement, [schema]).fetchall()
    connection.rollback()
    return "; ".join(row[0] for row in rows) or "gone by now"


def _config(schema: str) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    config.attributes["schema"] = check_schema(schema)
    return config


def _revision(to: str) -> str:
    if to == "head":
        return "pgqueue@head"
    return f"pgqueue_{int(to):04d}" if to.isdecimal() else to
