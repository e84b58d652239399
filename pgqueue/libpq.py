"""Resolves connection parameters as libpq does: service file, environment, password file, defaults.

psycopg leaves this to libpq, and asyncpg does it in its own way, with other results. pgqueue does it
once for both, so that they cannot end up at different servers.
https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from psycopg import pq

from pgqueue.errors import ConfigError

PORT = "5432"
# Where packages of PostgreSQL put its socket; which of them a libpq tries depends on how it was built.
SOCKET_DIRECTORIES = ("/run/postgresql", "/var/run/postgresql", "/tmp")


@dataclass(frozen=True, slots=True)
class Host:
    """One host of a DSN. ``name`` is a name, an address or the directory of a socket."""

    name: str
    address: str
    port: str


@cache
def environment_variables() -> Mapping[str, str]:
    """The environment variable of each parameter that has one, by parameter."""
    return {
        option.keyword.decode(): option.envvar.decode()
        for option in pq.Conninfo.parse(b"")
        if option.envvar
    }


def resolve(given: Mapping[str, object]) -> dict[str, str]:
    """Complete the parameters of a DSN. What the DSN says wins, then the service, then the environment.

    Host, user and database are always in the result; the password only if it is not that of a
    password file.

    Raises:
        ConfigError: the service cannot be found or read, or there is no user.
    """
    found = {name: str(value) for name, value in given.items() if str(value)}
    service = found.pop("service", "") or os.environ.get("PGSERVICE", "")
    file = found.pop("servicefile", "")
    if service:
        found = _service(service, file) | found
    for name, variable in environment_variables().items():
        if name != "service" and (value := os.environ.get(variable)):
            found.setdefault(name, value)
    if not found.get("host") and not found.get("hostaddr"):
        found["host"] = _local(found.get("port") or PORT)
    if not found.get("user"):
        found["user"] = _user()
    found.setdefault("dbname", found["user"])
    return found


def hosts(parameters: Mapping[str, str]) -> list[Host]:
    """The hosts of resolved parameters, in order.

    Raises:
        ConfigError: there are not as many ports, or addresses, as hosts, or a port is no number.
    """
    names = parameters.get("host", "").split(",")
    addresses = parameters.get("hostaddr", "").split(",")
    ports = parameters.get("port", "").split(",")
    count = max(len(names), len(addresses))
    for what, values in (("host", names), ("hostaddr", addresses), ("port", ports)):
        if len(values) != count and values != [""] and not (what == "port" and len(values) == 1):
            raise ConfigError(
                f"the DSN has {count} hosts, but {len(values)} in {what}: give one for each"
            )
    names = names if len(names) == count else [""] * count
    addresses = addresses if len(addresses) == count else [""] * count
    ports = ports if len(ports) == count else ports * count
    for port in filter(None, ports):
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigError(f"the DSN has {port!r} as a port: a number from 1 to 65535")
    return [
        Host(name or (_local(port or PORT) if not address else ""), address, port or PORT)
        for name, address, port in zip(names, addresses, ports, strict=True)
    ]


def password_of(parameters: Mapping[str, str], host: Host) -> str | None:
    """The password for one host: as given, or of the password file; None if there is none.

    A password file that others may read is passed over, as libpq does.
    """
    if given := parameters.get("password"):
        return given
    path = parameters.get("passfile") or os.path.expanduser("~/.pgpass")
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) or mode & (stat.S_IRWXG | stat.S_IRWXO):
            return None
        lines = Path(path).read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    name = host.name or host.address
    wanted = ("localhost" if name in SOCKET_DIRECTORIES else name, host.port,
              parameters["dbname"], parameters["user"])  # fmt: skip
    for line in lines:
        fields = list(_fields(line)) if not line.startswith("#") else []
        if len(fields) >= 5 and all(
            field in ("*", value) for field, value in zip(fields, wanted, strict=False)
        ):
            return fields[4]
    return None


def _fields(line: str) -> Iterator[str]:
    r"""The fields between colons; ``\`` takes the next character as it is."""
    field, characters = "", iter(line)
    for character in characters:
        if character == "\\":
            field += next(characters, "")
        elif character == ":":
            yield field
            field = ""
        else:
            field += character
    yield field


def _service(name: str, file: str) -> dict[str, str]:
    """The parameters of a service: of the user's file, or else of the system's."""
    files = [file or os.environ.get("PGSERVICEFILE") or os.path.expanduser("~/.pg_service.conf")]
    if directory := os.environ.get("PGSYSCONFDIR"):
        files.append(os.path.join(directory, "pg_service.conf"))
    for each in files:
        with suppress(FileNotFoundError, NotADirectoryError):
            try:
                text = Path(each).read_text("utf-8")
            except (PermissionError, IsADirectoryError, UnicodeDecodeError) as error:
                raise ConfigError(f"the service file {each} cannot be read: {error}") from None
            if (found := _section(text, name, each)) is not None:
                return found
    raise ConfigError(
        f"no service {name!r} in {' or '.join(files)}: PGSERVICEFILE names the file, PGSYSCONFDIR the"
        " directory of the system's"
    )


def _section(text: str, name: str, file: str) -> dict[str, str] | None:
    """One service of a file, None if it is not in there; of a parameter given twice the first counts."""
    found: dict[str, str] | None = None
    known = {option.keyword.decode() for option in pq.Conninfo.parse(b"")}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            if found is not None:
                break
            found = {} if line == f"[{name}]" else None
            continue
        if found is None:
            continue
        key, equals, value = line.partition("=")
        if key.startswith("ldap"):
            raise ConfigError(
                f"{file}, line {number}: pgqueue looks up no service by LDAP; write its parameters"
            )
        if not equals or key not in known or key == "service":
            raise ConfigError(f"{file}, line {number}: not a connection parameter with a value")
        found.setdefault(key, value)
    return None if found is None else {key: value for key, value in found.items() if value}


def _local(port: str) -> str:
    """The host where none is given: the directory of a socket that is there, else localhost."""
    for directory in SOCKET_DIRECTORIES:
        if os.path.exists(os.path.join(directory, f".s.PGSQL.{port}")):
            return directory
    return "localhost"


def _user() -> str:
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    raise ConfigError(
        f"no database user given, and user {os.geteuid()} of this system has no name: put user= into the"
        " DSN, or set PGUSER"
    )
