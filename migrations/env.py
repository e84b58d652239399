"""Runs the migrations: on a given connection, or on PGQUEUE_DSN, or as SQL text."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from alembic import context
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from pgqueue.connect import libpq_dsn, without_passwords
from pgqueue.errors import PgQueueError
from pgqueue.liveness import shut
from pgqueue.revisions import create_schema

SCHEMA = context.config.attributes.get("schema", "pgqueue")
# How long to wait for another migration, in seconds.
WAIT = context.config.attributes.get("wait", 30.0)
# Any constant will do, as long as every migrator takes the same one.
LOCK = 0x7067_7175_6575_65
PAUSE = 0.2
# Whoever waits for a lock stops everybody behind it: give up soon, and let the caller try again. Sooner than
# deadlock_timeout (1 s): else a query that holds one table and waits for another would be the one to fail.
LOCK_TIMEOUT = "set local lock_timeout = '500ms'"
# Settings of the role must not end a migration that takes long.
NO_TIMEOUTS = "set local statement_timeout = 0", "set local idle_in_transaction_session_timeout = 0"
# Whoever may create functions or operators in public must not get them called.
SEARCH_PATH = "set local search_path = pg_catalog, pg_temp"
# What is made belongs to the owner of the schema, whichever of its members migrates.
BECOME_OWNER = """
    select set_config('role', pg_get_userbyid(nspowner), true) from pg_namespace
     where nspname = :schema and pg_has_role(nspowner, 'member') and nspowner <> current_user::regrole
"""
# A pooler that has no second connection to the server lets the second transaction wait.
SECOND_CONNECTION_WITHIN = 5.0
ONE_SERVER_CONNECTION = (
    "a migration needs two connections to the server at once, and the second did not answer within"
    f" {SECOND_CONNECTION_WITHIN:g} s: if there is a pooler between, raise its pool size to 2, or migrate past it"
)


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
        context.execute(create_schema(SCHEMA))
        context.run_migrations()


def run_online(connection: Connection) -> None:
    """Each revision in a transaction of its own; one lock around all, in another session."""
    event.listen(connection, "begin", _begun)
    try:
        with connection.engine.connect() as alone:
            _take_turn(alone)
            with _answering_soon(connection):
                connection.exec_driver_sql("select 1")
                connection.rollback()
            _run_each(connection)
    finally:
        event.remove(connection, "begin", _begun)


def _take_turn(alone: Connection) -> None:
    """Hold the lock of migrations until ``alone`` is closed.

    It is tried again and again, in a new transaction each time. One that waited inside the server would hold a
    snapshot, and an index that the other migration builds concurrently would wait for that.
    """
    deadline = time.monotonic() + WAIT
    while True:
        for setting in NO_TIMEOUTS:
            alone.exec_driver_sql(setting)
        if alone.scalar(text(f"select pg_catalog.pg_try_advisory_xact_lock({LOCK})")):
            return
        alone.rollback()
        if time.monotonic() >= deadline:
            raise PgQueueError(
                f"another migration of this database is under way, and was after {WAIT:g} s:"
                " wait for it, or try again with a longer --wait"
            )
        time.sleep(PAUSE)


@contextmanager
def _answering_soon(connection: Connection) -> Iterator[None]:
    driver: Any = connection.connection.driver_connection
    given_up = threading.Event()

    def give_up() -> None:
        given_up.set()
        shut(driver.pgconn.socket)

    timer = threading.Timer(SECOND_CONNECTION_WITHIN, give_up)
    timer.start()
    try:
        yield
    except OperationalError:
        if given_up.is_set():
            raise PgQueueError(ONE_SERVER_CONNECTION) from None
        raise
    finally:
        timer.cancel()


def _run_each(connection: Connection) -> None:
    with connection.begin():
        connection.exec_driver_sql(create_schema(SCHEMA))
    context.configure(
        connection=connection, version_table_schema=SCHEMA, transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()


def _begun(connection: Connection) -> None:
    driver = connection.connection.driver_connection
    if driver is not None and not driver.autocommit:
        for setting in (LOCK_TIMEOUT, *NO_TIMEOUTS, SEARCH_PATH):
            connection.exec_driver_sql(setting)
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
            return psycopg.connect(libpq_dsn(dsn), client_encoding="UTF8")

    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)
    with engine.connect() as opened:
        run_online(opened)
