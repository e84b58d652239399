"""The one way of the command line to standard output and error.

Names, errors and arguments come from rows, the command line and the environment: whatever they hold, it can neither
steer a terminal nor forge a line. Only tables are written elsewhere, by ``output``, cell by cell.
"""

from __future__ import annotations

import sys
from typing import IO, Any

import click

from pgqueue.errors import ConfigError
from pgqueue.text import lines, one_line


def say(text: str, *, err: bool = False, file: IO[Any] | None = None) -> None:
    """Print one line. What is no printable character, such as a line break, is escaped."""
    click.echo(one_line(text), err=err, file=file)


def say_lines(text: str, *, indent: str = "", err: bool = False) -> None:
    """Print text of several lines, such as a traceback, each after the indent; tabs stay."""
    expanded = text.rstrip("\n").expandtabs()
    click.echo(indent + lines(expanded, indent=indent), err=err)


def ask(question: str) -> None:
    """Ask for a yes, on standard error.

    Raises:
        click.Abort: the answer is another.
        ConfigError: there is nobody to answer: standard input is closed, or no terminal and at its end.
    """
    asked = one_line(question)
    if sys.stdin is None or sys.stdin.closed:
        raise _nobody(asked)
    try:
        agreed = click.confirm(asked, err=True)
    except (click.Abort, OSError):
        if sys.stdin.isatty():  # Ctrl-C or Ctrl-D
            raise click.Abort from None
        click.echo(err=True)  # ends the line of the question
        raise _nobody(asked) from None
    if not agreed:
        raise click.Abort


def _nobody(asked: str) -> ConfigError:
    return ConfigError(
        f'nobody is there to answer "{asked}": give --yes to go on without the question'
    )


def write(text: str, *, nl: bool = True) -> None:
    """Print text of our own as it is: a script, or JSON that ``text.json_text`` has escaped."""
    click.echo(text, nl=nl)


def show_error(error: click.ClickException) -> None:
    """Print what click found wrong; it repeats parts of the command line."""
    if type(error).show not in (click.ClickException.show, click.UsageError.show):
        error.show()  # one of ours, which says it by this module
        return
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        say_lines(context.get_usage(), err=True)
        if context.command.get_help_option(context) is not None:
            say(f"Try '{context.command_path} {context.help_option_names[0]}' for help.", err=True)
            say("", err=True)
    message = error.format_message()
    if isinstance(
        error, click.MissingParameter
    ):  # click's own words, in which choices stand one a line
        message = " ".join(message.split())
    say(f"Error: {message}", err=True)
