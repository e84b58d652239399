"""What another job of a workflow returned, as an argument: named now, filled in when the job runs. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pgqueue.errors import ArgumentsError

FIELD = "$result"
_MARK = f'"{FIELD}"'


class ResultOf:
    """The result of the job of this name in the same workflow.

    Args:
        workflow: the one of which it is, before that is enqueued.
    """

    __slots__ = ("name", "workflow")

    def __init__(self, name: str, workflow: object = None) -> None:
        self.name, self.workflow = name, workflow


class Referring(str):
    """JSON text that refers to results; knows of which workflows they are, as their names alone do not say it."""

    results: tuple[ResultOf, ...] = ()


def referring(text: str, results: Iterable[ResultOf]) -> Referring:
    """The text, and to what it refers."""
    found = Referring(text)
    found.results = tuple(results)
    return found


def may_refer(text: str) -> bool:
    """May JSON text hold a reference?"""
    return _MARK in text


def names_in(text: str) -> list[str]:
    """The jobs whose results JSON text asks for, in order."""
    if not may_refer(text):
        return []
    names: list[str] = []
    _walk(json.loads(text), lambda name: names.append(name))
    return list(dict.fromkeys(names))


def filled(text: str, results: Mapping[str, Any]) -> str:
    """JSON text with the results in place of their names; null for a job that has none."""
    return json.dumps(_walk(json.loads(text), results.get), ensure_ascii=False)


def written(plain: Any, marks: Mapping[str, ResultOf]) -> Any:
    """A plain value with what stands for a reference, text, replaced by how it is stored."""
    if isinstance(plain, str) and plain in marks:
        return {FIELD: marks[plain].name}
    if isinstance(plain, dict):
        return {key: written(value, marks) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [written(value, marks) for value in plain]
    return plain


def refuse(plain: Any) -> None:
    """Raise ArgumentsError if a value looks like a stored reference and is none: it would be replaced."""

    def found(name: str) -> None:
        raise ArgumentsError(f"a dict of only {FIELD!r} is how results of other jobs are stored")

    _walk(plain, found)


def _walk(value: Any, meet: Callable[[str], Any]) -> Any:
    """The value with each reference replaced by what ``meet`` makes of its name."""
    if isinstance(value, dict):
        if value.keys() == {FIELD} and isinstance(value[FIELD], str):
            return meet(value[FIELD])
        return {key: _walk(each, meet) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(each, meet) for each in value]
    return value
