"""What annotations mean, one by one: those that nobody asks for need not resolve."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

if sys.version_info >= (3, 14):
    import annotationlib

    _UNRESOLVED = annotationlib.Format.FORWARDREF

CANNOT_RESOLVE = (NameError, AttributeError, SyntaxError, TypeError)


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function or class, with annotations as they are written."""
    if sys.version_info >= (3, 14):
        return inspect.signature(function, annotation_format=_UNRESOLVED).parameters
    return inspect.signature(function).parameters


def hints_of(
    owner: Callable[..., Any], names: Iterable[str], *, extras: bool = False
) -> dict[str, Any]:
    """The types of these parameters; a name that has no annotation is left out.

    Args:
        owner: a function, something that can be called like one, or a class whose fields they are.
        names: of parameters; ``return`` stands for what a function returns.
        extras: keep ``Annotated``.

    Raises:
        NameError, AttributeError, SyntaxError, TypeError: one of these does not resolve.
    """
    found = {}
    for name in names:
        for annotation, namespace, around in _written(owner, name):
            found[name] = _resolved(name, annotation, namespace, around, extras=extras)
            break
    return found


def hint_of(function: Callable[..., Any], name: str, otherwise: Any) -> Any:
    """The type of one parameter, or of ``return``; ``otherwise`` if it has none, or one that does not resolve."""
    try:
        return hints_of(function, [name]).get(name, otherwise)
    except CANNOT_RESOLVE:
        return otherwise


def _written(owner: Any, name: str) -> Iterable[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """An annotation as it is written, and the names that it may use: global ones, and those of a class."""
    if isinstance(owner, type):
        for base in owner.__mro__:
            annotations = _annotations(base)
            if name in annotations:
                module = sys.modules.get(base.__module__)
                yield annotations[name], vars(module) if module else {}, dict(vars(base))
        return
    function = _source(owner)
    annotations = _annotations(function)
    if name in annotations:
        yield annotations[name], getattr(function, "__globals__", {}), {}


def _annotations(owner: Any) -> Mapping[str, Any]:
    if sys.version_info >= (3, 14):
        return annotationlib.get_annotations(owner, format=_UNRESOLVED)
    return inspect.get_annotations(owner)


def _source(function: Any) -> Any:
    """The function whose annotations ``inspect.signature`` shows."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.isroutine(function):
            return function
        else:
            function = type(function).__call__


def _resolved(
    name: str, annotation: Any, namespace: dict[str, Any], around: dict[str, Any], *, extras: bool
) -> Any:
    def holder() -> None: ...

    if isinstance(annotation, dataclasses.InitVar):
        annotation = annotation.type
    holder.__annotations__ = {name: annotation}
    found = typing.get_type_hints(holder, namespace, around, include_extras=extras)[name]
    return found.type if isinstance(found, dataclasses.InitVar) else found  # written as text
