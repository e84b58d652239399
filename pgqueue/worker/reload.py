"""Tells when the application's source changes, for ``--watch``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from pgqueue.errors import ConfigError

log = logging.getLogger("pgqueue.reload")


def on_change(folder: Path, changed: Callable[[], None]) -> None:
    """Call ``changed`` from a thread after Python files below ``folder`` were written.

    Raises:
        ConfigError: watchfiles is not installed.
    """
    try:
        from watchfiles import PythonFilter, watch
    except ImportError:
        raise ConfigError("--watch needs watchfiles: pip install watchfiles") from None

    def follow() -> None:
        for changes in watch(folder, watch_filter=PythonFilter(), raise_interrupt=False):
            names = sorted({Path(path).name for _, path in changes})
            log.info("%s changed, starting the workers again", ", ".join(names[:3]))
            changed()

    threading.Thread(target=follow, name="pgqueue-reload", daemon=True).start()
