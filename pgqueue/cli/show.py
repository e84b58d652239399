"""Commands that look: list, stats, jobs, job, dlq."""

from __future__ import annotations

import click

from pgqueue.cli.options import (
    app_option,
    connection_options,
    filter_options,
    json_option,
    opened,
    where,
)
from pgqueue.cli.output import ago, count, print_json, print_table, printable, to_json
from pgqueue.cli.viewer import Viewer
from pgqueue.job import JobRow, Status
from pgqueue.text import lines

limit_option = click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 10_000)
)


@click.command("list")
@connection_options
@json_option
def list_command(dsn: str | None, schema: str | None, as_json: bool) -> None:
    """Statistics: jobs by queue and status, and how long the oldest due job has waited.

    Counts stop at 10,000. The views pgqueue.queue_stats, throughput, task_stats and dead_jobs
    have more, in SQL.
    """
    with opened(dsn, schema) as app:
        queues = app.client.stats()
    if as_json:
        print_json(queues)
        return
    if not queues:
        click.echo("no jobs yet")
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
@connection_options
@filter_options
@click.option("--status", type=click.Choice([s.value for s in Status]), help="Only this status.")
@limit_option
@click.option("--before", type=int, metavar="ID", help="Go on below this id.")
@app_option
@json_option
def jobs_command(
    dsn: str | None,
    schema: str | None,
    queue: str | None,
    task: str | None,
    error: str | None,
    since: str | None,
    status: str | None,
    limit: int,
    before: int | None,
    path: str | None,
    as_json: bool,
) -> None:
    """List jobs, newest first."""
    chosen = where(queue, task, error, since)
    with opened(dsn, schema) as app:
        jobs = app.client.jobs(chosen, status=status, limit=limit, before=before)
        view = Viewer(app, path)
        jobs = [view.job(job) for job in jobs]
    _print_jobs(jobs, as_json, "no such jobs")


@click.command("dlq")
@connection_options
@filter_options
@limit_option
@app_option
@json_option
def dlq_command(
    dsn: str | None,
    schema: str | None,
    queue: str | None,
    task: str | None,
    error: str | None,
    since: str | None,
    limit: int,
    path: str | None,
    as_json: bool,
) -> None:
    """List the dead letters: jobs out of retries, newest first. "pgqueue retry ID" puts one back."""
    chosen = where(queue, task, error, since)
    with opened(dsn, schema) as app:
        jobs = app.client.jobs(chosen, status=Status.DEAD, limit=limit)
        view = Viewer(app, path)
        jobs = [view.job(job) for job in jobs]
    _print_jobs(jobs, as_json, "no dead letters")


def _print_jobs(jobs: list[JobRow], as_json: bool, none: str) -> None:
    if as_json:
        print_json(jobs)
        return
    if not jobs:
        click.echo(none)
        return
    columns = ["#id", "task", "queue", "status", "#runs", "when", "last error"]
    rows = [
        [j.id, j.task, j.queue, j.status, f"{j.attempt}/{j.max_retries + 1}",
         _when(j), (j.last_error or "-").splitlines()[0][:120]]
        for j in jobs
    ]  # fmt: skip
    print_table(columns, rows)


def _when(job: JobRow) -> str:
    match job.status:
        case Status.PENDING:
            return f"due {ago(job.run_at)}"
        case Status.RUNNING if job.claimed_at:
            return f"since {ago(job.claimed_at)}"
        case _:
            return ago(job.finished_at or job.created_at)


@click.command("job")
@click.argument("job_id", metavar="ID", type=int)
@connection_options
@click.option("--show-args", is_flag=True, help="Print its arguments as well.")
@app_option
@json_option
def job_command(
    job_id: int,
    dsn: str | None,
    schema: str | None,
    show_args: bool,
    path: str | None,
    as_json: bool,
) -> None:
    """Show one job with its attempts and their errors. Secret arguments are masked."""
    with opened(dsn, schema) as app:
        row = app.client.job(job_id)
        view = Viewer(app, path)
        job, attempts = view.job(row), view.attempts(row, app.client.attempts(job_id))
    if as_json:
        print_json({"job": job, "attempts": attempts})
        return
    for name in ("id", "task", "queue", "status", "priority", "attempt", "max_retries", "crashes",
                 "created_at", "run_at", "claimed_at", "finished_at", "run_seconds", "worker_id",
                 "last_error"):  # fmt: skip
        value = getattr(job, name)
        shown = (
            f"{value:%Y-%m-%d %H:%M:%S %Z} ({ago(value)})" if hasattr(value, "tzinfo") else value
        )
        click.echo(f"{name:12} {printable(shown)}")
    if show_args:
        click.echo(f"{'args':12} {printable(to_json(job.args, indent=None))}")
    for a in attempts:
        click.echo(f"\nattempt {a.attempt}: {a.outcome}, {ago(a.ended_at)}")
        text = (a.traceback or f"{a.error_type}: {a.error}").rstrip()
        click.echo(f"  {lines(text)}")
