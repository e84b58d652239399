"""The command that runs jobs."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from pgqueue.app import App
from pgqueue.cli.application import load_app
from pgqueue.cli.options import databases_option, schema_option
from pgqueue.connect import NONE_GIVEN, is_given
from pgqueue.errors import ConfigError
from pgqueue.worker import Worker, logs
from pgqueue.worker.admission import POOLED, admit
from pgqueue.worker.database import Database, DatabaseAway
from pgqueue.worker.pools import pools, say_tasks
from pgqueue.worker.supervisor import Supervisor, exit_with_supervisor, supervised

log = logging.getLogger("pgqueue.worker")


@click.command("work")
@click.option("--app", "path", metavar="MODULE:NAME", help="Your App; default PGQUEUE_APP.")
@databases_option
@schema_option
@click.option("--queue", "-q", "queues", multiple=True, metavar="NAME[:N]",
              help="A queue, with N jobs at once; repeatable. Default: all queues.")  # fmt: skip
@click.option("--workers", "-w", default=1, show_default=True, type=click.IntRange(1, 256),
              help="Processes; a crashed one is started again.")  # fmt: skip
@click.option("--concurrency", "-c", type=int, metavar="N", help="Jobs at once in a process.")
@click.option("--drain", is_flag=True, help="End when nothing is due any more.")
@click.option(
    "--max-jobs", type=click.IntRange(1), metavar="N", help="End (be replaced) after N jobs."
)
@click.option("--max-rss", metavar="SIZE",
              help='End (be replaced) when this much memory is resident: "500MB", "1GiB".')  # fmt: skip
@click.option(
    "--lease", metavar="DURATION", help="Claims are valid this long without a sign of life."
)
@click.option("--poll", metavar="DURATION", help="Longest wait between looks at an idle queue.")
@click.option("--grace", metavar="DURATION", help="How long running jobs may go on after SIGTERM.")
@click.option(
    "--keep-succeeded", metavar="DURATION", help='Retention; 0 deletes at once, or "forever".'
)
@click.option("--watch", is_flag=True, help="Start again when Python files here change.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"]),
    default="info",
)
def work_command(
    path: str | None,
    dsn: tuple[str, ...],
    schema: str | None,
    queues: tuple[str, ...],
    workers: int,
    drain: bool,
    max_jobs: int | None,
    watch: bool,
    log_format: str,
    log_level: str,
    **given: Any,
) -> None:
    """Run jobs until SIGTERM or Ctrl-C. A second signal does not wait for the jobs that run."""
    logs.set_up(log_format, log_level)
    app = load_app(path)
    app.use(dsn=dsn or None, schema=schema)
    if not all(map(is_given, app.dsns)) and not supervised():
        log.warning("%s; trying what libpq does without", NONE_GIVEN)
    settings = {name: value for name, value in given.items() if value is not None}
    wanted = parse_queues(queues)
    worker = Worker(app, wanted, drain=drain, max_jobs=max_jobs, **settings)
    command = [sys.executable, "-m", "pgqueue", *sys.argv[1:]]
    if supervised():
        exit_with_supervisor()
    elif workers > 1 or watch:
        asyncio.run(check(app, worker.settings.poll))
        say_tasks(app, pools(wanted, 1))
        supervisor = Supervisor(
            command,
            workers,
            grace=worker.settings.grace,
            drain=drain,
            watch=Path.cwd() if watch else None,
        )
        sys.exit(supervisor.run())
    worker.run_as_process(command)


def parse_queues(given: tuple[str, ...]) -> dict[str, int] | list[str] | None:
    """``mail:20`` or ``mail``; names with a colon of their own need the number.

    Raises:
        ConfigError: a number is missing or wrong.
    """
    if not given:
        return None
    sized: dict[str, int] = {}
    plain: list[str] = []
    for text in given:
        name, colon, size = text.rpartition(":")
        if not colon:
            plain.append(text)
        elif size.isdecimal():
            sized[name] = int(size)
        else:
            raise ConfigError(
                f"--queue {text}: {size!r} is no number; write NAME or NAME:N, also when the name"
                " itself has a colon"
            )
    if sized and plain:
        raise ConfigError(
            f"give every queue a number or none: {', '.join(plain)} has none (mail:20 does)"
        )
    return sized or plain


async def check(app: App, poll: float) -> None:
    """Say once what is wrong or unusual, before processes are started that would each say it.

    One of several databases may serve while others do not: what keeps one from it, the processes say themselves.

    Args:
        poll: seconds between two looks of a worker, for a warning.
    """
    several = len(app.dsns) > 1
    found = await asyncio.gather(
        *(_check(dsn, app.schema, poll) for dsn in app.dsns), return_exceptions=several
    )
    for error in found:
        if isinstance(error, BaseException) and not isinstance(error, Exception):
            raise error


async def _check(dsn: str, schema: str, poll: float) -> None:
    database = Database(dsn, schema)
    try:
        with suppress(DatabaseAway):  # reported; they will wait for it
            await admit(database, schema)
            if database.pooled:
                log.warning(POOLED, poll)
    finally:
        await database.close()
