"""Commands that change chosen jobs: retry, cancel."""

from __future__ import annotations

import json
from typing import Any

import click

from pgqueue.app import App
from pgqueue.cli.batches import BATCH, in_batches
from pgqueue.cli.options import filter_options, json_option, on_database, yes_option
from pgqueue.cli.output import jobs_of, print_json
from pgqueue.client import Client
from pgqueue.errors import ConfigError, JobNotFound
from pgqueue.job import Status
from pgqueue.operations.jobs import Filter


@click.command("retry")
@click.argument("job_ids", metavar="[ID]...", nargs=-1, type=int)
@click.option("--all", "everything", is_flag=True, help="Every dead job.")
@on_database
@filter_options
@click.option(
    "--args", "arguments", metavar="JSON", help="Run one job with these arguments instead."
)
@yes_option
@json_option
def retry_command(
    app: App,
    job_ids: tuple[int, ...],
    everything: bool,
    where: Filter,
    arguments: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Put dead or cancelled jobs back as pending, with all their retries: by ID, or dead ones by filter."""
    if not job_ids and not everything and where == Filter():
        raise ConfigError("which jobs? give IDs, a filter such as --task NAME, or --all")
    if job_ids and (everything or where != Filter()):
        raise ConfigError("give IDs or filters, not both")
    edited = _edited(arguments, job_ids)
    if edited is not None:
        done = [job_ids[0]] if app.client.retry(job_ids[0], args=edited) else []
    elif job_ids:
        done = app.client.retry_many(job_ids)
    else:
        done = _retry_matching(app.client, where, yes)
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


def _retry_matching(client: Client, where: Filter, yes: bool) -> list[int]:
    total = client.count(where, status=Status.DEAD)
    if total and not yes:
        click.confirm(f"Retry {jobs_of(total, 'dead')}?", abort=True, err=True)
    return in_batches("retrying", total, lambda: client.retry_many(None, where, limit=BATCH))


@click.command("cancel")
@click.argument("job_ids", metavar="ID...", nargs=-1, type=int, required=True)
@on_database
@json_option
def cancel_command(app: App, job_ids: tuple[int, ...], as_json: bool) -> None:
    """Cancel pending jobs; ask the workers of running ones to stop them."""
    statuses = app.client.cancel(*job_ids)
    missed = {i: _why_not(app.client, i) for i in job_ids if i not in statuses}
    asked = [i for i, status in statuses.items() if status is Status.RUNNING]
    if asked and not as_json:
        click.echo(f"asked to stop: {_some(asked)}")
    done = [i for i, status in statuses.items() if status is not Status.RUNNING]
    _report("cancelled", done if not as_json else list(statuses), missed, as_json)


def _why_not(client: Client, job_id: int) -> str:
    try:
        job = client.job(job_id)
    except JobNotFound:
        return "does not exist"
    if job.unique_key is not None and job.status in (Status.DEAD, Status.CANCELLED):
        return f"is {job.status.value}, and another job has its unique key: cancel that one first"
    return f"is {job.status.value}"


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
    return jobs_of(len(job_ids)) + (f" ({listed})" if listed else "")
