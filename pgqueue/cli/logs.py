"""Logging of the worker process: text for people, JSON for machines."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

from rich.console import Console
from rich.logging import RichHandler

from pgqueue.connect import describe
from pgqueue.databases import CURRENT
from pgqueue.text import json_text, lines, one_line

# What pgqueue.worker.report adds to its records.
OF_A_JOB = ("job", "task", "queue", "attempt", "outcome")


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
        if (dsn := CURRENT.get()) is not None:
            entry["database"] = describe(dsn)
        entry |= {
            name: value for name in OF_A_JOB if (value := getattr(record, name, None)) is not None
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json_text(entry)


class PlainLines(logging.Formatter):
    """Text whose control characters are escaped; only tracebacks have more lines, indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        where = "" if (dsn := CURRENT.get()) is None else f"[{describe(dsn)}] "
        return one_line(where + super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return lines(super().format(record))


def set_up(style: str, level: str) -> None:
    """Send the log to stderr as ``text`` or ``json``."""
    logging.raiseExceptions = False  # a handler that closed stderr must not fail what logs
    terminal = Console(stderr=True) if sys.stderr.isatty() else None
    logging.basicConfig(level=level.upper(), handlers=[handler_of(style, terminal)], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def handler_of(style: str, terminal: Console | None) -> logging.Handler:
    """The handler of a style: lines for machines, or for people, in colour on a terminal."""
    handler: logging.Handler
    if style == "json":
        handler = logging.StreamHandler()
        handler.setFormatter(JsonLines())
    elif terminal is not None:
        handler = RichHandler(
            console=terminal, show_path=False, markup=False, log_time_format="%H:%M:%S"
        )
        handler.setFormatter(PlainLines("%(name)s: %(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(
            PlainLines("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
        )
    return handler
