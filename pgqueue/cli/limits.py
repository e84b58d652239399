"""Commands on limits: limit, limits."""

from __future__ import annotations

import click

from pgqueue.app import App
from pgqueue.cli.names import warn_of_unknown
from pgqueue.cli.options import json_option, on_database
from pgqueue.cli.output import print_json, print_table, say_if_cut
from pgqueue.cli.terminal import say
from pgqueue.errors import ConfigError


@click.command("limit")
@click.argument("queue", required=False)
@click.option("--task", metavar="NAME", help="A task instead: for each of its keys.")
@click.option("--limit", type=int, metavar="N", help="Jobs that run at once, over all workers.")
@click.option("--rate", metavar="RATE", help="Jobs that start in a time, such as 100/min.")
@click.option("--burst", type=int, metavar="N", help="How many of them at once after a quiet time.")
@click.option("--off", is_flag=True, help="Take the limits off.")
@on_database
@json_option
def limit_command(
    app: App,
    queue: str | None,
    task: str | None,
    limit: int | None,
    rate: str | None,
    burst: int | None,
    off: bool,
    as_json: bool,
) -> None:
    """Limit a QUEUE or a task over all workers, from their next claims on.

    It stays so until the code declares something else.
    """
    if (queue is None) == (task is None):
        raise ConfigError("limit what? give a queue or --task NAME")
    if off == (limit is not None or rate is not None):
        raise ConfigError("give --limit, --rate or --off")
    what = f"queue {queue}" if task is None else f"task {task}"
    if not off:
        warn_of_unknown(app, queues=[queue] if queue else [], tasks=[task] if task else [])
    if task is not None:
        app.client.limit_task(task, limit=limit, rate=rate, burst=burst)
    elif queue is not None:
        app.client.limit_queue(queue, limit=limit, rate=rate, burst=burst)
    if as_json:
        print_json({"off" if off else "limited": what})
    else:
        say(f"{'no limits any more' if off else 'limited'}: {what}")


@click.command("limits")
@on_database
@json_option
def limits_command(app: App, as_json: bool) -> None:
    """List the limits of queues and tasks."""
    found = app.client.limits()
    say_if_cut(found)
    if as_json:
        print_json(found)
    elif not found:
        say("no limits")
    else:
        print_table(
            ["kind", "name", "#at once", "#rate", "#burst", "per", "order", "by hand"],
            [
                [
                    each.kind,
                    each.name,
                    "-" if each.max_running is None else str(each.max_running),
                    "-" if each.rate is None else f"{each.rate:.3g}/s",
                    "-" if each.burst is None else str(each.burst),
                    each.per or "-",
                    each.ordered or "-",
                    ", ".join(each.by_hand) or "-",
                ]
                for each in found
            ],
        )
