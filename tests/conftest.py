"""One server for the session, one migrated template database, one clone of it per test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import App, schema
from pgqueue.connect import libpq_dsn
from pgqueue.embedded import embedded_postgres

FAST = {"fsync": "off", "max_connections": "200", "shared_buffers": "256MB"}


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The DSN of a server where databases may be made."""
    given = os.environ.pop("PGQUEUE_DSN", None)
    if given:
        yield libpq_dsn(given)
    else:
        with embedded_postgres(settings=FAST) as dsn:
            yield dsn


def _execute(server: str, sql: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.encode())


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[str]:
    """The name of a migrated database; its trigger refuses any other move between statuses."""
    name = f"pgqueue_template_{uuid4().hex[:8]}"
    _execute(server, f"create database {name}")
    dsn = make_conninfo(server, dbname=name)
    schema.upgrade(dsn)
    _execute(dsn, transition_guard())
    yield name
    _execute(server, f"drop database {name} with (force)")


def transition_guard() -> str:
    """SQL of the trigger that holds jobs to the transition table."""
    from pgqueue.job import TRANSITIONS

    pairs = ", ".join(
        f"('{old.value}', '{new.value}')" for old, moves in TRANSITIONS.items() for new in moves
    )
    return f"""
        create function public.pgqueue_check_transition() returns trigger language plpgsql as $$
        begin
            if old.status <> new.status and (old.status, new.status) not in ({pairs}) then
                raise exception 'job % may not go from % to %', old.id, old.status, new.status;
            end if;
            return new;
        end $$;
        create trigger transition before update on pgqueue.jobs
            for each row execute function public.pgqueue_check_transition();
    """


@pytest.fixture
def empty_dsn(server: str) -> Iterator[str]:
    """A new database without the schema."""
    name = f"pgqueue_empty_{uuid4().hex[:8]}"
    _execute(server, f"create database {name}")
    yield make_conninfo(server, dbname=name)
    _execute(server, f"drop database {name} with (force)")


@pytest.fixture
def dsn(server: str, template: str) -> Iterator[str]:
    """A new migrated database."""
    name = f"pgqueue_test_{uuid4().hex[:8]}"
    _execute(server, f"create database {name} template {template}")
    yield make_conninfo(server, dbname=name)
    _execute(server, f"drop database {name} with (force)")


@pytest.fixture
async def app(dsn: str) -> AsyncIterator[App]:
    """An app without tasks on the test's database."""
    app = App(dsn)
    yield app
    await app.aclose()


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection]:
    """An autocommit connection to look and interfere with."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def other(dsn: str) -> Iterator[psycopg.Connection]:
    """Another session, in a transaction."""
    with psycopg.connect(dsn) as connection:
        yield connection
