"""Options that many commands share, and what they lead to."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click

from pgqueue import config
from pgqueue.app import App
from pgqueue.errors import ConfigError
from pgqueue.operations.jobs import Filter

F = TypeVar("F", bound=Callable[..., Any])

dsn_option = click.option("--dsn", metavar="DSN", help="The database; default PGQUEUE_DSN.")
schema_option = click.option("--schema", metavar="NAME", help="Its schema; default pgqueue.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
app_option = click.option(
    "--app", "path", metavar="MODULE:NAME", help="Its tasks say what to mask; default PGQUEUE_APP."
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def connection_options(command: F) -> F:
    return dsn_option(schema_option(command))


def filter_options(command: F) -> F:
    """--queue, --task, --error and --since."""
    for option in (
        click.option("--since", metavar="DURATION", help='Only the latest, such as "2h".'),
        click.option("--error", metavar="TEXT", help="Only with this text in the last error."),
        click.option("--task", metavar="NAME", help="Only this task."),
        click.option("--queue", metavar="NAME", help="Only this queue."),
    ):
        command = option(command)
    return command


def where(
    queue: str | None, task: str | None, error: str | None = None, since: str | None = None
) -> Filter:
    chosen = Filter(queue, task, error, since)
    chosen.values()  # refuses what is wrong before a connection is opened
    return chosen


@contextmanager
def opened(dsn: str | None, schema: str | None) -> Iterator[App]:
    """An app without tasks, for commands that only need the database."""
    with App(dsn, schema=schema) as app:
        yield app


def _import_failure(module: str, error: Exception) -> str:
    """What went wrong, and where in the application's own code."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]  # fmt: skip
    what = "".join(traceback.format_exception_only(error)).strip()
    return f"{module} cannot be imported: {what}\n{''.join(traceback.format_list(frames))}".strip()


def load_app(path: str | None) -> App:
    """Import ``module:name``.

    Raises:
        ConfigError: there is no such app.
    """
    path = path or config.load().app
    if path is None:
        raise ConfigError("which app? give --app module:name, PGQUEUE_APP, or app in pgqueue.toml")
    module_name, _, name = path.partition(":")
    if not all(map(str.isidentifier, [*module_name.split("."), *(name or "app").split(".")])):
        raise ConfigError(f"--app {path}: write it as module:name, such as shop.jobs:app")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise ConfigError(f"--app {path}: no module {missing!r} here") from None
        raise ConfigError(f"--app {path}: {_import_failure(module_name, error)}") from None
    for step in (name or "app").split("."):
        found = getattr(found, step, None)
    if not isinstance(found, App):
        raise ConfigError(f"--app {path}: {name or 'app'} is not a pgqueue App in {module_name}")
    return found
