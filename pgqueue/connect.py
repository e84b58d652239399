"""pgqueue's own connections: from any libpq DSN, to psycopg and asyncpg."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from threading import Lock
from typing import Any
from urllib.parse import quote, urlencode
from weakref import WeakKeyDictionary

import asyncpg
import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

from pgqueue.errors import ConfigError

# libpq parameters that asyncpg would pass on to the server, which refuses them.
_NOT_FOR_ASYNCPG = {
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
    "tcp_user_timeout", "client_encoding", "gssencmode", "sslcompression", "sslsni",
    "channel_binding", "hostaddr", "fallback_application_name", "load_balance_hosts",
    "require_auth", "requirepeer",
}  # fmt: skip
CHECK_AFTER = 5.0


def parse(dsn: str) -> dict[str, Any]:
    """The parameters of a DSN, as URI or ``key=value`` text.

    Raises:
        ConfigError: it is neither; the message does not repeat it, for it may hold a password.
    """
    if "://" in dsn:
        scheme, _, rest = dsn.partition("://")
        dsn = f"{scheme.partition('+')[0]}://{rest}"  # SQLAlchemy's postgresql+psycopg://
    try:
        return dict(conninfo_to_dict(dsn))
    except psycopg.ProgrammingError:
        raise ConfigError(
            "the DSN is not one PostgreSQL reads: use postgresql://user@host:5432/database or"
            " host=... dbname=..."
        ) from None


def asyncpg_uri(dsn: str) -> str:
    """The same DSN as a URI that asyncpg reads."""
    parameters = {k: v for k, v in parse(dsn).items() if k not in _NOT_FOR_ASYNCPG}
    return "postgresql://?" + urlencode(parameters, quote_via=quote) if parameters else ""


def libpq_dsn(dsn: str) -> str:
    """The same DSN as libpq reads it."""
    return psycopg.conninfo.make_conninfo(**parse(dsn))


def describe(dsn: str) -> str:
    """Where a DSN leads, without its password."""
    p = parse(dsn)
    host = p.get("host") or "the default host"
    port = f":{p['port']}" if p.get("port") else ""
    return f"{p.get('dbname') or 'the default database'} at {host}{port}"


async def connect_async(dsn: str, *, timeout: float = 10.0) -> asyncpg.Connection[Any]:
    """An asyncpg connection; ``timeout`` in seconds."""
    uri = asyncpg_uri(dsn)
    return await asyncpg.connect(
        uri or None, timeout=timeout, server_settings={"application_name": "pgqueue"}
    )


def connect_sync(dsn: str, *, timeout: float = 10.0) -> psycopg.Connection[Any]:
    """A psycopg connection in autocommit mode."""
    return psycopg.connect(
        libpq_dsn(dsn),
        autocommit=True,
        connect_timeout=max(2, int(timeout)),
        application_name="pgqueue",
    )


class Connections:
    """Lazily opened pools of an application's process: psycopg for sync, asyncpg for each loop."""

    def __init__(self, dsn: str, *, size: int = 10) -> None:
        self._dsn, self._size = dsn, size
        self._lock = Lock()
        self._pool: ConnectionPool[Any] | None = None
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncpg.Pool[Any]]
        self._loops = WeakKeyDictionary()

    @contextmanager
    def sync(self) -> Iterator[psycopg.Connection[Any]]:
        """A psycopg connection in autocommit mode, for the length of the block."""
        with self._sync_pool().connection() as connection:
            yield connection
            connection._pgqueue_used = time.monotonic()

    def _sync_pool(self) -> ConnectionPool[Any]:
        with self._lock:
            if self._pool is None:
                # Fail at once and in the server's words; the pool would only time out.
                connect_sync(self._dsn).close()
                self._pool = ConnectionPool(
                    libpq_dsn(self._dsn),
                    kwargs={"autocommit": True, "application_name": "pgqueue"},
                    min_size=1,
                    max_size=self._size,
                    check=_check,
                    open=True,
                    timeout=10.0,
                    name="pgqueue",
                )
            return self._pool

    @asynccontextmanager
    async def aio(self) -> AsyncIterator[Any]:
        """An asyncpg connection, for the length of the block."""
        loop = asyncio.get_running_loop()
        pool = self._loops.get(loop)
        if pool is None:
            pool = asyncpg.create_pool(
                asyncpg_uri(self._dsn) or None,
                min_size=0,
                max_size=self._size,
                timeout=10.0,
                server_settings={"application_name": "pgqueue"},
            )
            self._loops[loop] = pool
        if not pool._initialized:
            await pool
        async with pool.acquire() as connection:
            yield connection

    def close(self) -> None:
        """Close the sync pool."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    async def aclose(self) -> None:
        """Close both the sync pool and this loop's async pool."""
        pool = self._loops.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close()
        self.close()


def _check(connection: psycopg.Connection[Any]) -> None:
    used = getattr(connection, "_pgqueue_used", 0.0)
    if time.monotonic() - used > CHECK_AFTER:
        ConnectionPool.check_connection(connection)
