"""The command that encrypts stored arguments anew."""

from __future__ import annotations

import click

from pgqueue.cli.options import connection_options, json_option, opened
from pgqueue.cli.output import print_json
from pgqueue.errors import ConfigError
from pgqueue.rekey import rekey


@click.command("rekey")
@connection_options
@json_option
def rekey_command(dsn: str | None, schema: str | None, as_json: bool) -> None:
    """Encrypt the arguments of pending, dead and cancelled jobs with the first key of PGQUEUE_KEYS.

    Exit code 1 when jobs are left: running ones (run it again later), or without their key.
    """
    with opened(dsn, schema) as app:
        if app.keys is None:
            raise ConfigError("no keys: set PGQUEUE_KEYS to the new key and the old ones after it")
        result = rekey(app.client, app.keys)
    if as_json:
        print_json(result)
    else:
        click.echo(f"encrypted anew: {len(result.changed)} jobs")
        if result.running:
            click.echo(
                f"running or just changed: {len(result.running)} jobs, run this again", err=True
            )
        for job_id, why in list(result.left.items())[:20]:
            click.echo(f"left: job {job_id}: {why}", err=True)
    if result.running or result.left:
        raise click.exceptions.Exit(1)
