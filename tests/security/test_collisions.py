"""Values chosen to have one hash make a set of n of them take n² steps: they are refused before."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import pydantic
import pytest

from pgqueue import ArgumentsError, Keys, Secret
from pgqueue.codec import Signature, signature_of
from pgqueue.collisions import MOST, hashes
from tests.security.costs import assert_quick

# Every number that is this times another has one hash: https://docs.python.org/3/library/stdtypes.html#hashing-of-numeric-types
PRIME = 2**61 - 1


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


class Model(pydantic.BaseModel):
    numbers: set[int] = set()
    nested: list[int | str | dict[str, int]] = []


def signature(kind: Any) -> Signature:
    def task(value: Any) -> None: ...

    task.__annotations__["value"] = kind
    return signature_of(task)


def number(n: int) -> int:
    return (n + 2**40) * PRIME


def uuid(n: int) -> str:
    return str(UUID(int=(n + 2**50) * PRIME))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (set[int], [number(n) for n in range(28_000)]), (dict[int, int], {str(number(n)): 1 for n in range(25_000)}),
        (set[UUID], [uuid(n) for n in range(25_000)]), (dict[UUID, int], {uuid(n): 1 for n in range(22_000)}),
        (frozenset[Decimal], [str(number(n)) for n in range(25_000)]), (set[tuple[int, int]], [[number(n), 0] for n in range(25_000)]),
        (set[Point], [{"x": number(n)} for n in range(20_000)]), (list[set[int]], [[number(n) for n in range(28_000)]]),
        (Model, {"numbers": [number(n) for n in range(28_000)]}), (int | set[int], [number(n) for n in range(28_000)]),
    ],
    ids=str,
)  # fmt: skip
def test_they_are_refused(kind: Any, value: Any) -> None:
    text = json.dumps({"value": value}, separators=(",", ":"))
    assert len(text) < 1_048_576 * 1.05
    task = signature(kind)

    def read() -> None:
        with pytest.raises(ArgumentsError, match="more than 500 values of one hash"):
            task.decode(text)

    assert_quick(read)


def test_encrypted_ones_as_well() -> None:
    keys = Keys(Keys.generate())
    sealing = signature(Secret[list[int]])
    text = sealing.encode("t", ([number(n) for n in range(MOST + 300)],), {}, keys)
    with pytest.raises(ArgumentsError, match="more than 500 values of one hash"):
        signature(Secret[set[int]]).decode(text, task="t", keys=keys)


def test_honest_ones_are_read() -> None:
    """Also many, values that come more than once, and lists beside them."""
    for kind, value in (
        (set[int], list(range(30_000))), (set[float], [n / 7 for n in range(30_000)]), (set[int], [1] * 100_000),
        (set[UUID], [str(UUID(int=n * 2**64 + n)) for n in range(10_000)]), (dict[int, int], {str(n): n for n in range(30_000)}),
        (set[Decimal], [f"{n}.50" for n in range(30_000)]), (set[Point], [{"x": n, "y": n} for n in range(10_000)]),
        (set[date], [str(date.fromordinal(700_000 + n)) for n in range(10_000)]), (list[int], [number(n) for n in range(2000)]),
    ):  # fmt: skip
        assert signature(kind).decode(json.dumps({"value": value}))["value"]


def test_which_types_are_looked_at() -> None:
    """Those of which reading hashes no number cost nothing."""
    for kind in (
        Any,
        int,
        list[int],
        dict[str, int],
        list[dict[str, int | None]],
        tuple[int, ...],
        Literal["a"],
        list,
        dict,
    ):
        assert not hashes(kind), kind
    for kind in (
        set[int],
        dict[int, int],
        dict[str, set[int]],
        list[frozenset[UUID]],
        Point,
        Model,
        set,
        int | set[int],
    ):
        assert hashes(kind), kind


def test_errors_of_a_model_are_counted_where_there_are_thousands() -> None:
    text = json.dumps({"value": {"nested": [{"a": "q"}] * 50_000}}, separators=(",", ":"))
    with pytest.raises(ArgumentsError, match="150,000 errors"):
        signature(Model).decode(text)
