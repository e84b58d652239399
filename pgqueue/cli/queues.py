"""Commands on queues: pause, resume."""

from __future__ import annotations

from collections.abc import Callable

import click

from pgqueue.app import App
from pgqueue.cli.options import json_option, on_database
from pgqueue.cli.output import print_json
from pgqueue.job import check_queue


@click.command("pause")
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
@on_database
@json_option
def pause_command(app: App, queues: tuple[str, ...], as_json: bool) -> None:
    """Stop claims from queues. Jobs that run go on; new ones wait."""

    def pause(queue: str) -> str:
        app.client.pause(queue)
        return "paused"

    _each(queues, pause, as_json)


@click.command("resume")
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
@on_database
@json_option
def resume_command(app: App, queues: tuple[str, ...], as_json: bool) -> None:
    """Let paused queues be claimed from again."""
    _each(queues, lambda q: "resumed" if app.client.resume(q) else "was not paused", as_json)


def _each(queues: tuple[str, ...], change: Callable[[str], str], as_json: bool) -> None:
    for queue in queues:
        check_queue(queue)
    said = {queue: change(queue) for queue in queues}
    if as_json:
        print_json(said)
        return
    for queue, what in said.items():
        click.echo(f"{what}: {queue}")
