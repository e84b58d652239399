"""Commands on schedules: cron list, runs, add, pause, resume, run, remove, sync."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, get_args

import click
from rich.text import Text

from pgqueue.app import App
from pgqueue.cli.application import app_that_knows, load_app
from pgqueue.cli.change import json_object
from pgqueue.cli.options import (
    connection_options,
    json_option,
    on_database,
    yes_option,
)
from pgqueue.cli.output import ago, print_json, print_table
from pgqueue.cli.terminal import ask, say
from pgqueue.cron import zone_of
from pgqueue.errors import ConfigError, ScheduleNotFound
from pgqueue.job import check_name
from pgqueue.options import options_of
from pgqueue.schedule import CatchUp, Overlap, Schedule
from pgqueue.text import nearest, one_line


@contextmanager
def named(app: App, name: str) -> Iterator[None]:
    """Add the nearest name to the error of a schedule that does not exist."""
    try:
        yield
    except ScheduleNotFound as error:
        near = nearest(name, [each.name for each in app.client.schedules()])
        raise ScheduleNotFound(f"{error}{near}") from None


names_argument = click.argument("names", metavar="NAME...", nargs=-1, required=True)


@click.group("cron")
def cron_command() -> None:
    """Schedules: list, add, pause, resume, run now, remove; write what the code declares."""


@cron_command.command("list")
@on_database
@json_option
def list_command(app: App, as_json: bool) -> None:
    """List schedules with their next runs, in their own time zone, and their last run.

    One that was declared in code, and that no live worker declares any more, is paused by the workers.
    """
    found = app.client.schedules()
    if as_json:
        print_json([_plain(each) for each in found])
        return
    if not found:
        say("no schedules; declare them in code, or: pgqueue cron add")
        return
    print_table(
        ["name", "#schedule", "task", "#next runs", "last run"],
        [[s.name, _times(s), s.task, _next(s), _last(s)] for s in found],
    )


def _plain(schedule: Schedule) -> dict[str, Any]:
    plain = {f.name: getattr(schedule, f.name) for f in dataclasses.fields(schedule)}
    try:
        return {**plain, "next_runs": schedule.next_runs()}
    except ConfigError as error:
        return {**plain, "error": str(error), "next_runs": []}


def _times(schedule: Schedule) -> Text:
    tz = "" if schedule.expression.startswith("every ") else f"\n{one_line(schedule.tz)}"
    return Text(f"{one_line(schedule.expression)}{tz}")


def _next(schedule: Schedule) -> Text:
    if schedule.paused_at is not None:
        why = "\nno live worker declares it" if schedule.pause_reason == "undeclared" else ""
        return Text(f"paused {ago(schedule.paused_at)}{why}")
    try:
        runs = schedule.next_runs(2)
    except (ConfigError, ArithmeticError) as error:
        return Text(one_line(f"never: {error}"))
    if schedule.error is not None:
        return Text(one_line(f"never: {schedule.error}"))
    return Text("\n".join(one_line(f"{run:%a %Y-%m-%d %H:%M:%S %Z}") for run in runs))


def _last(schedule: Schedule) -> str:
    skipped = f", {schedule.skipped} skipped" if schedule.skipped else ""
    if schedule.last_job_id is None:
        return "-" + skipped
    if schedule.last_status is None or schedule.last_run_at is None:
        return f"job {schedule.last_job_id}, pruned{skipped}"
    status = f"{schedule.last_status}, {ago(schedule.last_run_at)}"
    return f"job {schedule.last_job_id}, {status}{skipped}"


@cron_command.command("runs")
@click.argument("name")
@on_database
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 50))
@json_option
def runs_command(name: str, app: App, limit: int, as_json: bool) -> None:
    """List the latest runs of a schedule, newest first."""
    with named(app, name):
        schedule = app.client.schedule(name)
    runs = app.client.schedule_runs(name, limit=limit)
    if as_json:
        print_json(runs)
        return
    zone = zone_of(schedule.tz)

    def shown(tick: datetime | None) -> str:
        return f"{tick.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}" if tick else "by hand"

    print_table(
        ["tick", "#job", "status", "#runs", "#seconds", "ended"],
        [[shown(r.tick), r.job_id, r.status, r.attempt, r.run_seconds, r.finished_at]
         for r in runs],
    )  # fmt: skip


@cron_command.command("add")
@click.argument("name")
@click.argument("expression", metavar="SCHEDULE")
@click.argument("task")
@on_database
@click.option("--args", "arguments", metavar="JSON", help="Arguments of the task, as an object.")
@click.option("--app", "path", metavar="MODULE:NAME",
              help="With --args: says which to encrypt; default PGQUEUE_APP.")  # fmt: skip
@click.option("--tz", default="UTC", show_default=True, metavar="ZONE", help="Such as Europe/Oslo.")
@click.option("--queue", default="default", show_default=True, metavar="NAME")
@click.option("--priority", default=0, show_default=True)
@click.option("--max-retries", default=10, show_default=True)
@click.option("--backoff", metavar="DURATION", help="First wait before a retry.")
@click.option("--catch-up", type=click.Choice(get_args(CatchUp)), default="latest", show_default=True,
              help="Ticks that no worker saw.")  # fmt: skip
@click.option("--overlap", type=click.Choice(get_args(Overlap)), default="allow", show_default=True,
              help="While the run before has not ended.")  # fmt: skip
@json_option
def add_command(
    name: str,
    expression: str,
    task: str,
    app: App,
    arguments: str | None,
    path: str | None,
    tz: str,
    queue: str,
    priority: int,
    max_retries: int,
    backoff: str | None,
    catch_up: CatchUp,
    overlap: Overlap,
    as_json: bool,
) -> None:
    """Add a schedule, or change the one of this NAME.

    SCHEDULE is one argument: "0 9 * * 1-5", six fields with seconds first, @daily, "every 30s".
    """
    text = _stored(app, check_name(task), json_object(arguments or "{}"), path)
    options = options_of(queue=queue, priority=priority, max_retries=max_retries, backoff=backoff)
    job = options.new_job(task, text)
    app.client.add_schedule(name, expression, job, tz=tz, catch_up=catch_up, overlap=overlap)
    added = app.client.schedule(name)
    if as_json:
        print_json(_plain(added))
    else:
        say(f"added: {name}, next {_next(added).plain.splitlines()[0]}")


def _stored(app: App, task: str, args: dict[str, Any], path: str | None) -> str:
    """Arguments as they are stored: checked by the signature of the task, and encrypted where it says so."""
    if not args:
        return "{}"
    with app_that_knows(task, path, app) as known:
        definition = known.definition(task)
        assert definition is not None
        return definition.signature.encode(task, (), args, known.keys)


@cron_command.command("pause")
@names_argument
@on_database
def pause_command(names: tuple[str, ...], app: App) -> None:
    """Let schedules give no jobs. Those enqueued already run."""
    for name in names:
        with named(app, name):
            app.client.pause_schedule(name)
        say(f"paused: {name}")


@cron_command.command("resume")
@names_argument
@on_database
def resume_command(names: tuple[str, ...], app: App) -> None:
    """Let paused schedules tick again; catch_up decides about the ticks meanwhile.

    Those that were paused because no live worker declares them go on without one.
    """
    for name in names:
        with named(app, name):
            app.client.resume_schedule(name)
        say(f"resumed: {name}")


@cron_command.command("run")
@names_argument
@on_database
@json_option
def run_command(names: tuple[str, ...], app: App, as_json: bool) -> None:
    """Enqueue a run of each now, besides their ticks; also of paused ones."""
    made = {}
    for name in names:
        with named(app, name):
            made[name] = app.client.run_schedule(name)
    if as_json:
        print_json(made)
        return
    for name, job_id in made.items():
        say(f"enqueued: {name}, job {job_id}")


@cron_command.command("remove")
@names_argument
@on_database
@yes_option
def remove_command(names: tuple[str, ...], app: App, yes: bool) -> None:
    """Remove schedules. Their runs stay. One that the code declares comes back with the next worker."""
    if not yes:
        ask(f"Remove {', '.join(names)}?")
    for name in names:
        with named(app, name):
            app.client.remove_schedule(name)
        say(f"removed: {name}")


@cron_command.command("sync")
@click.option("--app", "path", metavar="MODULE:NAME", help="Your App; default PGQUEUE_APP.")
@connection_options
@click.option("--prune", is_flag=True, help="Pause declared schedules that are gone from the code.")
@yes_option
@json_option
def sync_command(
    path: str | None,
    dsn: str | None,
    schema: str | None,
    prune: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Write the schedules of the code now, also over changes made by hand.

    Those that code declared once and this app does not are named; with --prune they are paused.
    """
    app = load_app(path)
    if dsn is not None or schema is not None:
        app.use(dsn=dsn, schema=schema)
    with app:
        # Looked at first: a role that may not must not have written half of it.
        known = {schedule.name for schedule in app.schedules}
        gone = [s.name for s in app.client.schedules()
                if s.source == "code" and s.paused_at is None and s.name not in known]  # fmt: skip
        changed = app.write_schedules()
        if prune and gone:
            if not yes:
                ask(f"Pause {', '.join(gone)}?")
            for name in gone:
                app.client.pause_schedule(name)
    if as_json:
        print_json({"declared": len(known), "written": changed, "gone": gone, "paused": prune})
        return
    say(f"written: {', '.join(changed) or 'nothing to change'}")
    for name in gone:
        say(f"{'paused' if prune else 'not in this app (--prune pauses it)'}: {name}")
