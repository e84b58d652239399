"""Runs the migrations: on a given connection, or on PGQUEUE_DSN, or as SQL text."""

from __future__ import annotations

import os
from typing import Any

import psycopg
from alembic import context
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.pool import NullPool

from pgqueue.connect import libpq_dsn, without_passwords

SCHEMA = context.config.attributes.get("schema", "pgqueue")
# Any constant will do, as long as every migrator takes the same one.
LOCK = 0x7067_7175_6575_65
# Whoever waits for a lock stops everybody behind it: give up soon, and let the caller try again. Sooner than
# deadlock_timeout (1 s): else a query that holds one table and waits for another would be the one to fail.
LOCK_TIMEOUT = "set local lock_timeout = '500ms'"
# Whoever may create functions or operators in public must not get them called.
SEARCH_PATH = "set local search_path = pg_catalog, pg_temp"
# What is made belongs to the owner of the schema, whichever of its members migrates.
BECOME_OWNER = """
    select set_config('role', pg_get_userbyid(nspowner), true) from pg_namespace
     where nspname = :schema and pg_has_role(nspowner, 'member') and nspowner <> current_user::regrole
"""


def run_offline() -> None:
    context.configure(
        dialect_name="postgresql",
        # Else every % of the SQL text is printed twice.
        dialect_opts={"paramstyle": "named"},
        version_table_schema=SCHEMA,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.execute(LOCK_TIMEOUT)
        context.execute(f"create schema if not exists {SCHEMA}")
        context.run_migrations()


def run_online(connection: Connection) -> None:
    """Each revision in a transaction of its own; one lock around all, in another session."""
    event.listen(connection, "begin", _begun)
    try:
        with connection.engine.connect() as alone:
            alone.execute(text(f"select pg_advisory_xact_lock({LOCK})"))
            _run_each(connection)
    finally:
        event.remove(connection, "begin", _begun)


def _run_each(connection: Connection) -> None:
    with connection.begin():
        found = text("select to_regnamespace(:schema)::text")
        if connection.scalar(found, {"schema": SCHEMA}) is None:
            connection.execute(text(f"create schema {SCHEMA}"))
    context.configure(
        connection=connection, version_table_schema=SCHEMA, transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()


def _begun(connection: Connection) -> None:
    driver = connection.connection.driver_connection
    if driver is not None and not driver.autocommit:
        connection.exec_driver_sql(LOCK_TIMEOUT)
        connection.exec_driver_sql(SEARCH_PATH)
        connection.execute(text(BECOME_OWNER), {"schema": SCHEMA})


given = context.config.attributes.get("connection")
if context.is_offline_mode():
    run_offline()
elif given is not None:
    run_online(given)
else:
    dsn = os.environ.get("PGQUEUE_DSN", "")

    def connect() -> psycopg.Connection[Any]:
        with without_passwords(dsn):
            return psycopg.connect(libpq_dsn(dsn))

    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)
    with engine.connect() as opened:
        run_online(opened)
