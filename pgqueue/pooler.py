"""Is there a connection pooler, such as PgBouncer, between us and PostgreSQL?

A server tells a new connection the number of its process, for cancel requests. Poolers cannot pass
it on, as their connections change servers, and tell a number of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg
import psycopg
from psycopg.sql import Literal

from pgqueue.sql import Statement, load


def inlined(statement: Statement, values: Mapping[str, object]) -> str:
    """The statement with its values as literals, for the simple query protocol.

    That is one message, so it needs no prepared statement and its time is the server's alone.
    """
    text = statement.numbered
    for number, name in reversed(list(enumerate(statement.parameters, 1))):
        text = text.replace(f"${number}", Literal(values[name]).as_string().strip())
    return text


async def is_pooled_async(connection: asyncpg.Connection[Any]) -> bool:
    """Ask on a new asyncpg connection; leaves nothing behind in the session."""
    text = inlined(load()["same_backend"], {"pid": connection.get_server_pid()})
    return bool(await connection.execute(text) != "SELECT 1")


def is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """The same on a psycopg connection in autocommit mode."""
    text = inlined(load()["same_backend"], {"pid": connection.info.backend_pid})
    return connection.execute(text.encode()).rowcount != 1
