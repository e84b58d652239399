"""Every connection an application may enqueue on, behind one small face."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import asyncpg
import django
import django.conf
import psycopg
from django.db import connections as django_connections
from django.db import transaction as django_transaction
from django.db.backends.postgresql.base import DatabaseWrapper
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgqueue import Task
from pgqueue.connect import asyncpg_uri

Enqueue = Callable[[Any], Any]


class Rollback(Exception):
    """Raised inside a transaction to roll it back."""


def url(dsn: str, driver: str) -> str:
    p = conninfo_to_dict(dsn)
    secret = f":{p['password']}" if p.get("password") else ""
    return f"postgresql+{driver}://{p['user']}{secret}@{p['host']}:{p['port']}/{p['dbname']}"


def psycopg_sync(dsn: str, task: Task[[int], None], plan: list[tuple[str, int]]) -> None:
    with psycopg.connect(dsn, row_factory=dict_row) as conn:
        before = (conn.autocommit, conn.row_factory, conn.isolation_level)
        for action, number in plan:
            with _swallow(), conn.transaction():
                if action == "savepoint":
                    with _swallow(), conn.transaction():
                        task.on(conn).enqueue(number)
                        raise Rollback
                else:
                    task.on(conn).enqueue(number)
                _maybe(action)
        assert (conn.autocommit, conn.row_factory, conn.isolation_level) == before
        row = conn.execute("select 1 as one").fetchone()
        assert row == {"one": 1}


def psycopg_cursor(dsn: str, task: Task[[int], None], plan: list[tuple[str, int]]) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for action, number in plan:
            with _swallow(), conn.transaction(), conn.cursor() as cursor:
                if action == "savepoint":
                    with _swallow(), conn.transaction():
                        task.on(cursor).enqueue(number)
                        raise Rollback
                else:
                    task.on(cursor).enqueue(number)
                _maybe(action)
        assert conn.autocommit


def psycopg_async(dsn: str, task: Task[[int], None], plan: list[tuple[str, int]]) -> None:
    async def main() -> None:
        conn: Any
        async with await psycopg.AsyncConnection.connect(dsn, row_factory=dict_row) as conn:  # type: ignore[arg-type]
            for action, number in plan:
                with _swallow():
                    async with conn.transaction():
                        if action == "savepoint":
                            with _swallow():
                                async with conn.transaction():
                                    await task.on(conn).aenqueue(number)
                                    raise Rollback
                        else:
                            await task.on(conn).aenqueue(number)
                        _maybe(action)
            assert conn.row_factory is dict_row

    asyncio.run(main())


def asyncpg_connection(dsn: str, task: Task[[int], None], plan: list[tuple[str, int]]) -> None:
    async def main() -> None:
        conn = await asyncpg.connect(asyncpg_uri(dsn))
        # A codec of the user's own, which would encode our JSON twice if it met it.
        await conn.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=lambda v: f'"{v}"', decoder=lambda v: ("own", v)
        )
        try:
            await _asyncpg_plan(conn, task, plan)
            assert await conn.fetchval("select '1'::jsonb") == ("own", "1")
        finally:
            await conn.close()

    asyncio.run(main())


def asyncpg_pool(dsn: str, task: Task[[int], None], plan: list[tuple[str, int]]) -> None:
    async def main() -> None:
        pool = asyncpg.create_pool(asyncpg_uri(dsn), min_size=1, max_size=1)
        async with pool, pool.acquire() as conn:
            await _asyncpg_plan(conn, task, plan)

    asyncio.run(main())


async def _asyncpg_plan(conn: Any, task: Task[[int], None], plan: list[tuple[str, int]]) -> None:
    for action, number in plan:
        with _swallow():
            async with conn.transaction():
                if action == "savepoint":
                    with _swallow():
                        async with conn.transaction():
                            await task.on(conn).aenqueue(number)
                            raise Rollback
                else:
                    await task.on(conn).aenqueue(number)
                _maybe(action)


def sqlalchemy_core(dsn: str, task: Task[[int], None], plan: list[tuple[str, int]]) -> None:
    engine = create_engine(url(dsn, "psycopg"), poolclass=NullPool)
    with engine.connect() as conn:
        level = conn.get_isolation_level()
        conn.rollback()
        for action, number in plan:
            with _swallow(), conn.begin():
                if action == "savepoint":
                    with _swallow(), conn.begin_nested():
                        task.on(conn).enqueue(number)
                        raise Rollback
                else:
                    task.on(conn).enqueue(number)
                _maybe(action)
        assert conn.get_isolation_level() == level


def sqlalchemy_orm(dsn: str, task: Task[[int], None], plan: list[tuple[str, int]]) -> None:
    engine = create_engine(url(dsn, "psycopg"), poolclass=NullPool)
    with Session(engine) as session:
        for action, number in plan:
            with _swallow(), session.begin():
                session.execute(text("select 1"))
                if action == "savepoint":
                    with _swallow(), session.begin_nested():
                        task.on(session).enqueue(number)
                        raise Rollback
                else:
                    task.on(session).enqueue(number)
                _maybe(action)


def sqlalchemy_async_core(driver: str) -> Any:
    def run(dsn: str, task: Task[[int], None], plan: list[tuple[str, int]]) -> None:
        async def main() -> None:
            engine = create_async_engine(url(dsn, driver), poolclass=NullPool)
            async with engine.connect() as conn:
                await _sqlalchemy_async_plan(conn, task, plan)
            await engine.dispose()

        asyncio.run(main())

    return run


def sqlalchemy_async_orm(driver: str) -> Any:
    def run(dsn: str, task: Task[[int], None], plan: list[tuple[str, int]]) -> None:
        async def main() -> None:
            engine = create_async_engine(url(dsn, driver), poolclass=NullPool)
            async with AsyncSession(engine) as session:
                await _sqlalchemy_async_plan(session, task, plan)
            await engine.dispose()

        asyncio.run(main())

    return run


async def _sqlalchemy_async_plan(
    conn: Any, task: Task[[int], None], plan: list[tuple[str, int]]
) -> None:
    for action, number in plan:
        with _swallow():
            async with conn.begin():
                if action == "savepoint":
                    with _swallow():
                        async with conn.begin_nested():
                            await task.on(conn).aenqueue(number)
                            raise Rollback
                else:
                    await task.on(conn).aenqueue(number)
                _maybe(action)


@contextmanager
def django_connection_of(dsn: str) -> Iterator[Any]:
    """A connection of Django's, under the alias ``shop``."""
    if not django.conf.settings.configured:
        django.conf.settings.configure(DATABASES={})
        django.setup()
    p = conninfo_to_dict(dsn)
    settings = {
        "ENGINE": "django.db.backends.postgresql", "NAME": p["dbname"], "USER": p.get("user"),
        "HOST": p.get("host"), "PORT": p.get("port"), "PASSWORD": p.get("password", ""),
        "AUTOCOMMIT": True, "ATOMIC_REQUESTS": False, "CONN_MAX_AGE": 0, "OPTIONS": {},
        "TIME_ZONE": None, "CONN_HEALTH_CHECKS": False,
    }  # fmt: skip
    connection = DatabaseWrapper(settings, alias="shop")
    django_connections["shop"] = connection
    try:
        yield connection
    finally:
        connection.close()


