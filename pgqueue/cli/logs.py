"""Logging of the worker process: text for people, JSON for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from rich.logging import RichHandler


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class PlainLines(logging.Formatter):
    """Text whose control characters are escaped: a message cannot forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        head, *rest = text.split("\n")
        if not record.exc_info:
            return "\\n".join([head, *rest])
        return text


def set_up(style: str, level: str) -> None:
    """Send the log to stderr as ``text`` or ``json``."""
    handler: logging.Handler
    if style == "json":
        handler = logging.StreamHandler()
        handler.setFormatter(JsonLines())
    elif sys.stderr.isatty():
        handler = RichHandler(show_path=False, markup=False, log_time_format="%H:%M:%S")
        handler.setFormatter(PlainLines("%(name)s: %(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(
            PlainLines("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
        )
    logging.raiseExceptions = False  # a handler that closed stderr must not fail what logs
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
