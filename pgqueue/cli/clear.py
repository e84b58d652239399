"""The command that deletes jobs."""

from __future__ import annotations

import click

from pgqueue.app import App
from pgqueue.cli.batches import in_batches
from pgqueue.cli.change import matching
from pgqueue.cli.options import filter_options, json_option, on_database, yes_option
from pgqueue.cli.output import jobs_of, print_json
from pgqueue.cli.terminal import ask, say
from pgqueue.job import Status
from pgqueue.operations.jobs import Filter

STATUSES = [status.value for status in Status if status is not Status.RUNNING]


@click.command("clear")
@click.option("--status", type=click.Choice(STATUSES), default="pending", show_default=True,
              help="Delete jobs of this status.")  # fmt: skip
@on_database
@filter_options
@click.option("--dry-run", is_flag=True, help="Only say how many it would delete.")
@yes_option
@json_option
def clear_command(
    app: App, status: str, where: Filter, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Delete jobs with their attempts: pending ones, those that wait for a retry as well, or others.

    Running jobs stay: cancel those.
    """
    ids = matching(app, where, status)
    if dry_run:
        if as_json:
            print_json({"would_clear": len(ids)})
        else:
            say(f"would delete: {jobs_of(len(ids), status)}")
        return
    if ids and not yes:
        ask(f"Delete {jobs_of(len(ids), status)}?")
    cleared = in_batches(
        "cleared", ids, lambda batch: app.client.clear(where, status=status, job_ids=batch)
    )
    if as_json:
        print_json({"cleared": len(cleared)})
    else:
        say(f"cleared: {jobs_of(len(cleared))}")
