"""Lets go of what a handler held when it failed: its error refers to its frames, and these to all their locals."""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType, TracebackType

_GENERATORS = (
    inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    | inspect.CO_ITERABLE_COROUTINE
)  # fmt: skip
_YIELD = dis.opmap["YIELD_VALUE"]


def clear_tracebacks(error: BaseException) -> None:
    """Free the locals of the frames of an error, of its causes and contexts, and of the errors of a group.

    Call it when the error has been described. An error that its own frames refer to, as by
    ``except ValueError as error: last = error``, would otherwise stay until the garbage collector
    comes by, and large objects with it.
    """
    for each in _related(error):
        traceback, each.__traceback__ = each.__traceback__, None
        _clear_frames(traceback)


def clear_locals(error: BaseException) -> None:
    """The same, but the tracebacks stay, so that the error can still be described: in the thread that failed.

    Until the event loop has described it the thread would hold the objects, and free them from another thread, which
    leaves them to the allocator for longer.
    """
    for each in _related(error):
        _clear_frames(each.__traceback__)


def _clear_frames(traceback: TracebackType | None) -> None:
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
        if not _suspended(frame):
            with suppress(RuntimeError):  # it still runs, in this thread or another
                frame.clear()


def _related(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        left += (each.__cause__, each.__context__)
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions
        yield each


def _suspended(frame: FrameType) -> bool:
    """Is it a coroutine or a generator that goes on, such as a client's reader task that handed the error over?

    Python before 3.13 would end it.
    """
    if sys.version_info >= (3, 13) or not frame.f_code.co_flags & _GENERATORS:
        return False
    return frame.f_lasti < 0 or frame.f_code.co_code[frame.f_lasti] == _YIELD
