"""The real programs under the roles: a worker process, producers of each kind, the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest
from psycopg import sql

from pgqueue import App, PrivilegeMissing, QueueFull
from pgqueue.connect import asyncpg_uri
from tests.security import apps
from tests.security.conftest import Roles, printed_roles
from tests.support import drain, with_password


@pytest.fixture
def roles(own_roles: Roles) -> Iterator[Roles]:
    yield own_roles
    apps.app.close()


def run(dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pgqueue", *arguments], env={**os.environ, "PGQUEUE_DSN": dsn},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def jobs(roles: Roles) -> list[tuple[str, str, int]]:
    with roles.connect("admin") as conn:
        return conn.execute(
            "select task, status, count(*)::int from pgqueue.jobs group by 1, 2 order by 1, 2"
        ).fetchall()  # type: ignore[return-value]


def test_a_worker_process(roles: Roles) -> None:
    with roles.connect("admin") as conn:
        conn.execute("create table effects (job bigint, done_by name default current_user)")
        conn.execute(sql.SQL("grant insert on effects to {}").format(
            sql.Identifier(roles.users["worker"])))  # fmt: skip
        conn.execute(  # to be rescued, and to be pruned
            "insert into pgqueue.jobs (task, args, status, attempt, claim_id, worker_id, lease_expires_at)"
            " values ('plain', '{\"number\": 1}', 'running', 1, gen_random_uuid(), gen_random_uuid(), now());"
            "insert into pgqueue.jobs (task, status, finished_at)"
            " values ('old', 'succeeded', now() - interval '30 days')"
        )
    apps.app.use(dsn=roles.dsn("producer"))
    apps.app.enqueue_many(
        [t.call() for t in (apps.fails_once, apps.gives_up, apps.snoozes_once, apps.with_effect,
                            apps.in_process)]
    )  # fmt: skip
    done = run(roles.dsn("worker"), "work", "--app", "tests.security.apps:app", "--drain")
    assert done.returncode == 0, done.stderr
    assert "permission denied" not in done.stderr
    assert jobs(roles) == [
        ("fails_once", "succeeded", 1), ("gives_up", "dead", 1), ("in_process", "succeeded", 1),
        ("plain", "succeeded", 2), ("snoozes_once", "succeeded", 1), ("with_effect", "succeeded", 1),
    ]  # fmt: skip
    with roles.connect("admin") as conn:
        effects = conn.execute("select done_by from effects").fetchall()
        assert effects == [(roles.users["worker"],)] * 2


async def test_a_worker_that_deletes_what_succeeded(roles: Roles) -> None:
    apps.app.use(dsn=roles.dsn("worker"))
    apps.fails_once.enqueue()
    await drain(apps.app, keep_succeeded=0)
    assert jobs(roles) == []


async def test_every_way_to_enqueue(roles: Roles) -> None:
    app = App(roles.dsn("producer"))

    @app.task(name="t")
    def task(number: int) -> None: ...

    many = [task.call(number) for number in range(2000)]  # by COPY from here on
    task.enqueue(1)
    await task.aenqueue(1)
    app.enqueue_many(many)
    await app.aenqueue_many(many)
    task.with_delay("1h").with_priority(3).with_max_retries(2).with_backoff("5s").enqueue(1)
    with psycopg.connect(roles.dsn("producer")) as conn, conn.transaction():
        task.on(conn).enqueue(1)
        conn.execute("select pgqueue.enqueue('t', '{\"number\": 1}')")
    own = await asyncpg.connect(asyncpg_uri(roles.dsn("producer")))
    async with own.transaction():
        await task.on(own).aenqueue(1)
    await own.close()
    await app.aclose()
    with roles.connect("sql_producer") as conn:
        conn.execute("select pgqueue.enqueue('t', '{\"number\": 1}')")
    assert jobs(roles) == [("t", "pending", 4007)]


def test_the_command_line_of_those_who_look(roles: Roles) -> None:
    with roles.connect("admin") as conn:
        conn.execute("select pgqueue.enqueue('t')")
    listed = run(roles.dsn("readonly"), "list", "--json")
    assert json.loads(listed.stdout)[0]["due"] == 1
    refused = run(roles.dsn("readonly"), "jobs")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "permission denied for table jobs" in refused.stderr
    assert "grant the database role of this connection pgqueue_operator" in refused.stderr
    assert "pgqueue sql roles" in refused.stderr


def test_the_command_line_of_an_operator(roles: Roles) -> None:
    with roles.connect("admin") as conn:
        conn.execute("select pgqueue.enqueue('t')")
        conn.execute("select pgqueue.enqueue('t')")
        conn.execute("update pgqueue.jobs set status = 'running' where id = 1")
        conn.execute("update pgqueue.jobs set status = 'dead', finished_at = now() where id = 1")
    dsn = roles.dsn("operator")
    for command in (("pause", "default"), ("resume", "default"), ("dlq",), ("job", "1"),
                    ("retry", "1"), ("cancel", "1"), ("clear", "--yes"), ("list",)):  # fmt: skip
        done = run(dsn, *command)
        assert done.returncode == 0, (command, done.stderr)
    assert run(dsn, "migrate", "--to", "base", "--yes").returncode == 1


def test_schedules_are_written_whole_or_not_at_all(roles: Roles) -> None:
    sync = ("cron", "sync", "--app", "tests.schedules.declaring:app")
    names = {
        "role": sql.Identifier(roles.names["readonly"]),
        "user": sql.Identifier(roles.users["worker"]),
    }
    assert run(roles.dsn("worker"), *sync).returncode == 1
    with roles.connect("admin") as conn:
        assert conn.execute("select count(*) from pgqueue.schedules").fetchone() == (0,)
        conn.execute(sql.SQL("grant {role} to {user}").format(**names))
        try:
            done = run(roles.dsn("worker"), *sync)
        finally:
            conn.execute(sql.SQL("revoke {role} from {user}").format(**names))
    assert done.returncode == 0, done.stderr
    assert "written: " in done.stdout


def test_a_worker_without_its_grants_says_which(roles: Roles) -> None:
    for role, lacks in (("producer", "select on pgqueue.jobs"), ("outsider", "schema pgqueue")):
        done = run(roles.dsn(role), "work", "--app", "tests.security.apps:app", "--drain")
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert "permission denied" in last
        assert lacks in last
        assert "pgqueue_worker" in last
        assert "pgqueue sql roles" in last


async def test_enqueue_without_its_grant_says_which(roles: Roles) -> None:
    app = App(roles.dsn("readonly"))

    @app.task(name="t")
    def task() -> None: ...

    says = "permission denied for .*pgqueue_producer.*pgqueue sql roles"
    with pytest.raises(PrivilegeMissing, match=says):
        task.enqueue()
    with pytest.raises(PrivilegeMissing, match=says):
        await task.aenqueue()
    with pytest.raises(PrivilegeMissing, match=says):
        app.enqueue_many([task.call()] * 2000)
    await app.aclose()


def test_migrating_as_the_migrator_leaves_all_to_the_owner(roles: Roles) -> None:
    dsn = roles.dsn("migrator")
    assert run(dsn, "migrate", "--to", "1", "--yes").returncode == 0
    done = run(dsn, "migrate")
    assert done.returncode == 0, done.stderr
    with roles.connect("admin") as conn:
        owners = conn.execute(
            "select distinct relowner::regrole::text from pg_class"
            " where relnamespace = 'pgqueue'::regnamespace and relkind in ('r', 'v', 'S')"
            " union select proowner::regrole::text from pg_proc where pronamespace = 'pgqueue'::regnamespace"
        ).fetchall()
        assert owners == [(roles.names["owner"],)]
        conn.execute(printed_roles(roles.prefix).encode())
    assert run(roles.dsn("readonly"), "list").returncode == 0
    refused = run(roles.dsn("worker"), "migrate", "--to", "1", "--yes")
    assert "pgqueue_migrator" in refused.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [(("--prefix", 'a"; drop'), "not usable"), (("--prefix", "pg_"), "not pg_"),
     (("--schema", "A b"), "not usable")],
)  # fmt: skip
def test_names_that_cannot_be(options: tuple[str, ...], says: str) -> None:
    done = run("", "sql", "roles", *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_producer_meets_the_bounds_of_a_declared_queue(own_roles: Roles) -> None:
    with App(own_roles.dsn("producer")) as app:
        app.queue("mail", max_pending=1)

        @app.task(name="t", queue="mail")
        def task() -> None: ...

        task.enqueue()
        with pytest.raises(QueueFull):
            task.enqueue()
    with own_roles.connect("sql_producer") as conn:
        assert conn.execute("select pgqueue.room('mail')").fetchone() == (None,)


def test_roles_before_the_schema_say_what_to_do(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        with pytest.raises(psycopg.errors.RaiseException, match="run: pgqueue migrate"):
            conn.execute(printed_roles("never_made_").encode())


def test_a_role_that_is_no_superuser_can_make_them(empty_dsn: str) -> None:
    from pgqueue import schema

    admin, prefix = f"t{os.getpid()}_admin", f"t{os.getpid()}_x_"
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        database = sql.Identifier(conn.info.dbname)
        conn.execute(sql.SQL(f"create role {{0}} login createrole {with_password(conn)}; grant create on database {{1}} to {{0}}").format(  # type: ignore[arg-type]
            sql.Identifier(admin), database).as_string().encode())  # fmt: skip
        made = Roles(empty_dsn, prefix)
        try:
            as_admin = psycopg.conninfo.make_conninfo(empty_dsn, user=admin)
            schema.upgrade(as_admin)
            with psycopg.connect(as_admin, autocommit=True) as own:
                own.execute(printed_roles(prefix).encode())
                own.execute(printed_roles(prefix).encode())
            schema.downgrade(as_admin, to="1")
        finally:
            made.users = {}
            made.drop()
            conn.execute(sql.SQL("drop owned by {0}; drop role {0}").format(
                sql.Identifier(admin)).as_string().encode())  # fmt: skip
