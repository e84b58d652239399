"""pgqueue's own connections: from any libpq DSN, to psycopg and asyncpg."""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlencode
from weakref import WeakSet

import asyncpg
import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgqueue.config import LIBPQ_SAYS_WHERE
from pgqueue.errors import ConfigError
from pgqueue.libpq import Host, environment_variables, hosts, password_of, resolve
from pgqueue.liveness import KEEPALIVES, abandon, keep_alive
from pgqueue.redact import concealer

# Parameters that asyncpg takes in a URI.
_ASYNCPG_TAKES = {
    "dbname", "user", "application_name", "options", "target_session_attrs", "krbsrvname", "gsslib",
    "sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslnegotiation",
    "ssl_min_protocol_version", "ssl_max_protocol_version",
}  # fmt: skip
# Parameters that it needs no word of: pgqueue sees to them, or they change nothing for it.
_NOT_FOR_ASYNCPG = {
    "host", "hostaddr", "port", "password", "passfile", "load_balance_hosts", "connect_timeout", "keepalives",
    "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
    "client_encoding", "fallback_application_name", "sslcompression", "max_protocol_version",
}  # fmt: skip
# Values of parameters beyond asyncpg's reach that ask for nothing.
_ASKS_NOTHING = {
    "channel_binding": {"prefer", "disable"}, "gssencmode": {"prefer", "disable"}, "gssdelegation": {"0"},
    "min_protocol_version": {"3.0"}, "replication": {"false", "off", "no", "0"}, "sslcertmode": {"allow"},
    "sslsni": {"1"},
}  # fmt: skip
# Values that libpq knows; with another one it is not the server that is away.
_VALUES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}  # fmt: skip
_NUMBERS = {"keepalives", *KEEPALIVES}
_FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl")
# The environment variables that libpq makes settings of a session.
_SETTINGS_OF_ENVIRONMENT = {"PGTZ": "timezone", "PGDATESTYLE": "datestyle", "PGGEQO": "geqo"}

C = TypeVar("C")

NONE_GIVEN = "no database given: set PGQUEUE_DSN or --dsn"

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
    return bool(dsn) or any(name in os.environ for name in LIBPQ_SAYS_WHERE)


@contextmanager
def without_passwords(dsn: str) -> Iterator[None]:
    """Take the passwords of a DSN and of the environment out of an error's text; note if there is no DSN."""
    try:
        yield
    except Exception as error:
        known = parse(dsn)
        with suppress(ConfigError):
            known = resolve(known)
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
    """The same DSN as a URI that asyncpg reads.

    Raises:
        ConfigError: it asks for something that asyncpg cannot do.
    """
    parameters = resolve(parse(dsn))
    return _uri(parameters, hosts(parameters))


def each_host(dsn: str) -> list[str]:
    """A URI for asyncpg per host of the DSN, in the order in which to try them.

    Raises:
        ConfigError: it asks for something that asyncpg cannot do.
    """
    parameters = resolve(parse(dsn))
    found = hosts(parameters)
    if parameters.get("load_balance_hosts") == "random":
        random.shuffle(found)
    if parameters.get("target_session_attrs") == "prefer-standby" and len(found) > 1:
        first = parameters | {"target_session_attrs": "standby"}
        return [_uri(each, [host]) for each in (first, parameters) for host in found]
    return [_uri(parameters, [host]) for host in found]


def _uri(parameters: Mapping[str, str], to: list[Host]) -> str:
    _check_for_asyncpg(parameters, to)
    system = parameters.get("sslrootcert") == "system"  # given as a context, see _options
    values = {
        name: value
        for name, value in parameters.items()
        if name in _ASYNCPG_TAKES and not (system and name.startswith("ssl"))
    }
    values["host"] = ",".join(map(_address, to))
    values["port"] = ",".join(host.port for host in to)
    passwords = {password_of(parameters, host) for host in to}
    if len(passwords) > 1:
        raise ConfigError("the hosts of the DSN have different passwords in the password file")
    if password := passwords.pop():
        values["password"] = password
    return "postgresql://?" + urlencode(values, quote_via=quote)


def _address(host: Host) -> str:
    address = host.address or host.name
    return f"[{address}]" if ":" in address and not address.startswith("/") else address


def _check_for_asyncpg(parameters: Mapping[str, str], to: list[Host]) -> None:
    for name, value in parameters.items():
        _check_value(name, value)
        if name in _ASYNCPG_TAKES or name in _NOT_FOR_ASYNCPG:
            continue
        if value not in _ASKS_NOTHING.get(name, ()):
            raise ConfigError(
                f"{name} is set (in {_places(name)}), which asyncpg, the driver of workers and of async code,"
                " cannot do; synchronous calls can"
            )
    if parameters.get("sslmode") == "verify-full" and any(h.name and h.address for h in to):
        raise ConfigError(
            "hostaddr with sslmode=verify-full: asyncpg would check the certificate against the"
            " address; leave hostaddr out, or give it the name of the certificate in host"
        )
    if any(host.name.startswith("@") for host in to):
        raise ConfigError("asyncpg cannot use a socket in the abstract namespace: give a directory")


