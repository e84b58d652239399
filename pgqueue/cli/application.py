"""Finds the application's App by its path, ``module:name``."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from pgqueue import config
from pgqueue.app import App
from pgqueue.errors import ConfigError


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
