"""Commands that change chosen jobs: retry, cancel, change."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import click

from pgqueue.app import App
from pgqueue.cli.application import app_that_knows
from pgqueue.cli.batches import in_batches
from pgqueue.cli.names import warn_of_unknown
from pgqueue.cli.options import ID, filter_options, json_option, on_database, yes_option
from pgqueue.cli.output import jobs_of, print_json
from pgqueue.cli.terminal import ask, say
from pgqueue.client import Client, listed
from pgqueue.errors import ConfigError, JobNotFound
from pgqueue.job import JobRow, Status
from pgqueue.operations.jobs import UNFINISHED, Change, Filter


@click.command("retry")
@click.argument("job_ids", metavar="[ID]...", nargs=-1, type=ID)
@click.option("--all", "everything", is_flag=True, help="Every dead job.")
@on_database
@filter_options
@click.option(
    "--args", "arguments", metavar="JSON", help="Run one job with these arguments instead."
)
@click.option(
    "--from-step",
    metavar="NAME",
    help="Do this step again, and all that began after it; only jobs that have it.",
)
@click.option(
    "--app",
    "path",
    metavar="MODULE:NAME",
    help="With --args: says which to encrypt; default PGQUEUE_APP.",
)
@yes_option
@json_option
def retry_command(
    app: App,
    job_ids: tuple[int, ...],
    everything: bool,
    where: Filter,
    arguments: str | None,
    from_step: str | None,
    path: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Put dead or cancelled jobs back as pending, with all their retries: by ID, or dead ones by filter."""
    _which(job_ids, everything, where)
    edited = _edited(arguments, job_ids)
    if edited is not None:
        done = _retry_edited(app, job_ids[0], edited, path, from_step)
    elif job_ids:
        done = app.client.retry_many(job_ids, from_step=from_step)
    else:
        done = _retry_matching(app, where, from_step, yes)

    def against(job: JobRow) -> str:
        return _against_retry(app.client, job, from_step)

    missed = {i: _why_not(app.client, i, against) for i in job_ids if i not in done}
    _report("retried", done, missed, as_json)


def _retry_edited(
    app: App, job_id: int, args: dict[str, Any], path: str | None, from_step: str | None
) -> list[int]:
    try:
        task = app.client.job(job_id).task
    except JobNotFound:
        return []
    with app_that_knows(task, path, app) as known:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            done = known.client.retry(job_id, args=args, from_step=from_step)
    for each in said if done else ():
        say(f"warning: {each.message}", err=True)
    return [job_id] if done else []


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


def _retry_matching(app: App, where: Filter, from_step: str | None, yes: bool) -> list[int]:
    ids = matching(app, where, Status.DEAD)
    if ids and not yes:
        ask(f"Retry {jobs_of(len(ids), 'dead')}?")

    def act(batch: Sequence[int]) -> list[int]:
        return app.client.retry_many(batch, where, status=Status.DEAD, from_step=from_step)

    return in_batches("retried", ids, act)


