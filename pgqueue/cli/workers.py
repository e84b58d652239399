"""The command that shows who works."""

from __future__ import annotations

import click

from pgqueue.app import App
from pgqueue.cli.cells import Names
from pgqueue.cli.options import json_option, on_database
from pgqueue.cli.output import ago, print_json, print_table, say_if_cut
from pgqueue.cli.terminal import say
from pgqueue.operations.maintenance import WorkerRow


@click.command("workers")
@on_database
@json_option
def workers_command(app: App, as_json: bool) -> None:
    """List worker processes, and when each was last heard of.

    One that died without a word is "lost" once its lease has run out, and gone from the list soon after. A
    process for suspects, jobs that may have killed their workers, is marked "quarantine".
    """
    workers = app.client.workers()
    say_if_cut(workers)
    if as_json:
        print_json(workers)
    elif not workers:
        say("no workers")
    else:
        print_table(
            ["id", "host", "#pid", "version", "queues", "state", "since", "last seen", "for"],
            [
                [str(w.id)[:8], w.host, w.pid, w.version, Names(tuple(w.queues or ["all"])),
                 _state(w), w.started_at, w.seen_at, "quarantine" if w.quarantine else None]
                for w in workers
            ],
        )  # fmt: skip


def _state(worker: WorkerRow) -> str:
    silent = ago(worker.seen_at).removesuffix(" ago")
    return f"lost, silent for {silent}" if worker.state == "lost" else worker.state
