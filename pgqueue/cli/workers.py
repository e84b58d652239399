"""The command that shows who works."""

from __future__ import annotations

import click

from pgqueue.app import App
from pgqueue.cli.cells import Names
from pgqueue.cli.options import json_option, on_database
from pgqueue.cli.output import print_json, print_table, say_if_cut
from pgqueue.cli.terminal import say


@click.command("workers")
@on_database
@json_option
def workers_command(app: App, as_json: bool) -> None:
    """Worker processes that are alive, and when each was last heard of.

    One that died without a word is listed until it has been silent for a while.
    """
    workers = app.client.workers()
    say_if_cut(workers)
    if as_json:
        print_json(workers)
    elif not workers:
        say("no workers")
    else:
        print_table(
            ["id", "host", "#pid", "version", "queues", "state", "since", "last seen"],
            [
                [str(w.id)[:8], w.host, w.pid, w.version, Names(tuple(w.queues or ["all"])),
                 w.state, w.started_at, w.seen_at]
                for w in workers
            ],
        )  # fmt: skip
