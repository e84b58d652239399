"""The command that lists the tasks of an app."""

from __future__ import annotations

from typing import Any

import click

from pgqueue.app import App
from pgqueue.cli.application import load_app
from pgqueue.cli.cells import Names
from pgqueue.cli.options import json_option
from pgqueue.cli.output import print_json, print_table
from pgqueue.cli.terminal import say
from pgqueue.definition import Definition
from pgqueue.durations import duration_text
from pgqueue.job import MAX_RETRIES


@click.command("tasks")
@click.option("--app", "path", metavar="MODULE:NAME", help="Your App; default PGQUEUE_APP.")
@json_option
def tasks_command(path: str | None, as_json: bool) -> None:
    """List the tasks and job classes that an app knows: what its workers can run. It asks no database."""
    app = load_app(path)
    schedules = {each.job.task: each.expression for each in app.schedules}
    found = [
        _plain(app, each, schedules.get(each.name))
        for each in sorted(app.definitions, key=lambda each: each.name)
    ]
    if as_json:
        print_json(found)
    elif not found:
        say("no tasks: import the modules that define them where the app is made")
    else:
        print_table(
            ["task", "queue", "runs in", "#retries", "#timeout", "schedule", "aliases"],
            [
                [
                    each["task"],
                    each["queue"],
                    each["run"],
                    each["max_retries"],
                    None if each["timeout"] is None else duration_text(each["timeout"]),
                    each["schedule"],
                    Names(tuple(each["aliases"])),
                ]
                for each in found
            ],
        )


def _retries(app: App, definition: Definition) -> int:
    """As many as a job of it gets: what the task declares, else its queue, else the default."""
    own, queue = definition.options.max_retries, app.queue_settings.get(definition.options.queue)
    if own is None and queue is not None:
        own = queue.max_retries
    return MAX_RETRIES if own is None else own


def _plain(app: App, definition: Definition, schedule: str | None) -> dict[str, Any]:
    return {
        "task": definition.name,
        "queue": definition.options.queue,
        "run": definition.run,
        "max_retries": _retries(app, definition),
        "timeout": definition.timeout,
        "schedule": schedule,
        "aliases": list(definition.aliases),
    }
