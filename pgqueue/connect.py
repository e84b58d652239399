"""pgqueue's own connections: from any libpq DSN, to psycopg and asyncpg."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, unquote, urlencode

import asyncpg
import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgqueue.errors import ConfigError
from pgqueue.redact import concealer

# libpq parameters that asyncpg would pass on to the server, which refuses them.
_NOT_FOR_ASYNCPG = {
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
    "tcp_user_timeout", "client_encoding", "gssencmode", "sslcompression", "sslsni",
    "channel_binding", "hostaddr", "fallback_application_name", "load_balance_hosts",
    "require_auth", "requirepeer",
}  # fmt: skip

NONE_GIVEN = "no database given: set PGQUEUE_DSN or --dsn"
_LIBPQ_SAYS_WHERE = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGSERVICE")

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
    scheme, is_uri, rest = dsn.partition("://")
    if is_uri:
        dsn = f"{scheme.partition('+')[0]}://{rest}"  # SQLAlchemy's postgresql+psycopg://
    parameters: dict[str, Any] | None = None
    with suppress(psycopg.ProgrammingError, UnicodeError):
        parameters = dict(conninfo_to_dict(dsn))
    if parameters is None:  # raised out here, so that the driver's error is not even its context
        raise ConfigError(
            "the DSN is not one PostgreSQL reads: use postgresql://user@host:5432/database or"
            " host=... dbname=..."
        )
    if is_uri:
        _check_encoding(rest, parameters.get("password"))
    if any("\0" in str(value) for value in parameters.values()):
        raise ConfigError("the DSN holds a NUL character")
    return parameters


def _check_encoding(rest: str, password: object) -> None:
    """Else a piece of the password is taken for a host or port, and errors would name it."""
    before_at, at, _ = rest.partition("?")[0].rpartition("@")
    _, colon, written = before_at.partition(":")
    if at and colon and unquote(written) != (password or ""):
        raise ConfigError(
            "the user or password in the DSN holds a character that must be percent-encoded:"
            " @ as %40, / as %2F, : as %3A, % as %25"
        )


def is_given(dsn: str) -> bool:
    """Does a DSN or a variable of libpq say where the database is?"""
    return bool(dsn) or any(name in os.environ for name in _LIBPQ_SAYS_WHERE)


@contextmanager
def without_passwords(dsn: str) -> Iterator[None]:
    """Take the passwords of a DSN and of the environment out of an error's text; note if there is no DSN."""
    try:
        yield
    except Exception as error:
        known = parse(dsn)
        hidden = [
            known.get("password"),
            known.get("sslpassword"),
            os.environ.get("PGPASSWORD"),
            dsn,
        ]
        conceal = concealer(filter(None, hidden))
        if not is_given(dsn):
            error.add_note(NONE_GIVEN)
        for each in _chain(error):
            each.args = tuple(conceal(a) if isinstance(a, str) else a for a in each.args)
        raise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


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
    with without_passwords(dsn):
        for uri in others:
            with suppress(*CONNECT_ERRORS):
                return await asyncpg.connect(uri, timeout=timeout, **options)
        return await asyncpg.connect(last or None, timeout=timeout, **options)


async def connect_pipelined(dsn: str, *, timeout: float = 10.0) -> psycopg.AsyncConnection[Any]:
    """An async psycopg connection in autocommit mode that prepares nothing."""
    with without_passwords(dsn):
        return await psycopg.AsyncConnection.connect(
            libpq_dsn(dsn),
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=max(2, int(timeout)),
            application_name="pgqueue",
        )


def connect_sync(dsn: str, *, timeout: float = 10.0) -> psycopg.Connection[Any]:
    """A psycopg connection in autocommit mode that prepares nothing."""
    with without_passwords(dsn):
        return psycopg.connect(
            libpq_dsn(dsn),
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=max(2, int(timeout)),
            application_name="pgqueue",
        )
