"""Raw SQL by each role against what it was not given: 42501, and nothing happened."""

from __future__ import annotations

from typing import LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from tests.security.conftest import Roles

JOBS = ("producer", "sql_producer", "readonly")
EVERYONE = (*JOBS, "emitter", "worker", "operator", "outsider")
ATTACKS: list[tuple[tuple[str, ...], LiteralString]] = [
    (EVERYONE, "update pgqueue.jobs set task = 'other'"),
    ((*JOBS, "worker", "outsider"), "update pgqueue.jobs set queue = 'other'"),
    (EVERYONE, "update pgqueue.jobs set max_retries = 1000"),
    ((*JOBS, "worker"), "update pgqueue.jobs set args = '{\"amount\": 1000000}'"),
    ((*JOBS, "operator"), "update pgqueue.jobs set claim_id = gen_random_uuid()"),
    (EVERYONE, "insert into pgqueue.jobs (task, status) values ('t', 'running')"),
    (EVERYONE, "insert into pgqueue.jobs (task, claim_id, worker_id)"
               " values ('t', gen_random_uuid(), gen_random_uuid())"),
    (EVERYONE, "insert into pgqueue.jobs (task, last_error) values ('t', 'x')"),
    (("sql_producer", "readonly", "operator"), "insert into pgqueue.jobs (task) values ('t')"),
    (JOBS, "select args from pgqueue.jobs"),
    (JOBS, "select last_error from pgqueue.jobs"),
    (JOBS, "select * from pgqueue.attempts"),
    (JOBS, "select j from pgqueue.jobs j"),
    (("producer",), "insert into pgqueue.jobs (task) values ('t') returning args"),
    ((*JOBS, "operator"), "select claim_id from pgqueue.jobs"),
    (("operator",), "select claim_id from pgqueue.attempts"),
    (JOBS, "delete from pgqueue.jobs"),
    ((*JOBS, "worker"), "update pgqueue.queues set paused_at = now()"),
    ((*JOBS, "operator"), "delete from pgqueue.workers"),
    (("sql_producer",), "select id from pgqueue.jobs"),
    (("readonly", "operator", "outsider"), "select pgqueue.enqueue('t')"),
    (("readonly", "sql_producer", "operator"), "select nextval('pgqueue.jobs_id_seq')"),
    (EVERYONE, "select setval('pgqueue.jobs_id_seq', 1)"),
    ((*JOBS, "outsider"), "select pgqueue.emit('refunds decided', '{\"granted\": true}')"),
    ((*JOBS, "emitter", "worker", "operator"), "insert into pgqueue.events (name) values ('refunds decided')"),
    (("emitter",), "select pgqueue.enqueue('t')"),
    (("emitter",), "select id from pgqueue.jobs"),
    (EVERYONE, "drop table pgqueue.jobs"),
    (EVERYONE, "truncate pgqueue.jobs"),
    (EVERYONE, "alter table pgqueue.jobs add column x int"),
    (EVERYONE, "create index on pgqueue.jobs (task)"),
    (EVERYONE, "create table pgqueue.mine (x int)"),
    (EVERYONE, "create function pgqueue.jsonb_typeof(jsonb) returns text language sql as 'select $1::text'"),
    (EVERYONE, "create or replace function pgqueue.channel(queue text) returns text language sql as 'select $1'"),
    (EVERYONE, "alter function pgqueue.enqueue reset search_path"),
    (EVERYONE, "drop function pgqueue.complete_job"),
    (EVERYONE, "create trigger t before insert on pgqueue.jobs execute function pg_catalog.suppress_redundant_updates_trigger()"),
    (("sql_producer", "readonly", "outsider"), "grant all on pgqueue.jobs to public"),
    (EVERYONE, "create or replace function pgqueue.schema_version(out version integer, out serves integer)"
               " language sql as 'select 99, 99'"),
    (EVERYONE, "update pgqueue.alembic_version set version_num = 'x'"),
    ((*JOBS, "operator", "outsider"), "copy pgqueue.jobs to stdout"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(ATTACKS)), ids=lambda n: ATTACKS[n][1][:60])
def test_refused(roles: Roles, number: int) -> None:
    attackers, statement = ATTACKS[number]
    for role in attackers:
        with roles.connect(role) as conn:
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
                with conn.transaction(force_rollback=True):
                    conn.execute(statement)
            assert refused.value.sqlstate == "42501"


def test_what_read_only_sees_of_a_job(roles: Roles) -> None:
    with roles.connect("readonly") as conn:
        columns = {
            c.name for c in conn.execute("select * from pgqueue.jobs_public").description or ()
        }
        options = conn.execute(
            "select reloptions from pg_class where oid = 'pgqueue.jobs_public'::regclass"
        ).fetchone()
    assert {"id", "task", "status"} <= columns
    assert not columns & {"args", "last_error", "claim_id", "backoff"}
    assert options == (["security_barrier=true"],)


@pytest.mark.parametrize(
    "role", ["producer", "sql_producer", "emitter", "readonly", "operator", "outsider"]
)
def test_complete_job_is_for_workers(roles: Roles, role: str) -> None:
    with roles.connect(role) as conn:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select pgqueue.complete_job(1, gen_random_uuid())")


