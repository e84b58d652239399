"""The commands that emit events and send messages."""

from __future__ import annotations

import json
from typing import Any

import click

from pgqueue.app import App
from pgqueue.cli.options import ID, json_option, on_database
from pgqueue.cli.output import print_json
from pgqueue.cli.terminal import say
from pgqueue.errors import ConfigError


@click.command("emit")
@click.argument("name")
@click.argument("payload", required=False, metavar="[JSON]")
@on_database
@json_option
def emit_command(app: App, name: str, payload: str | None, as_json: bool) -> None:
    """Emit an event for all jobs that wait for its NAME."""
    event_id = app.emit(name, _value(payload))
    if as_json:
        print_json({"event": event_id})
    else:
        say(f"emitted: event {event_id} {name}")


@click.command("send")
@click.argument("job_id", metavar="ID", type=ID)
@click.argument("name")
@click.argument("payload", required=False, metavar="[JSON]")
@on_database
@json_option
def send_command(app: App, job_id: int, name: str, payload: str | None, as_json: bool) -> None:
    """Send a message to job ID, which receives it by its NAME."""
    event_id = app.send(job_id, name, _value(payload))
    if as_json:
        print_json({"event": event_id})
    else:
        say(f"sent: message {event_id} {name} to job {job_id}")


def _value(payload: str | None) -> Any:
    try:
        return None if payload is None else json.loads(payload)
    except ValueError as error:
        raise ConfigError(f"the payload is not JSON: {error}") from None
