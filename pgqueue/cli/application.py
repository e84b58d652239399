"""Finds the application's App by its path, ``module:name``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from pgqueue import config
from pgqueue.app import App
from pgqueue.errors import ConfigError


class AppNotImported(ConfigError):
    """A module of the application fails when it is imported. ``traceback``: as Python prints it."""

    def __init__(self, path: str, module: str, error: Exception) -> None:
        told = traceback.TracebackException.from_exception(error)
        for each in _chain(told):
            each.stack[:] = [frame for frame in each.stack if not _ours(frame.filename)]
        first, *frames = told.format()
        self.traceback = "".join(frames if first.startswith("Traceback") else [first, *frames])
        what = traceback.format_exception_only(error)[-1].strip().partition("\n")[0]
        super().__init__(f"--app {path}: {module} cannot be imported: {what}")


def _chain(told: traceback.TracebackException | None) -> Iterator[traceback.TracebackException]:
    while told is not None:
        yield told
        told = told.__cause__ or told.__context__


def _ours(file: str) -> bool:
    return file == __file__ or "importlib" in file


def load_app(path: str | None) -> App:
    """Import ``module:name``.

    Raises:
        ConfigError: there is no such app.
        TaskError: one of its tasks cannot be used as it is declared.
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
        raise AppNotImported(path, module_name, error) from None
    for step in (name or "app").split("."):
        found = getattr(found, step, None)
    if not isinstance(found, App):
        raise ConfigError(f"--app {path}: {name or 'app'} is not a pgqueue App in {module_name}")
    found.check()
    return found


def app_that_knows(task: str, path: str | None, database: App) -> App:
    """The application's App, on the database of a command: what is secret is said by the task's signature.

    Raises:
        ConfigError: there is no such app, or it has no such task.
    """
    if path is None and config.load().app is None:
        raise ConfigError(
            f"--args: which arguments of {task} are secret is in your code: give --app module:name,"
            " or set PGQUEUE_APP"
        )
    app = load_app(path)
    if app.definition(task) is None:
        raise ConfigError(f"--args: no task {task!r} in this app, so which are secret is not known")
    app.use(dsn=database.dsn, schema=database.schema)
    return app
