"""Runs the migrations: on a given connection, or on PGQUEUE_DSN, or as SQL text."""

from __future__ import annotations

import os
from typing import Any

import psycopg
from alembic import context
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from pgqueue.connect import libpq_dsn, without_passwords

SCHEMA = context.config.attributes.get("schema", "pgqueue")
# Any constant will do, as long as every migrator takes the same one.
LOCK = 0x7067_7175_6575_65
# Whoever waits for a lock stops everybody behind it: give up soon, and let the caller try again. Sooner than
# deadlock_timeout (1 s): else a query that holds one table and waits for another would be the one to fail.
LOCK_TIMEOUT = "set local lock_timeout = '500ms'"
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
    context.configure(connection=connection, version_table_schema=SCHEMA)
    with context.begin_transaction():
        connection.execute(text(f"select pg_advisory_xact_lock({LOCK})"))
        connection.execute(text(LOCK_TIMEOUT))
        connection.execute(text(BECOME_OWNER), {"schema": SCHEMA})
        if connection.scalar(text("select to_regnamespace(:schema)"), {"schema": SCHEMA}) is None:
            connection.execute(text(f"create schema {SCHEMA}"))
        context.run_migrations()


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
