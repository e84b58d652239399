"""One DSN leads both drivers to one place, as libpq reads it; what asyncpg cannot do is said."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import ConfigError
from pgqueue.connect import connect_async, connect_pipelined, connect_sync, each_host, parse
from pgqueue.embedded import embedded_postgres
from pgqueue.libpq import environment_variables

WHERE = "select current_database()::text, current_user::text, current_setting('port')"


class Place:
    """The parts of the test's DSN, the environment and a home folder, all of them the test's own."""

    def __init__(self, dsn: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for variable in environment_variables().values():
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("HOME", str(home))
        self.parts = {k: str(v) for k, v in conninfo_to_dict(dsn).items()}
        self.home, self.set = home, monkeypatch.setenv

    def without(self, *names: str, **more: str) -> str:
        parts = {k: v for k, v in self.parts.items() if k not in names}
        return make_conninfo("", **(parts | more))

    def service(self, file: str = ".pg_service.conf", *, name: str = "prod", more: str = "") -> str:
        lines = [f"{key}={value}" for key, value in self.parts.items()]
        path = self.home / file
        path.write_text(
            "\n".join(["# services", "[other]", "host=nowhere", f"[{name}]", *lines, more])
        )
        return str(path)


@pytest.fixture
def place(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(dsn, tmp_path, monkeypatch)


def _service_in_dsn(place: Place) -> str:
    place.service()
    return "service=prod"


def _service_in_uri(place: Place) -> str:
    place.service()
    return "postgresql://?service=prod"


def _service_in_environment(place: Place) -> str:
    place.service()
    place.set("PGSERVICE", "prod")
    return ""


def _service_file(place: Place) -> str:
    place.set("PGSERVICEFILE", place.service("services"))
    return "service=prod"


def _system_services(place: Place) -> str:
    place.service("pg_service.conf")
    place.set("PGSYSCONFDIR", str(place.home))
    return "service=prod"


def _dsn_over_service(place: Place) -> str:
    place.service(more="port=1")
    return f"service=prod dbname={place.parts['dbname']}"


def _service_over_environment(place: Place) -> str:
    place.service()
    place.set("PGDATABASE", "elsewhere")
    return "service=prod"


def _environment(place: Place) -> str:
    variables = environment_variables()
    for key, value in place.parts.items():
        place.set(variables[key], value)
    return ""


def _hostaddr(place: Place) -> str:
    return place.without("host", host="nowhere.invalid", hostaddr="127.0.0.1")


def _hostaddr_alone(place: Place) -> str:
    return place.without("host", hostaddr="127.0.0.1")


def _hostaddr_of_environment(place: Place) -> str:
    place.set("PGHOSTADDR", "127.0.0.1")
    return place.without("host", host="nowhere.invalid")


def _hosts(place: Place) -> str:
    return place.without(
        "host", "port", host="127.0.0.1,127.0.0.1", port=f"1,{place.parts['port']}"
    )


def _hosts_one_port(place: Place) -> str:
    return place.without("host", host="127.0.0.9,127.0.0.1")


def _balanced(place: Place) -> str:
    port = place.parts["port"]
    return place.without("host", "port", host="127.0.0.1,127.0.0.1", port=f"{port},1",
                         load_balance_hosts="random")  # fmt: skip


def _primary(place: Place) -> str:
    place.set("PGTARGETSESSIONATTRS", "primary")
    return place.without()


def _prefer_standby(place: Place) -> str:
    return place.without("host", host="127.0.0.1,127.0.0.1", target_session_attrs="prefer-standby")


def _tls_versions(place: Place) -> str:
    return place.without(ssl_min_protocol_version="TLSv1.3", ssl_max_protocol_version="TLSv1.3")


def _harmless(place: Place) -> str:
    return place.without(
        sslcertmode="allow", sslsni="1", channel_binding="prefer", gssencmode="prefer", sslcompression="0",
        connect_timeout="3", keepalives_idle="60", client_encoding="LATIN1", min_protocol_version="3.0",
        fallback_application_name="x", application_name="y", sslmode="prefer", options="-c geqo=off",
    )  # fmt: skip


WAYS: list[Callable[[Place], str]] = [
    _service_in_dsn, _service_in_uri, _service_in_environment, _service_file, _system_services,
    _dsn_over_service, _service_over_environment, _environment, _hostaddr, _hostaddr_alone,
    _hostaddr_of_environment, _hosts, _hosts_one_port, _balanced, _primary, _prefer_standby, _tls_versions,
    _harmless,
]  # fmt: skip


async def where(dsn: str) -> list[tuple[Any, ...]]:
    """Where each of the three ways to connect leads."""
    found = []
    with connect_sync(dsn, timeout=5.0) as sync:
        found.append(sync.execute(WHERE).fetchone() or ())
    async with await connect_pipelined(dsn, timeout=5.0) as pipelined:
        found.append(await (await pipelined.execute(WHERE)).fetchone() or ())
    connection = await connect_async(dsn, timeout=5.0)
    found.append(tuple(await connection.fetchrow(WHERE)))
    await connection.close()
    return found


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
async def test_both_drivers_go_to_the_same_place(place: Place, way: Callable[[Place], str]) -> None:
    dsn = way(place)
    here = (place.parts["dbname"], place.parts.get("user", "postgres"), place.parts["port"])
    assert await where(dsn) == [here] * 3


REFUSED = {
    "channel_binding=require": "channel_binding is set",
    "require_auth=scram-sha-256": "require_auth is set",
    "requirepeer=postgres": "requirepeer is set",
    "gssencmode=require": "gssencmode is set",
    "sslcertmode=disable": "sslcertmode is set",
    "sslcertmode=require": "sslcertmode is set",
    "sslcrldir=/tmp": "sslcrldir is set",
    "sslsni=0": "sslsni is set",
    "min_protocol_version=3.2": "min_protocol_version is set",
    "replication=database": "replication is set",
    "gssdelegation=1": "gssdelegation is set",
    "hostaddr=127.0.0.1 host=db sslmode=verify-full": "verify-full",
    "host=@socket": "abstract namespace",
    "host=a,b hostaddr=127.0.0.1": "2 hosts, but 1 in hostaddr",
    "host=a,b port=1,2,3": "3 in port",
    "port=postgres": "'postgres' as a port",
    "sslmode=maybe": "sslmode is 'maybe' .*PGSSLMODE.*verify-full",
    "target_session_attrs=master": "target_session_attrs is 'master' .*read-write",
    "keepalives_idle=1m": "keepalives_idle is '1m' .*a whole number",
    "tcp_user_timeout=soon": "tcp_user_timeout is 'soon' ",
    "service=nowhere": "no service 'nowhere' in",
}


@pytest.mark.parametrize("dsn", REFUSED)
def test_what_asyncpg_cannot_do_is_said(place: Place, dsn: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[dsn]):
        asyncio.run(connect_async(dsn))


@pytest.mark.parametrize("name", ["sslcert", "sslrootcert"])
async def test_a_file_that_is_not_there_is_named(place: Place, name: str) -> None:
    dsn = place.without(user="postgres", sslmode="require", **{name: "/nowhere/file"})
    with pytest.raises(FileNotFoundError, match=f"{name}: No such file.*/nowhere/file"):
        await connect_async(dsn)


def test_every_parameter_of_libpq_is_known_to_be_passed_on_or_refused() -> None:
    """A parameter of a later libpq is refused, not dropped in silence."""
    for option in psycopg.pq.Conninfo.parse(b""):
        name = option.keyword.decode()
        if name in ("service", "servicefile", "passfile", "port", "hostaddr", "host"):
            continue
        try:
            uri = each_host(f"host=h dbname=d user=u {name}=odd")[0]
        except ConfigError as error:
            assert name in str(error)
        else:
            assert parse(uri).get(name) == "odd" or name in {
                "client_encoding", "connect_timeout", "fallback_application_name", "keepalives",
                "keepalives_idle", "keepalives_interval", "keepalives_count", "load_balance_hosts",
                "max_protocol_version", "sslcompression", "tcp_user_timeout",
            }  # fmt: skip


def test_the_environment_says_what_was_refused(place: Place) -> None:
    place.set("PGREQUIREAUTH", "scram-sha-256")
    with pytest.raises(ConfigError, match="PGREQUIREAUTH"):
        asyncio.run(connect_async(place.without()))
    connect_sync(place.without(user="postgres", require_auth="none,scram-sha-256,md5")).close()


@pytest.mark.parametrize(
    ("line", "said"),
    [("ldap://x", "LDAP"), ("no value", "not a connection parameter"), ("colour=red", "line 8")],
)
def test_a_service_that_cannot_be_read(place: Place, line: str, said: str) -> None:
    place.parts = {"host": "h", "port": "1", "user": "u"}
    place.service(more=line)
    with pytest.raises(ConfigError, match=said):
        connect_sync("service=prod")


def test_settings_of_the_environment_reach_both(place: Place) -> None:
    place.set("PGTZ", "Asia/Tokyo")
    place.set("PGOPTIONS", "-c work_mem=5MB")
    text = "select current_setting('timezone') || current_setting('work_mem')"

    async def aio() -> Any:
        connection = await connect_async(place.without())
        try:
            return await connection.fetchval(text)
        finally:
            await connection.close()

    with connect_sync(place.without()) as connection:
        assert connection.execute(text).fetchone() == (asyncio.run(aio()),) == ("Asia/Tokyo5MB",)


@pytest.fixture(scope="module")
def locked() -> Any:
    """The port of a server that asks for passwords."""
    with embedded_postgres(settings={"password_encryption": "scram-sha-256"}) as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("create role keeper login password 'a:b\\c'")
            row = conn.execute("show hba_file").fetchone()
            assert row is not None
            Path(row[0]).write_text("host all all 127.0.0.1/32 scram-sha-256\n")
            conn.execute("select pg_reload_conf()")
            yield str(conn.info.port)


@pytest.mark.parametrize("host", ["host=127.0.0.1", "host=db.invalid hostaddr=127.0.0.1"])
@pytest.mark.parametrize("how", ["passfile", "PGPASSFILE", "~/.pgpass", "PGPASSWORD"])
async def test_passwords_from_outside_the_dsn(
    place: Place, locked: str, how: str, host: str
) -> None:
    dsn = f"{host} port={locked} user=keeper dbname=postgres"
    name = "db.invalid" if "db.invalid" in host else "127.0.0.1"
    file = place.home / (".pgpass" if how == "~/.pgpass" else "passwords")
    file.write_text(f"# passwords\n*:1:*:*:wrong\n{name}:{locked}:postgres:keeper:a\\:b\\\\c\n")
    file.chmod(0o600)
    if how == "passfile":
        dsn += f" passfile={file}"
    elif how == "PGPASSFILE":
        place.set(how, str(file))
    elif how == "PGPASSWORD":
        file.unlink()
        place.set(how, "a:b\\c")
    assert await where(dsn) == [("postgres", "keeper", locked)] * 3


@pytest.mark.parametrize("user", [None, "nobody-by-name"])
def test_without_a_user_it_is_that_of_the_system(
    place: Place, user: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if user is None:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
        with pytest.raises(ConfigError, match="user 54321 of this system has no name"):
            each_host("host=h")
    else:
        place.set("LOGNAME", user)  # which asyncpg by itself would take, and libpq not
        assert parse(each_host("host=h")[0])["user"] != user
