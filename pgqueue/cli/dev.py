"""The command that gives a developer everything at once."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from pgqueue import schema as schemas
from pgqueue.cli.application import load_app
from pgqueue.cli.options import connection_options
from pgqueue.connect import describe
from pgqueue.embedded import embedded_postgres
from pgqueue.worker import logs
from pgqueue.worker.supervisor import Supervisor


@click.command("dev")
@click.argument("path", metavar="MODULE:NAME")
@connection_options
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), default=Path(".pgqueue"),
              show_default=True, help="Where the embedded PostgreSQL keeps its data.")  # fmt: skip
@click.option("--concurrency", "-c", type=int, default=20, show_default=True)
def dev_command(
    path: str, dsn: str | None, schema: str | None, data: Path, concurrency: int
) -> None:
    """Start an embedded PostgreSQL (unless a DSN is given), migrate, and work, until Ctrl-C.

    The worker starts again whenever Python files here change.
    """
    logs.set_up("text", "info")
    app = load_app(path)
    command = [sys.executable, "-m", "pgqueue", "work", "--app", path, "-c", str(concurrency)]
    with ExitStack() as stack:
        if dsn is None and not any(app.dsns):
            # An App() without a DSN of its own reads it there, in the worker as well.
            os.environ["PGQUEUE_DSN"] = dsn = stack.enter_context(embedded_postgres(data.resolve()))
            data.joinpath(".gitignore").write_text("*\n", "utf-8")
            click.echo(f"PostgreSQL: PGQUEUE_DSN={dsn}")
        else:
            click.echo(f"PostgreSQL: {', '.join(map(describe, [dsn] if dsn else app.dsns))}")
        app.use(dsn=dsn, schema=schema)
        for each in app.dsns:
            schemas.upgrade(each, schema=app.schema)
        click.echo("working; Ctrl-C ends it")
        for option, value in (("--dsn", dsn), ("--schema", schema)):
            command += [option, value] if value is not None else []
        Supervisor(command, 1, watch=Path.cwd()).run()
