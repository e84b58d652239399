"""The command that encrypts stored arguments anew."""

from __future__ import annotations

import click

from pgqueue.app import App
from pgqueue.cli.options import json_option, on_database
from pgqueue.cli.output import jobs_of, print_json
from pgqueue.cli.terminal import say
from pgqueue.errors import ConfigError
from pgqueue.rekey import rekey


@click.command("rekey")
@on_database
@json_option
def rekey_command(app: App, as_json: bool) -> None:
    """Encrypt the arguments of schedules and of jobs that may run again with the first key of PGQUEUE_KEYS.

    Exit code 1 when jobs are left: running ones (run it again later), or without their key.
    """
    if app.keys is None:
        raise ConfigError("no keys: set PGQUEUE_KEYS to the new key and the old ones after it")
    try:
        result = rekey(app.client, app.keys)
    except KeyboardInterrupt:
        say("interrupted: what has the new key keeps it; run this again for the rest", err=True)
        raise click.exceptions.Exit(130) from None
    if as_json:
        print_json(result)
    else:
        say(f"encrypted anew: {jobs_of(len(result.changed))}")
        if result.running:
            say(
                f"running or just changed: {jobs_of(len(result.running))}, run this again", err=True
            )
        if result.schedules:
            say(f"and of schedules: {', '.join(result.schedules)}")
        for name, why in result.schedules_left.items():
            say(f"left: schedule {name}: {why}", err=True)
        for job_id, why in list(result.left.items())[:20]:
            say(f"left: job {job_id}: {why}", err=True)
    if result.running or result.left or result.schedules_left:
        raise click.exceptions.Exit(1)
