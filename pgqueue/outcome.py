"""What an attempt ended as, decided without touching the database."""

from __future__ import annotations

import math
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from pgqueue.control import (
    Cancel,
    Control,
    Dead,
    Retry,
    Snooze,
    Suspended,
    leaves_of,
    suspension,
)
from pgqueue.durations import LONGEST
from pgqueue.errors import StepError
from pgqueue.text import one_line
from pgqueue.user_frames import format_error

Kind = Literal["succeeded", "completed", "retry", "snooze", "suspend", "leave", "cancelled", "dead"]

# What siblings of a failed task end with: no failures of their own.
_PASSING = (CancelledError, Suspended)
MESSAGE_LIMIT = 8_000
TRACEBACK_LIMIT = 16_000
MOST_NAMED = 5  # errors of a group
LOG_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. ``delay`` in seconds; None means the job's backoff.

    "completed": recorded already, in a transaction of the handler; only what it returned and logged
    is to be added. "suspend": it sleeps or waits. "leave": this worker cannot run it as it is, another may; with a delay, for so long.
    ``otherwise``: what is to be recorded if that transaction turns out not to have been
    committed; None if it is known that it was. ``result`` is JSON text.
    """

    kind: Kind
    delay: float | None = None
    error_type: str | None = None
    error: str | None = None
    traceback: str | None = None
    result: str | None = None
    log: str | None = None
    otherwise: Outcome | None = None


SUCCEEDED = Outcome("succeeded")
COMPLETED = Outcome("completed")
NOT_COMMITTED = Outcome(
    "retry", None, "NotCommitted",
    "ctx.complete() was called, and its transaction was not committed when the handler returned",
)  # fmt: skip
RELEASED = Outcome("snooze", delay=0.0)


def clean(text: str, limit: int) -> str:
    """Make text storable: a plain str, no NUL, no lone surrogates, at most ``limit`` characters."""
    text = plain(text)
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]} [{len(text) - limit} characters cut] {text[-half:]}"
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")


def plain(text: str) -> str:
    """The same as a plain str: a subclass may lie about its length or what it holds."""
    return str.__str__(text)


def describe(error: BaseException, conceal: Callable[[str], str] = str) -> tuple[str, str, str]:
    """Type, message and traceback (without locals) of an error whose own methods may be broken.

    The traceback begins with the user's code.

    ``conceal`` takes secrets out of text; before the text is cut, or a piece of one could stay.
    """
    return (
        _attempt(lambda: one_line(clean(_name(error), 200)), "an exception"),
        _attempt(lambda: clean(conceal(_message(error)), MESSAGE_LIMIT), "(its __str__ raised {})"),
        _attempt(
            lambda: clean(conceal(format_error(error)), TRACEBACK_LIMIT),
            "(its traceback raised {})",
        ),
    )


def _message(error: BaseException) -> str:
    text = plain(str(error))
    if isinstance(error, BaseExceptionGroup):
        first = list(islice(leaves_of(error), MOST_NAMED))
        text = "; ".join([text, *(f"{_name(each)}: {plain(str(each))}" for each in first)])
    return text


def _attempt(text: Callable[[], str], otherwise: str) -> str:
    try:
        return text()
    except BaseException as broken:  # nothing an exception does may stop the record of a failure
        return otherwise.format(type(broken).__name__)


def _name(error: BaseException) -> str:
    name, module = type(error).__qualname__, type(error).__module__
    return name if module in ("builtins", "__main__") else f"{module}.{name}"


def decide(
    error: BaseException,
    *,
    attempt: int,
    retry_on: tuple[type[BaseException], ...] | None = None,
    backoff: Callable[[int], float] | None = None,
    conceal: Callable[[str], str] = str,
) -> Outcome:
    """Turn what a handler raised into an outcome.

    Args:
        attempt: number of the attempt that failed, from 1.
        retry_on: if given, any other exception is dead at once.
        backoff: delay in seconds by attempt, for a class that computes its own.
        conceal: takes secret arguments out of the text that is stored.
    """
    if (suspended := suspension(error)) is not None:
        return Outcome("suspend", storable(suspended.after))
    if isinstance(error, Control):
        return _decide_control(error, conceal)
    delay, note = None, ""
    kind: Kind = "retry" if worth_a_retry(error, retry_on) else "dead"
    if isinstance(error, BaseExceptionGroup) and (steering := _steering(error, kind)) is not None:
        found = _decide_control(steering, conceal)
        _, _, lines = describe(error, conceal)
        return replace(found, traceback=lines)
    if kind == "retry" and backoff is not None:
        try:
            delay = storable(backoff(attempt))
        except BaseException as broken:
            note = f"its backoff({attempt}) raised {describe(broken)[0]}: the default was used\n"
    name, message, lines = describe(error, conceal)
    return Outcome(kind, delay, name, message, lines + conceal(note))


def worth_a_retry(error: BaseException, retry_on: tuple[type[BaseException], ...] | None) -> bool:
    """Is it one of these, or a group of nothing but these and of what steers the job?"""
    if any(isinstance(each, StepError) for each in leaves_of(error)):
        return False
    if retry_on is None or isinstance(error, retry_on):
        return True
    if not isinstance(error, BaseExceptionGroup):
        return False
    left = list(error.exceptions)
    while left:
        each = left.pop()
        if isinstance(each, (*retry_on, Control, *_PASSING)):
            continue
        if not isinstance(each, BaseExceptionGroup):
            return False
        left += each.exceptions
    return True


def _steering(group: BaseExceptionGroup[Any], kind: Kind) -> Control | None:
    """What steers the job in a group of errors; ``kind``: what becomes of the job by the others.

    The first of Dead, Cancel, Retry with the longest time, and Snooze with the longest. An error that is worth no
    retry weighs more than Retry, and any error more than Snooze, which would use no attempt.
    """
    leaves = list(leaves_of(group))
    found = [each for each in leaves if isinstance(each, Control)]
    failed = len(found) + sum(isinstance(each, _PASSING) for each in leaves) < len(leaves)
    for steers in (Dead, Cancel, Retry, Snooze):
        if (kind == "dead" and steers in (Retry, Snooze)) or (failed and steers is Snooze):
            return None
        if these := [each for each in found if isinstance(each, steers)]:
            return max(these, key=lambda each: getattr(each, "after", None) or 0.0)
    return found[0] if found and not failed else None


def storable(delay: float) -> float:
    """The delay in seconds, from 0 to 365 days.

    Raises:
        ValueError: it is not a number.
    """
    delay = float(delay)
    if math.isnan(delay):
        raise ValueError("the delay is not a number")
    return min(max(delay, 0.0), LONGEST)


def _decide_control(error: Control, conceal: Callable[[str], str]) -> Outcome:
    name = _attempt(lambda: one_line(clean(type(error).__name__, 200)), "an exception")
    reason = _attempt(
        lambda: clean(conceal(plain(str(getattr(error, "reason", "")))), MESSAGE_LIMIT),
        "(the __str__ of its reason raised {})",
    )
    match error:
        case Retry():
            after = getattr(error, "after", None)  # a subclass may have an __init__ of its own
            return Outcome("retry", None if after is None else storable(after), name, reason)
        case Snooze():
            return Outcome("snooze", storable(error.after), name, reason)
        case Dead():
            return Outcome("dead", None, name, reason)
        case Cancel():
            return Outcome("cancelled", None, name, reason)
    return Outcome("retry", None, name, reason)