def _check_value(name: str, value: str) -> None:
    known = _VALUES.get(name)
    if known is not None and value not in known:
        raise ConfigError(f"{name} is {value!r} (in {_places(name)}): one of {', '.join(known)}")
    if name in _NUMBERS:
        try:
            int(value)
        except ValueError:
            raise ConfigError(f"{name} is {value!r} (in {_places(name)}): a whole number") from None


def _places(name: str) -> str:
    """Where a parameter may have been set."""
    said = environment_variables().get(name)
    return f"the DSN, its service{f' or {said}' if said else ''}"


def _options(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of ``asyncpg.connect`` that have no place in a URI."""
    environment = {
        setting: os.environ[name]
        for name, setting in _SETTINGS_OF_ENVIRONMENT.items()
        if os.environ.get(name)
    }
    options: dict[str, Any] = {"server_settings": environment | {"application_name": "pgqueue"}}
    if parameters.get("sslrootcert") == "system":
        context = ssl.create_default_context()
        if least := parameters.get("ssl_min_protocol_version"):
            context.minimum_version = ssl.TLSVersion[least.replace(".", "_")]
        if most := parameters.get("ssl_max_protocol_version"):
            context.maximum_version = ssl.TLSVersion[most.replace(".", "_")]
        if certificate := parameters.get("sslcert"):
            password = parameters.get("sslpassword")
            context.load_cert_chain(certificate, parameters.get("sslkey"), password)
        options["ssl"] = context
        options["direct_tls"] = parameters.get("sslnegotiation") == "direct"
    return options


def libpq_dsn(dsn: str) -> str:
    """The same DSN as libpq reads it, with all that pgqueue resolved."""
    return psycopg.conninfo.make_conninfo(**resolve(parse(dsn)))


def describe(dsn: str) -> str:
    """Where a DSN leads, without its password."""
    p = parse(dsn)
    host = p.get("host") or "the default host"
    port = f":{p['port']}" if p.get("port") else ""
    return f"{p.get('dbname') or 'the default database'} at {host}{port}"


# Every connection of this process, so that a forked child can let go of them.
_connections: WeakSet[Any] = WeakSet()
# The parent's, in a forked child: kept, so that nothing of theirs is ever finalized here.
_inherited: list[Any] = []


def _abandon_connections() -> None:
    """In a forked child: leave the parent's connections to the parent."""
    _inherited.extend(_connections)
    for connection in _inherited:
        abandon(connection)
    _connections.clear()


os.register_at_fork(after_in_child=_abandon_connections)


async def connect_async(
    dsn: str, *, timeout: float = 10.0, **options: Any
) -> asyncpg.Connection[Any]:
    """An asyncpg connection to the first host that will do; ``timeout`` in seconds for each.

    asyncpg itself goes on to the next host only if a connection is refused: not when a host is
    silent, starting up or shutting down.
    """
    parameters = resolve(parse(dsn))
    *others, last = each_host(dsn)
    options |= _options(parameters)
    connection: asyncpg.Connection[Any] | None = None
    with without_passwords(dsn):
        for uri in others:
            with suppress(*CONNECT_ERRORS):
                connection = await asyncpg.connect(uri, timeout=timeout, **options)
                break
        if connection is None:
            with _naming_files(parameters):
                connection = await asyncpg.connect(last, timeout=timeout, **options)
    _connections.add(connection)
    keep_alive(connection, parameters)
    return connection


@contextmanager
def _naming_files(parameters: Mapping[str, str]) -> Iterator[None]:
    """Say which file of the parameters is not there."""
    try:
        yield
    except FileNotFoundError as error:
        for name in _FILES:
            if (path := parameters.get(name)) and path != "system" and not os.path.exists(path):
                raise FileNotFoundError(error.errno, f"{name}: {error.strerror}", path) from error
        raise


async def connect_pipelined(dsn: str, *, timeout: float = 10.0) -> psycopg.AsyncConnection[Any]:
    """An async psycopg connection in autocommit mode that prepares nothing."""
    with without_passwords(dsn):
        return _kept(
            await psycopg.AsyncConnection.connect(libpq_dsn(dsn), **_psycopg_options(dsn, timeout))
        )


def connect_sync(dsn: str, *, timeout: float = 10.0) -> psycopg.Connection[Any]:
    """A psycopg connection in autocommit mode that prepares nothing."""
    with without_passwords(dsn):
        return _kept(psycopg.connect(libpq_dsn(dsn), **_psycopg_options(dsn, timeout)))


def _psycopg_options(dsn: str, timeout: float) -> dict[str, Any]:
    given = resolve(parse(dsn))
    return {
        **{name: value for name, value in KEEPALIVES.items() if name not in given},
        "autocommit": True,
        "prepare_threshold": None,
        "connect_timeout": max(2, int(timeout)),
        "application_name": "pgqueue",
        "client_encoding": "UTF8",
    }


def _kept(connection: C) -> C:
    _connections.add(connection)
    return connection
