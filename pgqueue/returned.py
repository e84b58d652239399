"""What a handler gives back: awaited where it is to be awaited, refused where nothing of it has run."""

from __future__ import annotations

import inspect
from typing import Any

from pgqueue.control import Dead


async def ended(value: Any) -> Any:
    """The value in the end: a handler may return a coroutine, as one behind a plain decorator does.

    Raises:
        Dead: it is a generator, none of whose code has run.
    """
    while inspect.isawaitable(value):
        value = await value
    return checked(value)


def checked(value: Any) -> Any:
    """The value, unless it is a generator that nobody has started.

    Raises:
        Dead: it is one.
    """
    if inspect.isgenerator(value):
        if inspect.getgeneratorstate(value) == inspect.GEN_CREATED:
            value.close()
            raise Dead(_sentence("generator", value.__qualname__))
    elif inspect.isasyncgen(value) and value.ag_frame and not getattr(value, "ag_suspended", False):
        raise Dead(_sentence("async generator", value.__qualname__))
    return value


def _sentence(kind: str, name: str) -> str:
    return (
        f"the handler returned the {kind} {name}, so nothing of it has run: a task must not yield;"
        " let it loop over the generator itself"
    )


def generator_kind(function: Any) -> str | None:
    """Is it a generator function, also behind ``functools.wraps`` and ``partial``, or an object called as one?"""
    while True:
        called = function if inspect.isroutine(function) else getattr(function, "__call__", None)  # noqa: B004
        for each in (function, called):
            if inspect.isasyncgenfunction(each):
                return "an async generator"
            if inspect.isgeneratorfunction(each):
                return "a generator"
        below = getattr(function, "__wrapped__", None) or getattr(function, "func", None)
        if below is None or below is function:
            return None
        function = below