@click.command("cancel")
@click.argument("job_ids", metavar="[ID]...", nargs=-1, type=ID)
@click.option("--all", "everything", is_flag=True, help="Every job that has not ended.")
@on_database
@filter_options
@click.option("--dry-run", is_flag=True, help="Only say how many it would cancel.")
@yes_option
@json_option
def cancel_command(
    app: App,
    job_ids: tuple[int, ...],
    everything: bool,
    where: Filter,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Cancel pending jobs; ask the workers of running ones to stop them: by ID, or by filter."""
    _which(job_ids, everything, where)
    if job_ids:
        statuses = app.client.cancel(*job_ids)
    else:
        ids = matching(app, where, *UNFINISHED)
        if not _agreed("cancel", len(ids), "unfinished", dry_run, yes, as_json):
            return
        statuses = _cancel_matching(app.client, where, ids)
    missed = {i: _why_not(app.client, i) for i in job_ids if i not in statuses}
    asked = [i for i, status in statuses.items() if status is Status.RUNNING]
    if asked and not as_json:
        say(f"asked to stop: {_some(asked)}")
    done = [i for i, status in statuses.items() if status is not Status.RUNNING]
    _report("cancelled", done if not as_json else list(statuses), missed, as_json)


def _cancel_matching(client: Client, where: Filter, ids: list[int]) -> dict[int, Status]:
    statuses: dict[int, Status] = {}

    def act(batch: Sequence[int]) -> list[int]:
        found = client.cancel_many(where, job_ids=batch)
        statuses.update(found)
        return list(found)

    in_batches("cancelled", ids, act)
    return statuses


@click.command("change")
@click.argument("job_ids", metavar="[ID]...", nargs=-1, type=ID)
@click.option("--all", "everything", is_flag=True, help="Every pending job.")
@click.option("--to-queue", metavar="NAME", help="The queue they go to.")
@click.option("--priority", type=int, metavar="N", help="Higher runs first.")
@click.option("--run-at", metavar="TIME", help="With a time zone: 2026-12-24T18:00+01:00.")
@click.option("--delay", metavar="DURATION", help="From now, such as 10m; 0 for at once.")
@on_database
@filter_options
@click.option("--dry-run", is_flag=True, help="Only say how many it would change.")
@yes_option
@json_option
def change_command(
    app: App,
    job_ids: tuple[int, ...],
    everything: bool,
    to_queue: str | None,
    priority: int | None,
    run_at: str | None,
    delay: str | None,
    where: Filter,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Give pending jobs another queue, priority or time: by ID, or by filter."""
    _which(job_ids, everything, where)
    to = Change(to_queue, priority, None if run_at is None else _time(run_at), delay)
    to.values()
    warn_of_unknown(app, queues=[] if to_queue is None else [to_queue])
    if job_ids:
        done = app.client.change(job_ids, to=to)
    else:
        ids = matching(app, where, Status.PENDING)
        if not _agreed("change", len(ids), "pending", dry_run, yes, as_json):
            return
        done = in_batches("changed", ids, lambda batch: app.client.change(batch, where, to=to))
    missed = {i: _why_not(app.client, i) for i in job_ids if i not in done}
    _report("changed", done, missed, as_json)


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"--run-at is not a time: {text!r}; like 2026-12-24T18:00+01:00"
        ) from None


def _which(job_ids: tuple[int, ...], everything: bool, where: Filter) -> None:
    if not job_ids and not everything and where == Filter():
        raise ConfigError("which jobs? give IDs, a filter such as --task NAME, or --all")
    if job_ids and (everything or where != Filter()):
        raise ConfigError("give IDs or filters, not both")


def _agreed(verb: str, total: int, kind: str, dry_run: bool, yes: bool, as_json: bool) -> bool:
    """Say what would be done, or ask; False when there is nothing to be done now."""
    if dry_run and as_json:
        print_json({f"would_{verb}": total})
    elif dry_run:
        say(f"would {verb}: {jobs_of(total, kind)}")
    elif total and not yes:
        ask(f"{verb.capitalize()} {jobs_of(total, kind)}?")
    return not dry_run


def matching(app: App, where: Filter, *statuses: Status | str) -> list[int]:
    """The ids of the jobs that match; when there are none, the filter may be misspelt."""
    if not (ids := app.client.matching(where, *statuses)):
        warn_of_filter(app, where)
    return ids


def warn_of_filter(app: App, where: Filter) -> None:
    """Say which of the names that it filters by nothing here has."""
    warn_of_unknown(
        app,
        queues=[where.queue] if where.queue else [],
        tasks=[where.task] if where.task else [],
    )


def _why_not(client: Client, job_id: int, against: Callable[[JobRow], str] = lambda job: "") -> str:
    try:
        job = client.job(job_id)
    except JobNotFound:
        return "does not exist"
    return f"is {job.status.value}{against(job)}"


def _against_retry(client: Client, job: JobRow, from_step: str | None) -> str:
    """What keeps a job that is dead or cancelled from being put back."""
    if job.status not in (Status.DEAD, Status.CANCELLED):
        return ""
    if from_step is not None and from_step not in (names := client.step_names(job.id)):
        return f", and has no step {from_step!r}; it has: {listed(names) or 'none'}"
    if job.unique_key is not None:
        return ", and another job has its unique key: cancel that one first"
    if job.workflow_id is not None:
        return (
            ", and would be cancelled again: retry what failed before it, or all that failed:"
            f" pgqueue workflow {job.workflow_id} --retry"
        )
    return ""


def _report(verb: str, done: list[int], missed: dict[int, str], as_json: bool) -> None:
    if as_json:
        print_json({verb: done, "not": missed})
    else:
        say(f"{verb}: {_some(done)}")
        for job_id, why in missed.items():
            say(f"not {verb}: job {job_id} {why}", err=True)
    if missed:
        raise click.exceptions.Exit(1)


def _some(job_ids: list[int]) -> str:
    listed = ", ".join(map(str, job_ids[:20])) + (", ..." if len(job_ids) > 20 else "")
    return jobs_of(len(job_ids)) + (f" ({listed})" if listed else "")
