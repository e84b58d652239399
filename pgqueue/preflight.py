"""What a database must be like, checked before a migration or a worker begins: else it would fail for ever, or in silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgqueue.drivers import read_only
from pgqueue.errors import DatabaseReadOnly, PgQueueError, PrivilegeMissing
from pgqueue.operations import Operation, Row

OLDEST_SERVER = 140_000
# A setting that comes from there stays as it is; the server as a whole, a standby or not, may be replaced soon.
_STAYS = {
    "database": "the database {database}: alter database {database} reset default_transaction_read_only",
    "user": "the role {role}: alter role {role} reset default_transaction_read_only",
    "database user": "the role {role} in the database {database}: alter role {role} in database {database} reset"
    " default_transaction_read_only",
    "client": "the DSN (options, or PGOPTIONS): leave it out",
}


@dataclass(frozen=True, slots=True)
class Server:
    """What a session says of its server, database and role.

    ``read_only_by``: where ``default_transaction_read_only`` is switched on, by the words of ``pg_settings``; None if
    it is off. ``hidden``: tables of which row-level security hides rows from this role; False if it hides all of them.
    """

    version: int
    database: str
    role: str
    encoding: str
    read_only: bool
    read_only_by: str | None
    hidden: Mapping[str, bool]


def look(schema: str) -> Operation[Server]:
    """Ask the session for it."""
    return Operation("preflight", {"schema": schema}, lambda rows: _server(rows[0]))


def _server(row: Row) -> Server:
    version, database, role, encoding, is_read_only, read_only_by, tables, shown = row
    hidden = dict(zip(tables, shown, strict=True))
    return Server(version, database, role, encoding, is_read_only, read_only_by, hidden)


def check_migration(server: Server) -> None:
    """Refuse a database that cannot be migrated.

    Raises:
        PgQueueError: the server is older than PostgreSQL 14.
        DatabaseReadOnly: it takes no writes.
    """
    if server.version < OLDEST_SERVER:
        raise PgQueueError(
            f"pgqueue needs PostgreSQL 14 or newer, this is {server.version // 10000}"
        )
    if server.read_only:
        raise _read_only(server) or read_only()


def check_worker(server: Server, *, schema: str) -> None:
    """Refuse a database on which no worker can work; one that is read-only for now, as a standby is, can be waited for.

    Raises:
        DatabaseReadOnly: what makes it read-only does not end by itself.
        PrivilegeMissing: row-level security hides every job.
    """
    if server.read_only and (error := _read_only(server)) is not None:
        raise error
    if unseen := [table for table, some in server.hidden.items() if not some]:
        raise PrivilegeMissing(
            f"row-level security hides every row of {', '.join(unseen)} in schema {schema} from this role, so a"
            " worker would find no job: give the role a policy that shows them, or disable it there"
        )


def remarks(server: Server, *, schema: str) -> list[str]:
    """What works, but not as one may expect, in sentences."""
    found = []
    if server.encoding == "SQL_ASCII":
        found.append(
            f"database {server.database} is in SQL_ASCII: PostgreSQL stores the bytes of texts as they come, and"
            " sessions with another client_encoding read other texts; for a new one: create database ... encoding 'UTF8'"
        )
    elif server.encoding != "UTF8":
        found.append(
            f"database {server.database} is in {server.encoding}: jobs whose arguments have other characters are"
            " refused, and error texts are stored without them; for a new one: create database ... encoding 'UTF8'"
        )
    if server.hidden:
        found.append(
            f"row-level security applies to {', '.join(server.hidden)} in schema {schema}: a worker of the role"
            f" {server.role} runs only jobs that its policies show"
        )
    return found


def _read_only(server: Server) -> DatabaseReadOnly | None:
    """The error for what does not end by itself; None if it may."""
    if server.read_only_by not in _STAYS:
        return None
    where = _STAYS[server.read_only_by].format(database=server.database, role=server.role)
    return DatabaseReadOnly(
        f"this server takes no writes: default_transaction_read_only is on for {where}"
    )
