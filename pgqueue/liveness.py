"""Does a connection that lay idle still reach a server? Its other end may be gone without a word."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Mapping
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
    "keepalives_idle": "TCP_KEEPIDLE", "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT", "tcp_user_timeout": "TCP_USER_TIMEOUT",
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


def keep_alive(connection: asyncpg.Connection[Any], given: Mapping[str, str]) -> None:
    """Have the kernel notice when the other end of a connection's socket is gone.

    Args:
        given: parameters of libpq, which win over ours.
    """
    own = connection._transport.get_extra_info("socket")
    if own is None or own.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if given.get("keepalives") == "0":
        return
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, option in _OPTIONS.items():
        if hasattr(socket, option):  # not on every system
            value = int(given.get(name, KEEPALIVES[name]))
            own.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def descriptor(connection: Any) -> int | None:
    """The number of the socket of a psycopg or asyncpg connection; None once it is closed."""
    if isinstance(connection, asyncpg.Connection):
        if connection.is_closed() or connection._transport is None:
            return None
        own = connection._transport.get_extra_info("socket")
        number = -1 if own is None else own.fileno()
    else:
        number = -1 if connection.closed else connection.pgconn.socket
    return number if number >= 0 else None


def has_word(connection: Any) -> bool:
    """Has something come on an idle connection that nobody asked for? Mostly that is its end.

    One system call: a server that ends a session says so, or closes the socket.
    """
    number = descriptor(connection)
    if number is None:
        return True
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


def abandon(connection: Any) -> None:
    """Take the socket from under a connection that a forked child shares with its parent.

    Whatever the child does to the connection, such as to close it, then never reaches the server.
    """
    with suppress(OSError, psycopg.Error):
        number = descriptor(connection)
        if number is not None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number, inheritable=False)
            os.close(null)


def let_go(connection: asyncpg.Connection[Any]) -> None:
    """End a connection whose event loop is closed, and can do no more for it."""
    if (number := descriptor(connection)) is not None:
        shut(number)
    transport = connection._transport
    connection._aborted = True
    own = getattr(transport, "_sock", None)
    if own is not None:  # asyncio's, which would warn that nobody closed it
        transport._sock = None
        own.close()


def shut(descriptor: int) -> None:
    """Break a connection under its library, which then sees that it is lost and ends its wait."""
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
