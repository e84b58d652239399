"""What an attempt ended as, decided without touching the database."""

from __future__ import annotations

import math
import traceback as tb
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pgqueue.control import Cancel, Control, Dead, Retry, Snooze, suspension
from pgqueue.durations import LONGEST
from pgqueue.text import one_line

Kind = Literal["succeeded", "completed", "retry", "snooze", "cancelled", "dead"]

MESSAGE_LIMIT = 8_000
TRACEBACK_LIMIT = 16_000
LOG_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. ``delay`` in seconds; None means the job's backoff.

    "completed": recorded already, in a transaction of the handler; only what it returned and logged
    is to be added. ``result`` is JSON text.
    """

    kind: Kind
    delay: float | None = None
    error_type: str | None = None
    error: str | None = None
    traceback: str | None = None
    result: str | None = None
    log: str | None = None


SUCCEEDED = Outcome("succeeded")
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

    ``conceal`` takes secrets out of text; before the text is cut, or a piece of one could stay.
    """
    return (
        _attempt(lambda: one_line(clean(_name(error), 200)), "an exception"),
        _attempt(
            lambda: clean(conceal(plain(str(error))), MESSAGE_LIMIT), "(its __str__ raised {})"
        ),
        _attempt(
            lambda: clean(conceal("".join(tb.format_exception(error))), TRACEBACK_LIMIT),
            "(its traceback raised {})",
        ),
    )


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
        return Outcome("snooze", storable(suspended.after))
    if isinstance(error, Control):
        return _decide_control(error, conceal)
    kind: Kind = "retry"
    if retry_on is not None and not isinstance(error, retry_on):
        kind = "dead"
    delay, note = None, ""
    if kind == "retry" and backoff is not None:
        try:
            delay = storable(backoff(attempt))
        except BaseException as broken:
            note = f"its backoff({attempt}) raised {describe(broken)[0]}: the default was used\n"
    name, message, lines = describe(error, conceal)
    return Outcome(kind, delay, name, message, lines + conceal(note))


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
    name = type(error).__name__
    reason = clean(conceal(plain(str(getattr(error, "reason", "")))), MESSAGE_LIMIT)
    match error:
        case Retry():
            return Outcome(
                "retry", None if error.after is None else storable(error.after), name, reason
            )
        case Snooze():
            return Outcome("snooze", storable(error.after), name, reason)
        case Dead():
            return Outcome("dead", None, name, reason)
        case Cancel():
            return Outcome("cancelled", None, name, reason)
    return Outcome("retry", None, name, reason)
