"""Tracebacks that begin with the user's code: without the frames of pgqueue that called it."""

from __future__ import annotations

import contextlib
import os
import traceback as tb
from collections.abc import Iterator, Sequence
from types import TracebackType


def format_error(error: BaseException) -> str:
    """The traceback of an error as Python prints it, also of its causes and of the errors of a group.

    The frames of pgqueue before the first frame of other code are left out. Those further in are kept, for they may be
    the cause; an error that has no other frames keeps them all.
    """
    whole = tb.TracebackException(type(error), error, error.__traceback__, compact=True)
    for each in _related(whole):
        del each.stack[: _leading([frame.filename for frame in each.stack])]
    return "".join(whole.format())


def exc_info_of(
    error: BaseException,
) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """The ``exc_info`` of a line of the log about an error that a function of the user raised."""
    found = error.__traceback__
    files = [frame.f_code.co_filename for frame, _ in tb.walk_tb(found)]
    for _ in range(_leading(files)):
        assert found is not None
        found = found.tb_next
    return type(error), error, found


# Of code objects, as frames have them.
_CONTEXTLIB = contextlib.contextmanager.__code__.co_filename
_OWN_DIRECTORY = os.path.join(os.path.dirname(format_error.__code__.co_filename), "")


def _leading(files: Sequence[str]) -> int:
    """How many frames from the outermost on belong to pgqueue; 0 if all do."""
    if not files or not files[0].startswith(_OWN_DIRECTORY):
        return 0
    for number, file in enumerate(files):
        # The context managers of an app are entered and left by way of contextlib.
        if not file.startswith(_OWN_DIRECTORY) and file != _CONTEXTLIB:
            return number
    return 0


def _related(error: tb.TracebackException) -> Iterator[tb.TracebackException]:
    left: list[tb.TracebackException | None] = [error]
    while left:
        each = left.pop()
        if each is not None:
            yield each
            left += (each.__cause__, each.__context__, *(each.exceptions or ()))
