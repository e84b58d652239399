"""What others put into ``public`` is never called by a statement of ours, whoever runs it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import App, schema
from pgqueue.sql import load, script
from tests.support import drain

# Commands that PostgreSQL can neither prepare nor keep in a function: they call nothing.
NO_QUERIES = {"begin_pinned", "commit_pinned", "copy_jobs"}
TYPES = (
    "text", "smallint", "integer", "bigint", "real", "float8", "numeric", "boolean", "timestamptz", "interval",
    "uuid", "jsonb", "text[]", "bigint[]",
)  # fmt: skip
OPERATORS = ("=", "<>", "<", ">", "<=", ">=", "||", "->", "->>", "+", "-", "*", "/")
# An operator for each pair of types for which PostgreSQL has none: it fits better than any with a conversion.
HOSTILE = f"""
do $$
declare
    t text;
    u text;
    o text;
begin
    foreach t in array array[{", ".join(f"'{t}'" for t in TYPES)}] loop
        foreach u in array array[{", ".join(f"'{t}'" for t in TYPES)}] loop
            execute format('create function public.hostile(%s, %s) returns boolean language plpgsql as '
                           '''begin raise exception ''''called what is in public''''; end''', t, u);
            foreach o in array array[{", ".join(f"'{o}'" for o in OPERATORS)}] loop
                continue when exists (
                    select from pg_operator p where p.oprname = o
                       and p.oprleft = t::regtype and p.oprright = u::regtype);
                execute format('create operator public.%s (leftarg = %s, rightarg = %s, function = public.hostile)', o, t, u);
            end loop;
        end loop;
    end loop;
end $$;
create function public.unnest(text[]) returns setof text language plpgsql as
    'begin raise exception ''called what is in public''; end';
create function public.unnest(bigint[]) returns setof bigint language plpgsql as
    'begin raise exception ''called what is in public''; end';
create function public.concat_ws(text, text, text) returns text language plpgsql as
    'begin raise exception ''called what is in public''; end';
create schema probe;
"""
IN_PUBLIC = """
    select distinct coalesce(d.refobjid::regprocedure::text, '') from pg_depend d
      join pg_proc p on p.oid = d.refobjid and d.refclassid = 'pg_proc'::regclass
     where d.objid = 'probe.statement'::regproc and p.pronamespace = 'public'::regnamespace
    union all
    select d.refobjid::regoperator::text from pg_depend d
      join pg_operator o on o.oid = d.refobjid and d.refclassid = 'pg_operator'::regclass
     where d.objid = 'probe.statement'::regproc and o.oprnamespace = 'public'::regnamespace
"""


@pytest.fixture(scope="module")
def hostile(server: str, template: str) -> Iterator[psycopg.Connection]:
    """A connection to a database whose schema public is full of traps."""
    name = f"{template}_hostile"
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"create database {name} template {template}".encode())
    with psycopg.connect(make_conninfo(server, dbname=name), autocommit=True) as conn:
        conn.execute(HOSTILE.encode())
        yield conn
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"drop database {name} with (force)".encode())


def test_the_traps_work(hostile: psycopg.Connection) -> None:
    for query in ("select * from unnest(array['a'])", "select 'a'::text || 1::bigint"):
        with pytest.raises(psycopg.errors.RaiseException, match="called what is in public"):
            hostile.execute(query.encode())


def depends_on(conn: psycopg.Connection, text: str) -> list[str]:
    """What a statement calls in public. A function with a parsed body tells it by its dependencies."""
    conn.execute("set search_path = public")
    conn.execute(f"prepare statement as {text}".encode())
    conn.execute("set search_path = pg_catalog")
    row = conn.execute(
        "select parameter_types::text[] from pg_prepared_statements where name = 'statement'"
    ).fetchone()
    conn.execute("deallocate statement")
    assert row is not None
    conn.execute("set search_path = public")
    conn.execute(
        f"create function probe.statement({', '.join(row[0])}) returns void begin atomic {text}; end".encode()
    )
    conn.execute("set search_path = pg_catalog")
    found = [row[0] for row in conn.execute(IN_PUBLIC.encode()).fetchall()]
    conn.execute("drop function probe.statement")
    return found


def test_no_statement_depends_on_anything_in_public(hostile: psycopg.Connection) -> None:
    texts = {name: each.numbered for name, each in load().items() if name not in NO_QUERIES}
    assert depends_on(hostile, "select 'a'::text || 1::bigint, unnest(array['a'])") != []
    found: dict[str, object] = {}
    for name, text in texts.items():
        try:
            found[name] = depends_on(hostile, text)
        except psycopg.Error as error:  # what is in public was taken for what was meant
            found[name] = str(error)
    called = {name: each for name, each in found.items() if each}
    assert not called, "\n".join(f"{name}: {each}" for name, each in called.items())


def test_every_function_of_postgresql_is_qualified() -> None:
    """Else one with better fitting argument types could be in public."""
    syntax = {
        "all", "and", "any", "array", "as", "coalesce", "conflict", "else", "exists", "extract", "from", "greatest",
        "in", "join", "lateral", "least", "materialized", "not", "nullif", "over", "select", "then", "update", "using",
        "values", "where", "filter", "on", "or", "when", "by", "row", "with", "distinct", "unnest",
    }  # fmt: skip
    for name, statement in load().items():
        text = re.sub(r"'[^']*'", "''", statement.numbered)
        called = set(re.findall(r"(?<![\w.:])([a-z_][a-z0-9_]*)\(", text)) - syntax
        # The names of columns follow: of a CTE, a function's result, the table of an insert.
        named = set(re.findall(r"([a-z_]+)\([a-z_, ]*(?: [a-z0-9_\[\]]+)?[^()]*\)\s+as\s", text))
        named |= set(re.findall(r"(?:\bas\s+|\)\s*)([a-z_]+)\(", text))
        assert called - named == set(), name


def trapped(dsn: str) -> None:
    """Functions and operators that PostgreSQL would take before its own raise an error."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(HOSTILE.encode())


def test_an_administrator_migrates_and_makes_roles(empty_dsn: str) -> None:
    trapped(empty_dsn)
    schema.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        assert schema.version(conn) == schema.EXPECTED
        conn.execute(script("roles", schema="pgqueue", roles="trapped_").encode())
        for role in (
            "operator",
            "readonly",
            "worker",
            "emitter",
            "sql_producer",
            "producer",
            "migrator",
        ):
            conn.execute(f"drop owned by trapped_{role}; drop role trapped_{role}".encode())
        conn.execute(
            "reassign owned by trapped_owner to current_user; drop owned by trapped_owner; drop role trapped_owner"
        )
    schema.downgrade(empty_dsn)


async def test_an_administrator_enqueues_and_works(dsn: str) -> None:
    trapped(dsn)
    app, ran = App(dsn), []

    @app.task(name="t", every="1h")
    async def task(number: int = 0) -> None:
        ran.append(number)

    task.enqueue(1)
    await task.aenqueue(2)
    app.enqueue_many([task.call(number) for number in range(3, 900)])
    with psycopg.connect(dsn) as conn:
        task.on(conn).enqueue(900)
    await drain(app)
    assert sorted(ran) == list(range(1, 901))
    assert app.client.jobs() is not None
    await app.aclose()
