"""The command that gives a developer everything at once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

from pgqueue import config
from pgqueue import schema as schemas
from pgqueue.cli.application import load_app
from pgqueue.cli.options import connection_options
from pgqueue.cli.terminal import say
from pgqueue.config import DEV_FILE
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

    The worker starts again whenever Python files here change. Meanwhile other commands, and Python, that
    start in this directory without a DSN use the same database.
    """
    logs.set_up("text", "info")
    app = load_app(path)
    settings = config.load().settings
    command = [sys.executable, "-m", "pgqueue", "work", "--app", path, "-c", str(concurrency)]
    with ExitStack() as stack:
        if embedded := dsn is None and not any(app.dsns):
            # An App() without a DSN of its own reads it there, in the worker as well: a command line
            # can be read by every user of the machine.
            os.environ["PGQUEUE_DSN"] = dsn = stack.enter_context(embedded_postgres(data.resolve()))
            data.joinpath(".gitignore").write_text("*\n", "utf-8")
            say(f"PostgreSQL: PGQUEUE_DSN={dsn}")
        else:
            say(f"PostgreSQL: {', '.join(map(describe, [dsn] if dsn else app.dsns))}")
        app.use(dsn=dsn, schema=schema)
        if embedded:
            stack.enter_context(found_from(Path.cwd(), app.dsn, app.schema))
        for each in app.dsns:
            schemas.upgrade(each, schema=app.schema)
        say("working; Ctrl-C ends it")
        for option, value in (("--dsn", None if embedded else dsn), ("--schema", schema)):
            command += [option, value] if value is not None else []
        Supervisor(command, 1, grace=settings.grace, watch=Path.cwd()).run()


@contextmanager
def found_from(directory: Path, dsn: str, schema: str) -> Iterator[None]:
    """Let other commands and Python find the server from this directory, while it runs."""
    file = directory / DEV_FILE
    file.parent.mkdir(mode=0o700, exist_ok=True)
    ignored = file.parent / ".gitignore"
    if made := not ignored.exists():  # the server keeps its data elsewhere
        ignored.write_text("*\n", "utf-8")
    text = json.dumps({"dsn": dsn, "schema": schema, "pid": os.getpid()})
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)  # it may hold a password
    new.replace(file)
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()
            if made:
                ignored.unlink()
                file.parent.rmdir()
