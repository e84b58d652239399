"""Logging of the worker process: text for people, JSON for machines; a stuck stderr stops nothing."""

from __future__ import annotations

import copy
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pgqueue.connect import describe
from pgqueue.databases import CURRENT
from pgqueue.text import json_text, lines, one_line

# What pgqueue.worker.report adds to its records.
OF_A_JOB = ("job", "task", "queue", "attempt", "outcome")
MOST_WAITING = 5_000  # lines
LAST_WORDS = 1.0  # seconds that the end of the process waits for its last lines
WRITABLE_EVERY = 500  # milliseconds


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
        if (dsn := _database(record)) is not None:
            entry["database"] = describe(dsn)
        entry |= {
            name: value for name in OF_A_JOB if (value := getattr(record, name, None)) is not None
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        elif record.exc_text:
            entry["traceback"] = record.exc_text
        return json_text(entry)


class PlainLines(logging.Formatter):
    """Text whose control characters are escaped; only tracebacks have more lines, indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        where = "" if (dsn := _database(record)) is None else f"[{describe(dsn)}] "
        return one_line(where + super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return lines(super().format(record))


def _database(record: logging.LogRecord) -> str | None:
    """The DSN of the database that a line is about, in a worker of several."""
    dsn: str | None = getattr(record, "dsn", None) or CURRENT.get()
    return dsn


class Descriptor:
    """A text stream on a file descriptor of its own.

    It shares no lock with ``sys.stderr``, whose flush at the end of the process would wait for a write that never
    ends; and a handler that closes ``sys.stderr`` does not close it.
    """

    def __init__(self, descriptor: int, encoding: str) -> None:
        self._descriptor, self.encoding = os.dup(descriptor), encoding
        os.set_inheritable(self._descriptor, False)

    def write(self, text: str) -> int:
        left = memoryview(text.encode(self.encoding, "backslashreplace"))
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # a terminal that another program has made non-blocking
                select.select([], [self._descriptor], [], WRITABLE_EVERY / 1000)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor


class Queued(logging.Handler):
    """Hands records to a thread that writes them; while that is stuck, what does not fit is counted and left out.

    Args:
        sink: the handler that writes.
        most: records that may wait.
    """

    def __init__(self, sink: logging.Handler, *, most: int = MOST_WAITING) -> None:
        super().__init__()
        self._sink, self._most = sink, most
        self._formatter = logging.Formatter()
        self._anew()
        if hasattr(os, "register_at_fork"):  # a child of a job has none of our threads
            os.register_at_fork(after_in_child=self._anew)

    def _anew(self) -> None:
        self._waiting: deque[logging.LogRecord] = deque()
        self._there = threading.Condition()  # reentrant: a signal handler may log
        self._dropped = 0
        self._writing = False
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            ready = self._ready(record)
        except Exception:
            self.handleError(record)
            return
        with self._there:
            if len(self._waiting) >= self._most:
                self._dropped += 1
                return
            self._waiting.append(ready)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pgqueue-log", daemon=True)
                self._thread.start()
            self._there.notify_all()

    def _ready(self, record: logging.LogRecord) -> logging.LogRecord:
        """A copy that needs nothing of the thread that logged it, and holds no frames."""
        ready = copy.copy(record)
        ready.msg, ready.args = record.getMessage(), None
        if record.exc_info:
            ready.exc_text = ready.exc_text or self._formatter.formatException(record.exc_info)
            ready.exc_info = None
        ready.dsn = CURRENT.get()
        return ready

    def _run(self) -> None:
        while True:
            with self._there:
                self._writing = False
                self._there.notify_all()
                while not self._waiting:
                    self._there.wait()
                record = self._waiting.popleft()
                self._writing = True
                dropped, self._dropped = self._dropped, 0
            # Not handle(), whose lock logging.shutdown() would wait for at the end of the process.
            with suppress(Exception):  # nobody reads any more: there is nobody to tell
                if dropped:
                    self._sink.emit(self._confession(dropped))
                self._sink.emit(record)

    def _confession(self, dropped: int) -> logging.LogRecord:
        text = "%d log lines were left out: stderr was not read fast enough"
        return logging.LogRecord(
            "pgqueue.log", logging.WARNING, "", 0, text, (dropped,), exc_info=None
        )

    def flush(self) -> None:
        """Wait until all is written, for a second at most."""
        deadline = time.monotonic() + LAST_WORDS
        with self._there:
            while self._thread is not None and (self._waiting or self._writing):
                if (left := deadline - time.monotonic()) <= 0:
                    return
                self._there.wait(left)


class _Chosen:
    """How this process logs; None while nobody has set it up."""

    style_and_level: tuple[str, str] | None = None


def chosen() -> tuple[str, str] | None:
    """The style and level of this process, for ``set_up`` in its children; None: it is not ours to set up."""
    return _Chosen.style_and_level


def set_up(style: str, level: str) -> None:
    """Send the log to stderr as ``text`` or ``json``, Python's warnings as well."""
    logging.raiseExceptions = False  # a handler that closed stderr must not fail what logs
    _Chosen.style_and_level = style, level
    sink = handler_of(style, stream(sys.stderr))
    logging.basicConfig(level=level.upper(), handlers=[Queued(sink)], force=True)
    logging.captureWarnings(True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def stream(stderr: Any) -> Any:
    """Where the log is written to, in place of a stream that others write to as well."""
    try:
        return Descriptor(stderr.fileno(), stderr.encoding or "utf-8")
    except (AttributeError, OSError, ValueError):  # none, closed, or kept in memory
        return stderr


def handler_of(style: str, to: Any) -> logging.Handler:
    """The handler of a style: lines for machines, or for people, in colour on a terminal."""
    handler: logging.Handler
    if to is None:
        return logging.NullHandler()
    if style == "json":
        handler = logging.StreamHandler(to)
        handler.setFormatter(JsonLines())
    elif to.isatty():
        handler = _coloured(to)
        handler.setFormatter(PlainLines("%(name)s: %(message)s"))
    else:
        handler = logging.StreamHandler(to)
        handler.setFormatter(
            PlainLines("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
        )
    return handler


def _coloured(to: Any) -> logging.Handler:
    from rich.console import Console
    from rich.logging import RichHandler

    return RichHandler(
        console=Console(file=to), show_path=False, markup=False, log_time_format="%H:%M:%S"
    )


def within(seconds: float, act: Callable[[], object]) -> bool:
    """Call a function that may never return, in a thread; did it return in time?"""
    thread = threading.Thread(target=_quietly, args=[act], daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def _quietly(act: Callable[[], object]) -> None:
    with suppress(Exception):
        act()


def say_last_words() -> None:
    """Write what is still waiting, and what was printed, before the process ends without more ado."""
    for handler in logging.getLogger().handlers:
        within(LAST_WORDS, handler.flush)
    for each in (sys.stdout, sys.stderr):
        if each is not None:
            within(LAST_WORDS, each.flush)  # a handler may have closed it
