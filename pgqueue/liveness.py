"""Does a connection that lay idle still reach a server? Its other end may be gone without a word."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import Any

import asyncpg
import psycopg

PATIENCE = 5.0  # seconds
CHECK_AFTER = 5.0
CONNECT_TIMEOUT = 5  # seconds, for each host
# A standby, or a primary that was demoted: other connections may still lead there, and answer.
READ_ONLY = "25006"
# What the kernel does about a silent end while a statement waits for its answer, in libpq's words.
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-KEEPALIVES
KEEPALIVES = {
    "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}  # fmt: skip
_OPTIONS = {
    "TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000,
}  # fmt: skip


def answers(connection: psycopg.Connection[Any]) -> None:
    """Ask a connection in autocommit mode for a sign of life.

    Raises:
        psycopg.OperationalError: it gave none within ``PATIENCE``, and is closed.
    """
    # libpq has no time limit for an answer; broken under it, the connection ends its wait.
    limit = threading.Timer(PATIENCE, shut, [connection.pgconn.socket])
    limit.daemon = True
    limit.start()
    try:
        connection.execute("")
    finally:
        limit.cancel()


async def answers_async(connection: asyncpg.Connection[Any]) -> bool:
    """The same for asyncpg; False, and the connection closed, when it gave no sign of life."""
    try:
        await connection.execute("select", timeout=PATIENCE)  # asyncpg fails on an empty one
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        connection.terminate()
        return False
    return True


def keep_alive(connection: asyncpg.Connection[Any]) -> None:
    """Have the kernel notice when the other end of a connection's socket is gone."""
    own = connection._transport.get_extra_info("socket")
    if own is None or own.family not in (socket.AF_INET, socket.AF_INET6):
        return
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if hasattr(socket, name):  # not on every system
            own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def shut(descriptor: int) -> None:
    """Break a connection under its library, which then sees that it is lost and ends its wait."""
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
