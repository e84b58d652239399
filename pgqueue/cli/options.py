"""Options that many commands share, and what they become."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar

import click

from pgqueue.app import App
from pgqueue.cli.terminal import say
from pgqueue.connect import describe
from pgqueue.errors import ConfigError
from pgqueue.operations.jobs import Filter

F = TypeVar("F", bound=Callable[..., Any])

ID = click.IntRange(max=2**63 - 1)  # a bigint

dsn_option = click.option("--dsn", metavar="DSN", help="The database; default PGQUEUE_DSN.")
databases_option = click.option(
    "--dsn", multiple=True, metavar="DSN", help="The database; default PGQUEUE_DSN. Repeatable."
)
schema_option = click.option("--schema", metavar="NAME", help="Its schema; default pgqueue.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
app_option = click.option(
    "--app", "path", metavar="MODULE:NAME", help="Its tasks say what to mask; default PGQUEUE_APP."
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def connection_options(command: F) -> F:
    """--dsn and --schema, as they were given."""
    return dsn_option(schema_option(command))


def on_database(command: Callable[..., None]) -> Callable[..., None]:
    """--dsn and --schema; the command gets ``app``, an app without tasks, for its length.

    With several it runs for one after the other, under headings that go to stderr.
    """

    @databases_option
    @schema_option
    @wraps(command)
    def opened(*, dsn: tuple[str, ...], schema: str | None, **others: Any) -> None:
        if len(dsn) > 1 and (others.get("job_id") or others.get("job_ids")):
            raise ConfigError("an id belongs to one database: give one --dsn")
        for each in one_by_one(dsn):
            with App(each, schema=schema) as app:
                command(app=app, **others)

    return opened


def one_by_one(dsns: tuple[str, ...]) -> Iterator[str | None]:
    """Each database, with a heading if there are several; None for the one nobody named."""
    for dsn in dsns or (None,):
        if len(dsns) > 1:
            say(f"{describe(str(dsn))}:", err=True)
        yield dsn


def filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """--queue, --task, --error and --since; the command gets one Filter, ``where``."""

    @click.option("--queue", metavar="NAME", help="Only this queue.")
    @click.option("--task", metavar="NAME", help="Only this task.")
    @click.option("--error", metavar="TEXT", help="Only with this text in the last error.")
    @click.option("--since", metavar="DURATION", help='Only the latest, such as "2h".')
    @wraps(command)
    def filtered(
        *, queue: str | None, task: str | None, error: str | None, since: str | None, **others: Any
    ) -> None:
        where = Filter(queue, task, error, since)
        where.values()  # refuses what is wrong before a connection is opened
        command(where=where, **others)

    return filtered
