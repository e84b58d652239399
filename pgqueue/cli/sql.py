"""Commands that print SQL for somebody else to run."""

from __future__ import annotations

import click

from pgqueue import config
from pgqueue.cli.options import schema_option
from pgqueue.cli.terminal import write
from pgqueue.roles import check_prefix
from pgqueue.sql import script


@click.group("sql")
def sql_command() -> None:
    """Print SQL that you review and run yourself."""


@sql_command.command("roles")
@schema_option
@click.option(
    "--prefix", metavar="TEXT", help="What the names start with; default: the schema's name and _."
)
def roles_command(schema: str | None, prefix: str | None) -> None:
    """Roles of least privilege: owner, migrator, producer, sql_producer, emitter, worker, readonly, operator.

    It makes no passwords and no role that can log in: grant these to your users. Run it after
    "pgqueue migrate", as often as you like:

        pgqueue sql roles | psql -v ON_ERROR_STOP=1 "$ADMIN_DSN"
    """
    schema = schema or config.load().schema
    prefix = check_prefix(f"{schema}_"[:40] if prefix is None else prefix)
    write(script("roles", schema=schema, roles=prefix), nl=False)
