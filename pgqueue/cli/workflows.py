"""Commands on workflows: workflows, workflow."""

from __future__ import annotations

import click

from pgqueue.app import App
from pgqueue.cli.cells import error_cell
from pgqueue.cli.options import ID, json_option, on_database, yes_option
from pgqueue.cli.output import ago, count, print_json, print_table, printable
from pgqueue.cli.terminal import ask, say
from pgqueue.errors import ConfigError
from pgqueue.operations.workflows import MOST_PARENTS, STATES, MemberRow, WorkflowRow

SHOWN, NAMED = 200, 3


@click.command("workflows")
@on_database
@click.option("--status", type=click.Choice(STATES), help="Only these.")
@click.option("--name", metavar="NAME", help="Only those of this name.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--before", type=ID, metavar="ID", help="Go on below this id.")
@json_option
def workflows_command(
    app: App, status: str | None, name: str | None, limit: int, before: int | None, as_json: bool
) -> None:
    """List workflows, newest first, with their jobs by status."""
    found = app.client.workflows(name=name, status=status, limit=limit, before=before)
    if as_json:
        print_json(found)
    elif not found:
        say("no such workflows")
    else:
        columns = ("blocked", "pending", "running", "succeeded", "dead", "cancelled")
        print_table(
            ["#id", "name", "#status", *(f"#{name}" for name in columns), "#enqueued"],
            [
                [w.id, w.name or "-", w.status, *(_some(getattr(w, name)) for name in columns),
                 ago(w.created_at)]
                for w in found
            ],
        )  # fmt: skip


@click.command("workflow")
@click.argument("workflow_id", metavar="ID", type=ID)
@click.option("--cancel", is_flag=True, help="Cancel all its jobs that have not ended.")
@click.option("--retry", is_flag=True, help="Put its dead and cancelled jobs back.")
@on_database
@yes_option
@json_option
def workflow_command(
    app: App, workflow_id: int, cancel: bool, retry: bool, yes: bool, as_json: bool
) -> None:
    """Show one workflow with its jobs, and which of them waits for which; or cancel or retry the whole."""
    if cancel and retry:
        raise ConfigError("--cancel or --retry, not both")
    workflow = app.client.workflow(workflow_id)
    if cancel or retry:
        if not yes:
            verb = "Cancel" if cancel else "Retry"
            ask(f"{verb} workflow {workflow_id}?")
        act = app.client.cancel_workflow if cancel else app.client.retry_workflow
        _report("cancelled" if cancel else "retried", act(workflow_id), as_json)
        return
    jobs = app.client.workflow_jobs(workflow_id, limit=10_000 if as_json else SHOWN)
    if as_json:
        print_json({"workflow": workflow, "jobs": jobs})
        return
    say(
        f"workflow {workflow.id} {printable(workflow.name)}: {workflow.status}, {workflow.jobs} jobs"
        + _deadline(workflow)
    )
    print_table(
        ["#id", "name", "task", "#status", "waits for", "last error"],
        [
            [j.id, j.name or "-", j.task, j.status, _after(j), error_cell(j.last_error)]
            for j in jobs
        ],
    )
    if workflow.jobs > len(jobs):
        say(f"and {workflow.jobs - len(jobs)} more: --json shows 10,000")


def _deadline(workflow: WorkflowRow) -> str:
    if workflow.expired_at is not None and workflow.deadline_at is not None:
        return (
            f"; its deadline passed {ago(workflow.deadline_at)}, what had not ended was cancelled"
        )
    return "" if workflow.deadline_at is None else f"; deadline {ago(workflow.deadline_at)}"


def _some(number: int) -> str:
    return count(number) if number else "-"


def _report(verb: str, jobs: int, as_json: bool) -> None:
    if as_json:
        print_json({verb: jobs})
    else:
        say(f"{verb}: {jobs} jobs")


def _after(job: MemberRow) -> str:
    if not job.after:
        return "-"
    shown = ", ".join(map(str, job.after[:NAMED]))
    if (more := len(job.after) - NAMED) > 0:
        shown += f" and {more}{'+' if len(job.after) == MOST_PARENTS else ''} more"
    return shown if job.if_failed == "cancel" else f"{shown} ({job.if_failed})"
