"""Commands that look: list, stats, jobs, job, dlq."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import click

from pgqueue.app import App
from pgqueue.cli.cells import error_cell
from pgqueue.cli.change import warn_of_filter
from pgqueue.cli.options import ID, app_option, filter_options, json_option, on_database
from pgqueue.cli.output import (
    ago,
    count,
    print_json,
    print_json_list,
    print_table,
    printable,
    say_if_cut,
    to_json,
)
from pgqueue.cli.terminal import say, say_lines
from pgqueue.cli.viewer import Viewer
from pgqueue.job import TOO_LARGE, JobRow, Status
from pgqueue.jsontext import MOST_CLAIMED
from pgqueue.operations.jobs import MOST_LISTED, MOST_PAGE, Filter
from pgqueue.operations.steps import StepRow

PAGE = MOST_PAGE // MOST_LISTED
limit_option = click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 10_000)
)


@click.command("list")
@on_database
@json_option
def list_command(app: App, as_json: bool) -> None:
    """Statistics: jobs by queue and status, and how long the oldest due job has waited.

    Counts stop at 10,000. The views pgqueue.queue_stats, throughput, task_stats and dead_jobs
    have more, in SQL.
    """
    queues = app.client.stats()
    say_if_cut(queues)
    if as_json:
        print_json(queues)
        return
    if not queues:
        say("no jobs yet")
        return
    columns = [
        "queue",
        "#due",
        "#scheduled",
        "#running",
        "#succeeded",
        "#dead",
        "#cancelled",
        "#lag",
    ]
    rows = [
        [
            q.queue + (" (paused)" if q.paused_at else ""),
            *map(count, (q.due, q.scheduled, q.running, q.succeeded, q.dead, q.cancelled)),
            f"{q.lag_seconds:.1f}s" if q.lag_seconds and q.due else "-",
        ]
        for q in queues
    ]
    print_table(columns, rows)


stats_command = click.Command(
    "stats", callback=list_command.callback, params=list_command.params, help="The same as list."
)


@click.command("jobs")
@on_database
@filter_options
@click.option("--status", type=click.Choice([s.value for s in Status]), help="Only this status.")
@limit_option
@click.option("--before", type=ID, metavar="ID", help="Go on below this id.")
@app_option
@json_option
def jobs_command(
    app: App,
    where: Filter,
    status: str | None,
    limit: int,
    before: int | None,
    path: str | None,
    as_json: bool,
) -> None:
    """List jobs, newest first."""
    view = Viewer(app, path, shows_arguments=as_json, lists=True)
    jobs = map(view.job, _jobs(app, where, status, limit, before))
    _print_jobs(jobs, app, where, as_json, "no such jobs")


@click.command("dlq")
@on_database
@filter_options
@limit_option
@app_option
@json_option
def dlq_command(
    app: App,
    where: Filter,
    limit: int,
    path: str | None,
    as_json: bool,
) -> None:
    """List the dead letters: jobs out of retries, newest first. "pgqueue retry ID" puts one back."""
    view = Viewer(app, path, shows_arguments=as_json, lists=True)
    jobs = map(view.job, _jobs(app, where, Status.DEAD, limit, None))
    _print_jobs(jobs, app, where, as_json, "no dead letters")


def _jobs(
    app: App, where: Filter, status: str | None, limit: int, before: int | None
) -> Iterator[JobRow]:
    """Jobs as ``client.jobs`` gives them, a page at a time, of which all arguments that can be listed are listed."""
    while limit > 0:
        page = app.client.jobs(where, status=status, limit=min(limit, PAGE), before=before)
        yield from page
        if len(page) < PAGE:
            return
        limit, before = limit - PAGE, page[-1].id


def _print_jobs(found: Iterator[JobRow], app: App, where: Filter, as_json: bool, none: str) -> None:
    if (first := next(found, None)) is None:
        warn_of_filter(app, where)
        say("[]" if as_json else none)
        return
    jobs = chain([first], found)
    if as_json:
        print_json_list(jobs)
        return
    print_table(
        ["#id", "task", "queue", "#status", "#runs", "#when", "last error"],
        [
            [j.id, j.task, j.queue, j.status, f"{j.attempt}/{j.max_retries + 1}",
             _when(j), error_cell(_why(j))]
            for j in jobs
        ],
    )  # fmt: skip


def _why(job: JobRow) -> str | None:
    if job.waiting_because is not None:
        return f"waits: {job.waiting_because}"
    return job.last_error


def _when(job: JobRow) -> str:
    match job.status:
        case Status.PENDING:
            return f"due {ago(job.run_at)}"
        case Status.BLOCKED:
            return f"since {ago(job.created_at)}"
        case Status.RUNNING if job.claimed_at:
            return f"since {ago(job.claimed_at)}"
        case _:
            return ago(job.finished_at or job.created_at)


def _progress(said: Any) -> str:
    """Rows from SQL may hold anything."""
    if not isinstance(said, dict):
        return to_json(said, indent=None)
    done, total, message = said.get("done"), said.get("total"), said.get("message")
    share = ""
    if isinstance(done, int | float) and isinstance(total, int | float) and total > 0:
        share = f" ({done / total:.0%})"
    return " ".join(
        part for part in (f"{done}" + (f" of {total}" if total is not None else "") + share, message)
        if part
    )  # fmt: skip


def _state(step: StepRow) -> str:
    """Whether a step is done, or what it waits for."""
    if step.finished_at is not None:
        if step.error is not None:
            return (
                f"done {ago(step.finished_at)}, but what it returned cannot be stored: {step.error}"
            )
        if step.waits_for is None:
            return f"done {ago(step.finished_at)}"
        if step.event_id is None:
            return f"timed out {ago(step.finished_at)}"
        which = "" if step.event == step.waits_for else f" with {step.event}"
        return f"done {ago(step.finished_at)}{which}"
    until = "" if step.wakes_at is None else ago(step.wakes_at)
    if step.kind == "step":
        times = "once" if step.failures == 1 else f"{step.failures} times"
        return f"failed {times}, is called again {until}: {step.error}"
    if step.waits_for is not None:
        return f"waits for {step.kind} {step.waits_for}, at most until {until}"
    return f"sleeps, wakes {until}"


@click.command("job")
@click.argument("job_id", metavar="ID", type=ID)
@on_database
@click.option("--show-args", is_flag=True, help="Print its arguments, and its result, as well.")
@click.option("--tracebacks", is_flag=True, help="Those of all attempts, not only of the last.")
@app_option
@json_option
def job_command(
    app: App,
    job_id: int,
    show_args: bool,
    tracebacks: bool,
    path: str | None,
    as_json: bool,
) -> None:
    """Show one job with its attempts and their errors. Secret arguments are masked."""
    row = app.client.job(job_id)
    view = Viewer(app, path, shows_arguments=as_json or show_args)
    job, attempts = view.job(row), view.attempts(row, app.client.attempts(job_id))
    steps = app.client.steps(job_id)
    if as_json:
        print_json({"job": job, "attempts": attempts, "steps": steps})
        return
    for name in ("id", "task", "queue", "status", "priority", "attempt", "max_retries", "crashes",
                 "created_at", "run_at", "claimed_at", "finished_at", "run_seconds", "worker_id",
                 "expires_at", "unique_key", "workflow_id", "progress", "last_error", "waiting_because"):  # fmt: skip
        value = getattr(job, name)
        if value is None:
            continue
        if name == "progress":
            value = _progress(value)
        shown = (
            f"{value:%Y-%m-%d %H:%M:%S %Z} ({ago(value)})" if hasattr(value, "tzinfo") else value
        )
        label = "waits" if name == "waiting_because" else name
        say(f"{label:12} {printable(shown)}")
    if show_args:
        say(f"{'args':12} {printable(to_json(job.args, indent=None))}")
        end = app.client.ends([job_id])[job_id]
        if end.result is not None:
            result = TOO_LARGE if len(end.result) >= MOST_CLAIMED else end.result
            say(f"{'result':12} {printable(result)}")
    for step in steps:
        say(f"{'step':12} {step.name}: {_state(step)}")
    for a in attempts:
        say("")
        say(f"attempt {a.attempt}: {a.outcome}, {ago(a.ended_at)}")
        if a.log is not None:
            say_lines(a.log, indent="  ")
        if a.outcome == "succeeded":
            continue
        brief = a is not attempts[-1] and not tracebacks
        text = (
            f"{a.error_type}: {a.error}" if brief else a.traceback or f"{a.error_type}: {a.error}"
        )
        say_lines(text.rstrip(), indent="  ")
