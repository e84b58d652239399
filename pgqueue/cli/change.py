"""Commands that change jobs and queues: retry, cancel, clear, pause, resume."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from pgqueue.cli.options import (
    connection_options,
    filter_options,
    json_option,
    opened,
    where,
    yes_option,
)
from pgqueue.cli.output import print_json
from pgqueue.client import Client
from pgqueue.errors import ConfigError, JobNotFound
from pgqueue.job import Status
from pgqueue.operations.jobs import Filter

BATCH = 1000


@click.command("retry")
@click.argument("job_ids", metavar="[ID]...", nargs=-1, type=int)
@click.option("--all", "everything", is_flag=True, help="Every dead job.")
@connection_options
@filter_options
@click.option(
    "--args", "arguments", metavar="JSON", help="Run one job with these arguments instead."
)
@yes_option
@json_option
def retry_command(
    job_ids: tuple[int, ...],
    everything: bool,
    dsn: str | None,
    schema: str | None,
    queue: str | None,
    task: str | None,
    error: str | None,
    since: str | None,
    arguments: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Put dead or cancelled jobs back as pending, with all their retries: by ID, or dead ones by filter."""
    chosen = where(queue, task, error, since)
    if not job_ids and not everything and chosen == Filter():
        raise ConfigError("which jobs? give IDs, a filter such as --task NAME, or --all")
    if job_ids and (everything or chosen != Filter()):
        raise ConfigError("give IDs or filters, not both")
    edited = _edited(arguments, job_ids)
    with opened(dsn, schema) as app:
        if edited is not None:
            done = [job_ids[0]] if app.client.retry(job_ids[0], args=edited) else []
        elif job_ids:
            done = app.client.retry_many(job_ids)
        else:
            if not yes:
                click.confirm("Retry all dead jobs that match?", abort=True, err=True)
            done = _retry_all(app.client, chosen)
        missed = {i: _why_not(app.client, i) for i in job_ids if i not in done}
    _report("retried", done, missed, as_json)


def _edited(arguments: str | None, job_ids: tuple[int, ...]) -> dict[str, Any] | None:
    if arguments is None:
        return None
    if len(job_ids) != 1:
        raise ConfigError("--args goes with exactly one ID")
    return json_object(arguments)


def json_object(text: str) -> dict[str, Any]:
    """The value of --args.

    Raises:
        ConfigError: it is not a JSON object.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--args is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError("--args must be a JSON object with one key per parameter")
    return value


def _retry_all(client: Client, chosen: Filter) -> list[int]:
    done: list[int] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("retrying", total=None)
        while batch := client.retry_many(None, chosen, limit=BATCH):
            done += batch
            progress.update(bar, completed=len(done))
    return done


@click.command("cancel")
@click.argument("job_ids", metavar="ID...", nargs=-1, type=int, required=True)
@connection_options
@json_option
def cancel_command(
    job_ids: tuple[int, ...], dsn: str | None, schema: str | None, as_json: bool
) -> None:
    """Cancel pending jobs; ask the workers of running ones to stop them."""
    with opened(dsn, schema) as app:
        statuses = app.client.cancel(*job_ids)
        missed = {i: _why_not(app.client, i) for i in job_ids if i not in statuses}
    asked = [i for i, status in statuses.items() if status is Status.RUNNING]
    if asked and not as_json:
        click.echo(f"asked to stop: {_some(asked)}")
    done = [i for i, status in statuses.items() if status is not Status.RUNNING]
    _report("cancelled", done if not as_json else list(statuses), missed, as_json)


def _why_not(client: Client, job_id: int) -> str:
    try:
        return f"is {client.job(job_id).status.value}"
    except JobNotFound:
        return "does not exist"


def _report(verb: str, done: list[int], missed: dict[int, str], as_json: bool) -> None:
    if as_json:
        print_json({verb: done, "not": missed})
    else:
        click.echo(f"{verb}: {_some(done)}")
        for job_id, why in missed.items():
            click.echo(f"not {verb}: job {job_id} {why}", err=True)
    if missed:
        raise click.exceptions.Exit(1)


def _some(job_ids: list[int]) -> str:
    listed = ", ".join(map(str, job_ids[:20])) + (", ..." if len(job_ids) > 20 else "")
    return f"{len(job_ids)} job{'' if len(job_ids) == 1 else 's'}" + (
        f" ({listed})" if listed else ""
    )


@click.command("clear")
@connection_options
@click.option("--queue", metavar="NAME", help="Only this queue.")
@click.option("--task", metavar="NAME", help="Only this task.")
@yes_option
@json_option
def clear_command(
    dsn: str | None,
    schema: str | None,
    queue: str | None,
    task: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete pending jobs, those that wait for a retry as well. Running and finished ones stay."""
    chosen = where(queue, task)
    with opened(dsn, schema) as app:
        total = app.client.count_pending(chosen)
        if not yes and total:
            click.confirm(f"Delete {total:,} pending jobs?", abort=True, err=True)
        cleared = 0
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("clearing", total=total or 1)
            while batch := app.client.clear(chosen, limit=BATCH):
                cleared += len(batch)
                progress.update(bar, completed=cleared)
    if as_json:
        print_json({"cleared": cleared})
    else:
        click.echo(f"cleared: {cleared:,} jobs")


@click.command("pause")
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
@connection_options
def pause_command(queues: tuple[str, ...], dsn: str | None, schema: str | None) -> None:
    """Stop claims from queues. Jobs that run go on; new ones wait."""
    with opened(dsn, schema) as app:
        for queue in queues:
            app.client.pause(queue)
            click.echo(f"paused: {queue}")


@click.command("resume")
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
@connection_options
def resume_command(queues: tuple[str, ...], dsn: str | None, schema: str | None) -> None:
    """Let paused queues be claimed from again."""
    with opened(dsn, schema) as app:
        for queue in queues:
            known = app.client.resume(queue)
            click.echo(f"resumed: {queue}" if known else f"was not paused: {queue}")
