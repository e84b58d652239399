"""The command that creates and upgrades the schema."""

from __future__ import annotations

import click
import psycopg

from pgqueue import config
from pgqueue import schema as schemas
from pgqueue.cli.options import databases_option, one_by_one, schema_option
from pgqueue.cli.terminal import ask, say, write
from pgqueue.connect import connect_sync
from pgqueue.errors import SchemaError


@click.command("migrate")
@databases_option
@schema_option
@click.option(
    "--check", is_flag=True, help="Only say whether it is up to date; exit code 4 if not."
)
@click.option("--sql", "as_sql", is_flag=True, help="Print the SQL instead of running it.")
@click.option("--wait", default="30s", show_default=True, metavar="DURATION",
              help="How long to try again while others hold locks on the tables.")  # fmt: skip
@click.option("--to", default="head", metavar="VERSION", help='A version such as 1, or "base".')
@click.option(
    "--yes", "-y", is_flag=True, help="Do not ask before --to base, which drops all jobs."
)
def migrate_command(
    dsn: tuple[str, ...],
    schema: str | None,
    check: bool,
    as_sql: bool,
    wait: str,
    to: str,
    yes: bool,
) -> None:
    """Create or upgrade the schema. Safe to run twice, and at once from many places."""
    settings = config.load()
    schema = schema or settings.schema
    if as_sql:
        write(schemas.sql(schema=schema, to=to), nl=False)
        return
    for each in one_by_one(dsn):
        database = each or settings.dsn or ""
        if check:
            _check(database, schema)
        else:
            _bring(database, schema, to=to, wait=wait, yes=yes)


def _check(dsn: str, schema: str) -> None:
    found = _stamp(dsn, schema)
    schemas.check(found)
    with connect_sync(dsn) as connection:
        for remark in schemas.remarks(connection, schema=schema):
            say(remark, err=True)
    say(f"schema {schema} is at version {found.version if found else 0}, as needed")


def _bring(dsn: str, schema: str, *, to: str, wait: str, yes: bool) -> None:
    stamp = _stamp(dsn, schema)
    before = None if stamp is None else stamp.version
    if to == "base" or (before is not None and to.isdecimal() and int(to) < before):
        if not yes:
            ask("Going back drops jobs or columns. Go on?")
        schemas.downgrade(dsn, schema=schema, to=to, wait=wait)
    else:
        if before is not None and before > schemas.EXPECTED:
            schemas.check(stamp)
            say(f"schema {schema}: version {before} is newer than this one's, and serves it")
            return
        schemas.upgrade(dsn, schema=schema, to=to, wait=wait)
    after = _stamp(dsn, schema)
    if after == stamp:
        say(f"schema {schema} is at version {before or 'none'} already: nothing to do")
        return
    say(f"schema {schema}: version {before or 'none'} -> {after.version if after else 'none'}")


def _stamp(dsn: str, schema: str) -> schemas.Stamp | None:
    try:
        with connect_sync(dsn) as connection:
            return schemas.stamp(connection, schema=schema)
    except psycopg.errors.InvalidCatalogName as error:
        raise SchemaError(str(error).strip()) from None
