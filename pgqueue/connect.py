"""pgqueue's own connections: from any libpq DSN, to psycopg and asyncpg."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode

import asyncpg
import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgqueue.errors import ConfigError

# libpq parameters that asyncpg would pass on to the server, which refuses them.
_NOT_FOR_ASYNCPG = {
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
    "tcp_user_timeout", "client_encoding", "gssencmode", "sslcompression", "sslsni",
    "channel_binding", "hostaddr", "fallback_application_name", "load_balance_hosts",
    "require_auth", "requirepeer",
}  # fmt: skip

# Why a host will not do: silent, refusing, starting up or shutting down, not taking writes.
CONNECT_ERRORS = (
    OSError, TimeoutError,
    asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError,
)  # fmt: skip


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
    return _uri(parse(dsn))


def _uri(parameters: dict[str, Any]) -> str:
    parameters = {k: v for k, v in parameters.items() if k not in _NOT_FOR_ASYNCPG}
    return "postgresql://?" + urlencode(parameters, quote_via=quote) if parameters else ""


def each_host(dsn: str) -> list[str]:
    """A URI for asyncpg per host of the DSN."""
    parameters = parse(dsn)
    hosts = parameters.get("host", "").split(",")
    if len(hosts) == 1:
        return [_uri(parameters)]
    ports = str(parameters.get("port", "")).split(",")
    ports = ports if len(ports) == len(hosts) else ports * len(hosts)
    pairs = zip(hosts, ports, strict=True)
    return [
        _uri(parameters | {"host": host} | ({"port": port} if port else {})) for host, port in pairs
    ]


def libpq_dsn(dsn: str) -> str:
    """The same DSN as libpq reads it."""
    return psycopg.conninfo.make_conninfo(**parse(dsn))


def describe(dsn: str) -> str:
    """Where a DSN leads, without its password."""
    p = parse(dsn)
    host = p.get("host") or "the default host"
    port = f":{p['port']}" if p.get("port") else ""
    return f"{p.get('dbname') or 'the default database'} at {host}{port}"


async def connect_async(
    dsn: str, *, timeout: float = 10.0, **options: Any
) -> asyncpg.Connection[Any]:
    """An asyncpg connection to the first host that will do; ``timeout`` in seconds for each.

    asyncpg itself goes on to the next host only if a connection is refused: not when a host is
    silent, starting up or shutting down.
    """
    *others, last = each_host(dsn)
    options["server_settings"] = {"application_name": "pgqueue"}
    for uri in others:
        with suppress(*CONNECT_ERRORS):
            return await asyncpg.connect(uri, timeout=timeout, **options)
    return await asyncpg.connect(last or None, timeout=timeout, **options)


async def connect_pipelined(dsn: str, *, timeout: float = 10.0) -> psycopg.AsyncConnection[Any]:
    """An async psycopg connection in autocommit mode that prepares nothing."""
    return await psycopg.AsyncConnection.connect(
        libpq_dsn(dsn),
        autocommit=True,
        prepare_threshold=None,
        connect_timeout=max(2, int(timeout)),
        application_name="pgqueue",
    )


def connect_sync(dsn: str, *, timeout: float = 10.0) -> psycopg.Connection[Any]:
    """A psycopg connection in autocommit mode that prepares nothing."""
    return psycopg.connect(
        libpq_dsn(dsn),
        autocommit=True,
        prepare_threshold=None,
        connect_timeout=max(2, int(timeout)),
        application_name="pgqueue",
    )
