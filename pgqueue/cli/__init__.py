"""The ``pgqueue`` command. Commands are imported when they are used."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

import click

from pgqueue.cli import streams
from pgqueue.cli.terminal import say, say_lines, show_error

# command -> module of pgqueue.cli that has it
COMMANDS = {
    "work": "work",
    "list": "show",
    "stats": "show",
    "jobs": "show",
    "job": "show",
    "dlq": "show",
    "retry": "change",
    "cancel": "change",
    "change": "change",
    "clear": "clear",
    "tasks": "tasks",
    "workers": "workers",
    "pause": "queues",
    "resume": "queues",
    "paused": "queues",
    "queues": "settings",
    "queue": "settings",
    "limit": "limits",
    "limits": "limits",
    "workflows": "workflows",
    "workflow": "workflows",
    "emit": "emit",
    "send": "emit",
    "cron": "cron",
    "rekey": "rekey",
    "migrate": "migrate",
    "sql": "sql",
    "dev": "dev",
    "completion": "completion",
}
SUMMARIES = {
    "work": "Run jobs until stopped.",
    "list": "Statistics: jobs by queue and status.",
    "stats": "The same as list.",
    "jobs": "List jobs, newest first.",
    "job": "Show one job with its attempts.",
    "dlq": "List the dead letters.",
    "retry": "Put dead or cancelled jobs back.",
    "cancel": "Cancel pending jobs, stop running ones.",
    "change": "Give pending jobs another queue, priority or time.",
    "clear": "Delete pending jobs, or those of another status.",
    "tasks": "The tasks that the app knows.",
    "workers": "Worker processes that are alive.",
    "pause": "Stop claims from queues, of tasks, or of everything.",
    "resume": "Let what is paused be claimed again.",
    "paused": "What is paused.",
    "queues": "The settings of queues.",
    "queue": "Show or change the settings of one.",
    "limit": "Limit a queue or a task over all workers.",
    "limits": "The limits of queues and tasks.",
    "workflows": "List workflows.",
    "workflow": "Show one workflow, cancel or retry the whole.",
    "emit": "Emit an event for jobs that wait for it.",
    "send": "Send a message to one job.",
    "cron": "Schedules: list, add, pause, resume, run, remove.",
    "rekey": "Encrypt stored arguments with a new key.",
    "migrate": "Create or upgrade the schema.",
    "sql": "Print SQL to run yourself: roles.",
    "dev": "PostgreSQL, schema and a worker, for development.",
    "completion": "Print the completion script of a shell.",
}


class Commands(click.Group):
    """Knows the commands by name, so that ``--help`` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and args[0][:1].isalnum():
            from pgqueue.text import nearest

            raise click.UsageError(f"no command {args[0]}{nearest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(f"pgqueue.cli.{COMMANDS[name]}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pgqueue-postgres", prog_name="pgqueue")
def group() -> None:
    """Background jobs in your own PostgreSQL.

    The database is --dsn, PGQUEUE_DSN, or dsn in pgqueue.toml or [tool.pgqueue]. Start with
    "pgqueue migrate", then "pgqueue work --app yourmodule:app".

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no database, 4 the schema does not fit.
    """


def _warn_of_unknown_settings() -> None:
    if "PGQUEUE_SUPERVISED" in os.environ:  # the supervisor has said so
        return
    from pgqueue.config import unknown_variables

    for warning in unknown_variables(os.environ):
        say(f"pgqueue: {warning}", err=True)


def _forget_output() -> None:
    """Let the end of the process not fail once more over what could not be written."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors are one line, and an exit code that means something."""
    streams.prepare()
    try:
        _warn_of_unknown_settings()
        code = group.main(args=arguments, prog_name="pgqueue", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # what was printed may not have been written yet
    except BrokenPipeError:  # whoever read has seen enough, as head(1) does
        _forget_output()
        sys.exit(141)
    except click.exceptions.Abort:
        say("aborted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        show_error(error)
        sys.exit(error.exit_code)
    except Exception as error:
        from pgqueue.cli.failures import explain

        code, line = explain(error)
        say(f"pgqueue: {line}", err=True)
        if traceback := getattr(error, "traceback", None):
            say_lines(traceback, indent="  ", err=True)
        _forget_output()
    sys.exit(code if isinstance(code, int) else 0)
