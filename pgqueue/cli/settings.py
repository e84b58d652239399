"""Commands on the settings of queues: queues, queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from pgqueue.app import App
from pgqueue.cli.cells import Cut
from pgqueue.cli.names import warn_of_unknown
from pgqueue.cli.options import json_option, on_database
from pgqueue.cli.output import print_json, print_table, say_if_cut, to_json
from pgqueue.cli.terminal import say
from pgqueue.durations import duration_text
from pgqueue.errors import ConfigError
from pgqueue.job import check_queue
from pgqueue.operations.queues import QueueRow
from pgqueue.queues import FOREVER, changes
from pgqueue.retry import Backoff

OFF = "default"
_WHOLE = {"limit", "burst", "max_pending", "priority", "max_retries"}
_HELP = {
    "limit": "Jobs that run at once, over all workers.",
    "rate": "Jobs that start in a time, such as 100/min.",
    "burst": "How many of them at once after a quiet time.",
    "max_pending": "Jobs that may wait in it.",
    "keep_succeeded": "How long succeeded jobs are kept; 0 deletes them at once, forever keeps them.",
    "keep_dead": "How long dead jobs are kept.",
    "keep_cancelled": "How long cancelled jobs are kept.",
    "priority": "Of jobs that say none.",
    "max_retries": "Of jobs that say nothing of it.",
    "backoff": "Of jobs that say none: the wait after the first failure.",
    "expires": "Of jobs that say nothing of it: not started later than this.",
    "timeout": "Longest run of jobs whose task sets none.",
}


@click.command("queues")
@on_database
@json_option
def queues_command(app: App, as_json: bool) -> None:
    """List the settings of queues. A queue that is not listed has none, and needs none."""
    found = app.client.queues()
    say_if_cut(found)
    if as_json:
        print_json(found)
    elif not found:
        say("no queue has settings")
    else:
        names = (
            "max_pending",
            "keep_succeeded",
            "keep_dead",
            "keep_cancelled",
            "max_running",
            "rate",
        )
        print_table(
            ["queue", *(f"#{name.replace('_', ' ')}" for name in names), "jobs get", "state"],
            [[row.name, *(_cell(row, name) for name in names), Cut(_defaults(row), lines=9), _state(row)]
             for row in found],
        )  # fmt: skip


def _setting_options(command: Callable[..., None]) -> Callable[..., None]:
    for name, text in reversed(_HELP.items()):
        option = "--" + name.replace("_", "-")
        command = click.option(option, name, metavar="VALUE", help=text)(command)
    return command


@click.command("queue")
@click.argument("queue")
@_setting_options
@on_database
@json_option
def queue_command(app: App, queue: str, as_json: bool, **given: str | None) -> None:
    """Show the settings of a QUEUE, or change those that are given; "default" takes one off.

    They stay so until the code declares something else.
    """
    check_queue(queue)
    wanted = {name: _read(name, text) for name, text in given.items() if text is not None}
    if wanted:
        changes(**wanted)  # refuses what is wrong before a connection is opened
        warn_of_unknown(app, queues=[queue])
        app.client.set_queue(queue, **wanted)
    row = app.client.queue(queue)
    if as_json:
        print_json({"queue": row})
        return
    if row is None:
        warn_of_unknown(app, queues=[queue])
        say(f"queue {queue} has no settings of its own")
        return
    for name in _HELP:
        if (cell := _cell(row, _column(name))) != "-":
            whose = "by hand" if _column(name) in row.by_hand else "declared in code"
            say(f"{name}: {cell} ({whose})" if row.declared else f"{name}: {cell}")
        elif _column(name) in row.by_hand:
            say(f"{name}: none (by hand; the code declares one)")
    say(f"state: {_state(row)}")
    if {"max_pending", "priority", "max_retries", "backoff", "expires"} & set(
        wanted
    ) and not row.declared:
        say(
            f'no code declares it yet: that holds for pgqueue.enqueue() in SQL, and in Python for an app with'
            f' app.queue("{queue}")', err=True,
        )  # fmt: skip


def _column(name: str) -> str:
    return "max_running" if name == "limit" else name


def _read(name: str, text: str) -> Any:
    if text == OFF:
        return None
    if name not in _WHOLE:
        return text
    try:
        return int(text)
    except ValueError:
        raise ConfigError(
            f"--{name.replace('_', '-')} takes a whole number or {OFF}, got {text!r}"
        ) from None


def _cell(row: QueueRow, name: str) -> str:
    value = getattr(row.settings, name)
    if value is None:
        return "-"
    if name == "rate":
        return f"{value:.3g}/s"
    if name == "backoff":
        return _curve(value)
    if name.startswith("keep_") and value >= FOREVER:
        return "forever"
    if name.startswith("keep_") or name in ("expires", "timeout"):
        return duration_text(value)
    return f"{value:,}" if name == "max_pending" else str(value)


def _curve(stored: Any) -> str:
    """A backoff that may come from SQL: a part may be left out, and be of any kind where checks were off."""
    given = {**Backoff().as_json(), **(stored if isinstance(stored, dict) else {})}
    base, factor, cap = (given[name] for name in ("base", "factor", "cap"))
    if not all(isinstance(part, int | float) for part in (base, factor, cap)):
        return to_json(stored, indent=None)
    return f"{duration_text(base)}, then times {factor:g} up to {duration_text(cap)}"


def _defaults(row: QueueRow) -> str:
    names = ("priority", "max_retries", "backoff", "expires", "timeout")
    said = [
        f"{name} {_cell(row, name)}" for name in names if getattr(row.settings, name) is not None
    ]
    return "; ".join(said) or "-"


def _state(row: QueueRow) -> str:
    state = "open" if row.paused_at is None else "paused"
    state = f"{state}, declared in code" if row.declared else state
    return f"{state}, changed by hand" if row.declared and row.by_hand else state
