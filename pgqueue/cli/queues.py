"""Commands on queues and tasks: pause, resume, paused."""

from __future__ import annotations

from collections.abc import Callable

import click

from pgqueue.app import App
from pgqueue.cli.names import warn_of_unknown
from pgqueue.cli.options import json_option, on_database
from pgqueue.cli.output import ago, print_json, print_table, say_if_cut
from pgqueue.cli.terminal import say
from pgqueue.errors import ConfigError
from pgqueue.job import check_name, check_queue
from pgqueue.operations.maintenance import ALL


def _what(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option("--all", "everything", is_flag=True, help="All queues.")(command)
    command = click.option(
        "--task", "tasks", multiple=True, metavar="NAME", help="A task, in whatever queue."
    )(command)
    return click.argument("queues", metavar="[QUEUE]...", nargs=-1)(command)


@click.command("pause")
@_what
@on_database
@json_option
def pause_command(
    app: App, queues: tuple[str, ...], tasks: tuple[str, ...], everything: bool, as_json: bool
) -> None:
    """Stop claims from queues, of tasks, or of everything. Jobs that run go on; new ones wait."""

    def pause(queue: str) -> str:
        app.client.pause(queue)
        return "paused"

    def pause_task(task: str) -> str:
        app.client.pause_task(task)
        return "paused"

    _each(app, queues, tasks, everything, pause, pause_task, as_json)


@click.command("resume")
@_what
@on_database
@json_option
def resume_command(
    app: App, queues: tuple[str, ...], tasks: tuple[str, ...], everything: bool, as_json: bool
) -> None:
    """Let paused queues and tasks be claimed again. --all undoes pause --all, and no other pause."""
    _each(app, queues, tasks, everything,
          lambda queue: _resumed(app.client.resume(queue)),
          lambda task: _resumed(app.client.resume_task(task)), as_json)  # fmt: skip


def _resumed(was_paused: bool) -> str:
    return "resumed" if was_paused else "was not paused"


def _each(
    app: App,
    queues: tuple[str, ...],
    tasks: tuple[str, ...],
    everything: bool,
    change: Callable[[str], str],
    change_task: Callable[[str], str],
    as_json: bool,
) -> None:
    if not queues and not tasks and not everything:
        raise ConfigError("what? give queues, --task NAME, or --all")
    for queue in queues:
        check_queue(queue)
    for task in tasks:
        check_name(task)
    warn_of_unknown(app, queues=queues, tasks=tasks)
    said = {queue: change(queue) for queue in queues}
    said |= {f"task {task}": change_task(task) for task in tasks}
    if everything:
        said["all queues"] = change(ALL)
    if as_json:
        print_json(said)
        return
    for name, what in said.items():
        say(f"{what}: {name}")


@click.command("paused")
@on_database
@json_option
def paused_command(app: App, as_json: bool) -> None:
    """List what is paused: queues (* is all) and tasks."""
    found = app.client.paused()
    say_if_cut(found)
    if as_json:
        print_json(found)
    elif not found:
        say("nothing is paused")
    else:
        print_table(
            ["kind", "name", "#since"],
            [[each.kind, each.name, ago(each.paused_at)] for each in found],
        )
