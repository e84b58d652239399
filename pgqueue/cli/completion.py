"""The command that prints a shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from pgqueue.cli import group
from pgqueue.cli.terminal import write


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script of a shell; for bash: eval "$(pgqueue completion bash)"."""
    found = get_completion_class(shell)
    assert found is not None
    write(found(group, {}, "pgqueue", "_PGQUEUE_COMPLETE").source())
