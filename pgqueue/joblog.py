"""What a handler says while it runs: its log lines, and how far it is."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from pgqueue.errors import ArgumentsError

MOST_LINES = 200
MOST_CHARACTERS = 16_000
MOST_MESSAGE = 500


class JobLog(logging.Handler):
    """Keeps the latest 200 lines, 16,000 characters at most, of one attempt."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception as error:  # a bad format must not cost the job
            text = f"(a line that raised {type(error).__name__})"
        at = datetime.fromtimestamp(record.created, UTC)
        self._lines.append(f"{at:%Y-%m-%d %H:%M:%S.%f} {record.levelname} {text}")
        if len(self._lines) > MOST_LINES:
            del self._lines[0]
            self._left_out += 1

    def text(self) -> str | None:
        """The lines; None if there are none."""
        if not self._lines:
            return None
        text = "\n".join(self._lines)
        if self._left_out or len(text) > MOST_CHARACTERS:
            text = f"(earlier lines left out)\n{text[-MOST_CHARACTERS:]}"
        return text


class JobLogger(logging.Logger):
    """The logger of one attempt.

    It keeps the lines from INFO on with the attempt, whatever is printed. What is printed is up to the level of
    the logger ``pgqueue.job.<task>``, as of any other.
    """

    def __init__(self, task: str) -> None:
        super().__init__(f"pgqueue.job.{task}")
        self._printed = logging.getLogger(self.name)
        self.parent = self._printed
        self.kept = JobLog()

    def getEffectiveLevel(self) -> int:
        return min(logging.INFO, self._printed.getEffectiveLevel())

    def isEnabledFor(self, level: int) -> bool:
        return level >= logging.INFO or self._printed.isEnabledFor(level)

    def hasHandlers(self) -> bool:
        return True

    def callHandlers(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.INFO:
            self.kept.handle(record)
        if self._printed.isEnabledFor(record.levelno):
            self._printed.callHandlers(record)


class Progress:
    """How far a job is, as its handler last said; a call costs no I/O."""

    __slots__ = ("_said", "_sent")

    def __init__(self) -> None:
        self._said: tuple[float, float | None, str | None] | None = None
        self._sent: object = None

    def say(self, done: float, total: float | None, message: str | None) -> None:
        self._said = (done, total, message)

    def news(self) -> str | None:
        """JSON text of what was said since the last time; None if nothing was. Who asks sees to the pace."""
        said = self._said
        if said is None or said is self._sent:
            return None
        self._sent = said
        done, total, message = said
        text = None
        if message is not None:
            text = str(message)[:MOST_MESSAGE].replace("\0", "").encode("utf-8", "replace").decode()
        try:
            return json.dumps(
                {"done": done, "total": total, "message": text}, allow_nan=False, ensure_ascii=False
            )
        except (TypeError, ValueError):
            raise ArgumentsError("ctx.progress takes numbers and a text") from None
