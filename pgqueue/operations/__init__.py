"""What can be done, as values: a statement, its parameters, and how to read its rows. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar

T = TypeVar("T")
Row: TypeAlias = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """A named statement, its values, and the reading of its rows. Performs nothing.

    ``patient``: a worker tries again when a lock was not to be had in time; otherwise that is raised at once.
    """

    statement: str
    values: Mapping[str, object] = field(repr=False)
    decode: Callable[[Sequence[Row]], T]
    patient: bool = True


def ids(rows: Sequence[Row]) -> list[int]:
    return [row[0] for row in rows]


class Chosen(TypedDict, total=False):
    """Which rows of a batch: not those ``without``; and ``only`` some, where a refusal is narrowed down to its row."""

    without: Sequence[int]
    only: Sequence[int] | None


def chosen(which: Chosen) -> dict[str, object]:
    """The values of a statement that can be narrowed."""
    only = which.get("only")
    return {
        "not_ids": list(which.get("without", ())),
        "only_ids": None if only is None else list(only),
    }
