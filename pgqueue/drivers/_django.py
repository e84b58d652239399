"""Django's connections, known by their module: Django is no dependency of pgqueue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from pgqueue.drivers._psycopg import BINARY
from pgqueue.errors import ConnectionUnusable
from pgqueue.sql import Statement


class DjangoDriver:
    """Runs through a cursor of the connection, inside whatever ``atomic()`` is open."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def fetch(self, statement: Statement, values: Mapping[str, object]) -> list[Any]:
        with self._connection.cursor() as cursor:
            if isinstance(own := getattr(cursor, "cursor", None), psycopg.Cursor):
                cursor.cursor = _in_binary(own)
            cursor.execute(statement.pyformat, dict(values))
            rows: list[Any] = cursor.fetchall()
            return rows

    @contextmanager
    def transaction(self) -> Iterator[None]:
        from importlib import import_module

        transaction: Any = import_module("django.db.transaction")
        # Durable: inside another atomic() it would be a savepoint, and Django says so.
        with transaction.atomic(using=self._connection.alias, durable=True):
            yield


def _in_binary(cursor: psycopg.Cursor[Any]) -> psycopg.Cursor[Any]:
    """A cursor whose results come in binary; Django's takes them as text only, written by DateStyle and other settings.

    psycopg2 needs none: it sets a DateStyle of its own.
    """
    cursor.close()
    binary = psycopg.Cursor(cursor.connection, row_factory=tuple_row)
    binary.format = BINARY
    return binary


def sync_driver(connection: object) -> DjangoDriver | None:
    if not type(connection).__module__.startswith("django."):
        return None
    vendor = getattr(connection, "vendor", None)
    if vendor is None:
        return None
    if vendor != "postgresql":
        raise ConnectionUnusable(f"on() needs Django on PostgreSQL, this connection is {vendor}")
    return DjangoDriver(connection)
