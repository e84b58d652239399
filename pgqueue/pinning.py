"""Gives a session of pgqueue's own the settings that its statements rely on."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import asyncpg
import psycopg

from pgqueue.pooler import inlined
from pgqueue.sql import Statement, load

MOST_TRIES = 10
# The server's time limit of statements that an application's process sends on a connection of ours.
CLIENT_LIMIT = "300s"


async def pin_async(connection: asyncpg.Connection[Any], statement: str, *, limit: str) -> bool:
    """Settle a session that is ours alone; False, and nothing set, if a pooler shares it.

    Args:
        statement: "pin_session" for a worker, "pin_client" for an application.
        limit: the server's time limit of a statement, such as ``5s``.
    """
    text = _text(statement, limit, connection.get_server_pid())
    for tries in range(MOST_TRIES):
        # Until it is through, a statement_timeout of the role holds, be it 1 ms.
        with suppress(*((asyncpg.QueryCanceledError,) if tries + 1 < MOST_TRIES else ())):
            if await connection.execute(text) != "SELECT 1":
                return False
            await connection.execute(_more().numbered)
            return True
    raise AssertionError("unreachable")


def pin(connection: psycopg.Connection[Any], statement: str, *, limit: str) -> bool:
    """The same on a psycopg connection in autocommit mode."""
    text = _text(statement, limit, connection.info.backend_pid)
    for tries in range(MOST_TRIES):
        canceled = (psycopg.errors.QueryCanceled,) if tries + 1 < MOST_TRIES else ()
        with suppress(*canceled):
            if connection.execute(text.encode()).rowcount != 1:
                return False
            connection.execute(_more().encoded)
            return True
    raise AssertionError("unreachable")


def _text(statement: str, limit: str, pid: int) -> str:
    return inlined(load()[statement], {"limit": limit, "local": False, "pid": pid})


def _more() -> Statement:
    return load()["pin_more"]