def django_connection(dsn: str, task: Task[[int], None], plan: list[tuple[str, int]]) -> None:
    with django_connection_of(dsn) as connection:
        for action, number in plan:
            with _swallow(), django_transaction.atomic(using="shop"):
                if action == "savepoint":
                    with _swallow(), django_transaction.atomic(using="shop"):
                        task.on(connection).enqueue(number)
                        raise Rollback
                else:
                    task.on(connection).enqueue(number)
                _maybe(action)
        assert connection.get_autocommit()


@contextmanager
def _swallow() -> Any:
    with suppress(Rollback):
        yield


def _maybe(action: str) -> None:
    if action == "rollback":
        raise Rollback


ALL: dict[str, Any] = {
    "psycopg": psycopg_sync,
    "psycopg-cursor": psycopg_cursor,
    "psycopg-async": psycopg_async,
    "asyncpg": asyncpg_connection,
    "asyncpg-pool": asyncpg_pool,
    "sqlalchemy-core": sqlalchemy_core,
    "sqlalchemy-orm": sqlalchemy_orm,
    "sqlalchemy-async-core-psycopg": sqlalchemy_async_core("psycopg"),
    "sqlalchemy-async-core-asyncpg": sqlalchemy_async_core("asyncpg"),
    "sqlalchemy-async-orm-psycopg": sqlalchemy_async_orm("psycopg"),
    "sqlalchemy-async-orm-asyncpg": sqlalchemy_async_orm("asyncpg"),
    "django": django_connection,
}
