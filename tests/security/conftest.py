"""A database with the printed roles, and a user to log in for each. Roles belong to the whole server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgqueue.roles import ROLES
from tests.support import with_password


class Roles:
    """DSNs by role, on one database; "outsider" has no grant, "admin" is who made it all."""

    def __init__(self, admin: str, prefix: str) -> None:
        self.admin, self.prefix = admin, prefix
        self.names = {role: f"{prefix}{role}" for role in ROLES}
        self.users = {role: f"{prefix}u_{role}" for role in [*ROLES, "outsider"]}

    def dsn(self, role: str) -> str:
        return self.admin if role == "admin" else make_conninfo(self.admin, user=self.users[role])

    def connect(self, role: str) -> psycopg.Connection:
        return psycopg.connect(self.dsn(role), autocommit=True)

    def make(self) -> None:
        script = printed_roles(self.prefix)
        with self.connect("admin") as conn:
            conn.execute(script.encode())
            conn.execute(script.encode())  # as often as you like
            for user in self.users.values():
                conn.execute(sql.SQL(f"create role {{}} login {with_password(conn)}").format(  # type: ignore[arg-type]
                    sql.Identifier(user)))  # fmt: skip
            for role, name in self.names.items():
                conn.execute(sql.SQL("grant {} to {}").format(
                    sql.Identifier(name), sql.Identifier(self.users[role])))  # fmt: skip

    def drop(self) -> None:
        with psycopg.connect(self.admin, autocommit=True) as conn:
            if conn.execute("select to_regrole(%s)", [self.names["owner"]]).fetchone() == (None,):
                return
            conn.execute(sql.SQL("reassign owned by {} to current_user").format(
                sql.Identifier(self.names["owner"])))  # fmt: skip
            for name in [*self.users.values(), *self.names.values()]:
                conn.execute(sql.SQL("drop owned by {0}; drop role {0}").format(
                    sql.Identifier(name)).as_string().encode())  # fmt: skip


def printed_roles(prefix: str, *options: str) -> str:
    """What ``pgqueue sql roles`` prints."""
    return subprocess.run(
        [sys.executable, "-m", "pgqueue", "sql", "roles", "--prefix", prefix, *options],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


@contextmanager
def roles_on(dsn: str) -> Iterator[Roles]:
    made = Roles(dsn, f"t{uuid4().hex[:8]}_")
    made.make()
    yield made
    made.drop()


@pytest.fixture(scope="module")
def roles(server: str, template: str) -> Iterator[Roles]:
    """One database for the module: its tests roll back, or do not mind what the others left."""
    name = f"pgqueue_roles_{uuid4().hex[:8]}"
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"create database {name} template {template}".encode())
    with roles_on(make_conninfo(server, dbname=name)) as made:
        yield made
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"drop database {name} with (force)".encode())


@pytest.fixture
def own_roles(dsn: str) -> Iterator[Roles]:
    """Roles on the test's own database."""
    with roles_on(dsn) as made:
        yield made