def test_a_guessed_claim_completes_nothing_and_tells_nothing(roles: Roles) -> None:
    """The claim is the key: whoever may call complete_job() without it learns not even which jobs exist."""
    claim = uuid4()
    with roles.connect("admin") as admin:
        running = admin.execute(
            "insert into pgqueue.jobs (task, status, claim_id) values ('t', 'running', %s) returning id",
            [claim]).fetchone()  # fmt: skip
        assert running is not None
    says = []
    with roles.connect("worker") as conn:
        for job_id in (running[0], 10**12):
            with pytest.raises(psycopg.errors.DatabaseError) as refused:
                conn.execute("select pgqueue.complete_job(%s, gen_random_uuid())", [job_id])
            assert refused.value.sqlstate == "PQ001"
            says.append(refused.value.diag.message_primary or "")
        assert says[0].split("is no longer")[1][:15] == says[1].split("is no longer")[1][:15]
        conn.execute("select pgqueue.complete_job(%s, %s)", [running[0], claim])


@pytest.mark.parametrize(
    ("function", "call", "shadowed"),
    [
        ("enqueue, wrong_with", "select pgqueue.enqueue('t')", "length(text) returns integer"),
        ("complete_job", "select pgqueue.complete_job({id}, '{claim}')",
         "clock_timestamp() returns timestamptz"),
    ],
)  # fmt: skip
def test_the_search_path_cannot_be_hijacked(
    roles: Roles, function: str, call: str, shadowed: str
) -> None:
    """An attacker's function of a built-in's name would run as the owner: it must not be found.

    That it is found once the guard is gone shows that the trap works.
    """
    claim = uuid4()
    with roles.connect("admin") as admin, roles.connect("worker") as attacker:
        running = admin.execute(
            "insert into pgqueue.jobs (task, status, claim_id) values ('t', 'running', %s) returning id",
            [claim]).fetchone()  # fmt: skip
        call = call.format(id=running[0] if running else 0, claim=claim)
        user = sql.Identifier(roles.users["worker"])
        admin.execute(sql.SQL("create schema trap authorization {}").format(user))
        result = shadowed.split("returns ")[1]
        try:
            attacker.execute(sql.SQL(  # type: ignore[arg-type]
                f"create function trap.{shadowed} language plpgsql as $$ begin"
                " raise exception 'hijacked as %', current_user using errcode = 'XX666';"
                f" return null::{result}; end $$"))  # fmt: skip
            attacker.execute("grant usage on schema trap to public")
            attacker.execute("set search_path = trap, pg_catalog")
            assert outcome(attacker, call) is None
            for each in function.split(", "):
                admin.execute(sql.SQL(f"alter function pgqueue.{each} reset search_path"))  # type: ignore[arg-type]
            assert outcome(attacker, call) == "XX666"
        finally:
            for each in function.split(", "):
                admin.execute(sql.SQL(  # type: ignore[arg-type]
                    f"alter function pgqueue.{each} set search_path = pg_catalog, pg_temp"))  # fmt: skip
            admin.execute("drop schema trap cascade")


def outcome(conn: psycopg.Connection, call: str) -> str | None:
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(call.encode())
    except psycopg.Error as error:
        return error.sqlstate
    return None


def test_a_producer_of_one_queue(own_roles: Roles) -> None:
    """A function of your own around enqueue(): its owner may enqueue, its callers only call it."""
    with own_roles.connect("admin") as admin, own_roles.connect("outsider") as caller:
        owner, user = own_roles.users["producer"], own_roles.users["outsider"]
        admin.execute(sql.SQL("create schema shop authorization {}").format(sql.Identifier(owner)))
        admin.execute(sql.SQL("grant usage on schema shop to {}").format(sql.Identifier(user)))
        with own_roles.connect("producer") as conn:
            conn.execute(
                "create function shop.mail(address text) returns bigint language sql security definer"
                " set search_path = pg_catalog, pg_temp as $$ select pgqueue.enqueue('send_mail',"
                " jsonb_build_object('to', address), queue => 'mail') $$"
            )
            conn.execute("revoke execute on function shop.mail(text) from public")
            conn.execute(sql.SQL("grant execute on function shop.mail(text) to {}").format(
                sql.Identifier(user)))  # fmt: skip
        caller.execute("select shop.mail('a@b.c')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            caller.execute("select pgqueue.enqueue('refund', queue => 'billing')")
        found = admin.execute("select task, queue, args from pgqueue.jobs").fetchall()
        assert found == [("send_mail", "mail", {"to": "a@b.c"})]
        admin.execute("drop schema shop cascade")


def test_notify_has_no_privileges(roles: Roles) -> None:
    """So a notification carries nothing, and is only a hint."""
    with roles.connect("outsider") as ears, roles.connect("sql_producer") as conn:
        ears.execute('listen "pgqueue:mail"')
        conn.execute("select pgqueue.enqueue('t', '{\"secret\": 1}', 'mail')")
        (heard,) = ears.notifies(timeout=20, stop_after=1)
        assert (heard.channel, heard.payload) == ("pgqueue:mail", "")


@pytest.mark.parametrize("role", ["producer", "worker", "operator"])
def test_who_may_enqueue_sees_results(roles: Roles, role: str) -> None:
    """``handle.result()`` of a producer needs it; there is no row by row."""
    with roles.connect(role) as conn:
        conn.execute("select id, status, result from pgqueue.jobs")


@pytest.mark.parametrize("job_id", [0, -1, -(2**63)])
def test_ids_below_one_are_refused(roles: Roles, job_id: int) -> None:
    """The worker's looks begin at 1: such a job would never be rescued."""
    for role in ("producer", "admin"):
        with roles.connect(role) as conn, pytest.raises(psycopg.errors.CheckViolation):
            conn.execute(
                "insert into pgqueue.jobs (id, task) overriding system value values (%s, 't')",
                [job_id],
            )


@pytest.mark.parametrize("length", [0, 201])
def test_names_of_tasks_are_bounded(roles: Roles, length: int) -> None:
    with roles.connect("producer") as conn, pytest.raises(psycopg.errors.CheckViolation):
        conn.execute("insert into pgqueue.jobs (task) values (%s)", ["x" * length])
