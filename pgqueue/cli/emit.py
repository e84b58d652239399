"""The command that emits an event."""

from __future__ import annotations

import json

import click

from pgqueue.app import App
from pgqueue.cli.options import json_option, on_database
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
    try:
        value = None if payload is None else json.loads(payload)
    except ValueError as error:
        raise ConfigError(f"the payload is not JSON: {error}") from None
    event_id = app.emit(name, value)
    if as_json:
        print_json({"event": event_id})
    else:
        say(f"emitted: event {event_id} {name}")
