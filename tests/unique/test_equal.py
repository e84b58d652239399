"""Equal arguments make equal keys, whatever process enqueues them and in whatever order it has them."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import attrs
import msgspec
import pytest
from pydantic import BaseModel

from pgqueue import App

app = App("postgresql:///nowhere")
WORDS = ["one", "two", "three", "four", "five", "six", "seven"]


@dataclass
class Data:
    tags: frozenset[str] = frozenset()
    options: dict[str, set[int]] = field(default_factory=dict)


@attrs.define
class Attrs:
    tags: set[str]


class Struct(msgspec.Struct):
    tags: set[str]
    data: Data


class Model(BaseModel):
    tags: set[str]
    inner: list[frozenset[str]]


@app.task(name="keys", unique=True)
def keys(
    tags: set[str],
    frozen: frozenset[tuple[int, str]],
    mixed: set[int | str],
    data: Data,
    pair: Attrs,
    struct: Struct,
    model: Model,
    options: dict[str, set[str]],
) -> None: ...


@app.task(name="per_tags", limit=1, per="tags")
def per_tags(tags: set[str]) -> None: ...


@app.task(name="ordered", order_by="model")
def ordered(model: Model) -> None: ...


def made() -> list[Any]:
    words, data = set(WORDS), Data(frozenset(WORDS), {"b": {1, 2}, "a": {3}})
    model = Model(tags=words, inner=[frozenset(WORDS)])
    call = keys.call(
        words, frozenset((n, w) for n, w in enumerate(WORDS)), {*WORDS, 1, 2}, data, Attrs(words),
        Struct(words, data), model, {"b": words, "a": words},
    )  # fmt: skip
    return [call.key, per_tags.call(words).limit_key, ordered.call(model).limit_key]


def test_in_processes_with_different_hash_seeds() -> None:
    code = "from tests.unique.test_equal import made; print(made())"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(said) == 1, said


ZONE = dt.timezone(dt.timedelta(hours=2))


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (float, 1, 1.0),
        (Any, 1, 1.0),
        (float, 0.0, -0.0),
        (Decimal, Decimal("1.0"), Decimal("1.00")),
        (dt.datetime, dt.datetime(2026, 1, 1, 2, tzinfo=ZONE), dt.datetime(2026, 1, 1, 0, tzinfo=dt.UTC)),
        (dict[str, int], {"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (dict[int, str], {1: "a", 2: "b"}, {2: "b", 1: "a"}),
        (list[int], [1, 2], (1, 2)),
        (set[float], {1, 2.5}, {2.5, 1.0}),
        (Data, Data(), Data(frozenset())),
        (Model, Model(tags={"a", "b"}, inner=[]), Model(tags={"b", "a"}, inner=[])),
    ],
)  # fmt: skip
def test_equal_values(kind: Any, one: Any, other: Any) -> None:
    assert _keys(kind, one) == _keys(kind, other)


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (Any, 1, "1"),
        (list[int], [1, 2], [2, 1]),
        (set[str], {"a", "b"}, {"a"}),
        (Any, [["a"], "b"], ["a", ["b"]]),
        (float, 1.5, 1.25),
        (Decimal, Decimal("1E+2"), Decimal("1E+3")),
    ],
)
def test_different_values(kind: Any, one: Any, other: Any) -> None:
    first, second = _keys(kind, one), _keys(kind, other)
    assert first[0] != second[0]
    if (one, other) != (1, "1"):
        assert first[1] != second[1]


def _keys(kind: Any, value: Any) -> tuple[Any, Any]:
    def takes(value: Any) -> None: ...

    takes.__annotations__ = {"value": kind}
    call = App("postgresql:///nowhere").task(name="t", unique=True, limit=1, per="value")(takes)
    job = call.call(value)  # type: ignore[arg-type]
    return job.key, job.limit_key


def test_a_default_is_equal_to_the_same_value_given() -> None:
    def takes(tags: Any = frozenset(WORDS)) -> None: ...

    takes.__annotations__ = {"tags": frozenset[str]}
    task: Any = App("postgresql:///nowhere").task(name="t", unique=True)(takes)
    assert task.call().key == task.call(frozenset(reversed(WORDS))).key
