"""Sizes, nesting and counts that a producer chooses: what they cost a worker, and a command, in time and memory.

No arguments within the limits of size may cost more than a second or 100 MB, whatever their task is declared to take.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from typing import Any, Literal
from uuid import UUID

import msgspec
import psycopg
import pydantic
import pytest

from pgqueue import App, ArgumentsError
from pgqueue.operations.jobs import _args
from pgqueue.outcome import describe
from pgqueue.privacy import Privacy
from pgqueue.redact import Redaction
from pgqueue.text import json_text
from tests.security.costs import SECONDS, assert_quick, assert_small
from tests.security.test_collisions import Point, number, signature, uuid
from tests.support import drain

LARGE = 990_000


class Colour(IntEnum):
    RED = 1
    BLUE = 2


@dataclass
class Tree:
    value: Any = None
    children: list[Tree] = field(default_factory=list)


class Struct(msgspec.Struct):
    name: str
    tags: set[int] = set()


class Model(pydantic.BaseModel):
    numbers: set[int] = set()
    nested: list[int | str | dict[str, int]] = []
    when: datetime | None = None


KINDS: dict[str, Any] = {
    "any": Any, "int": int, "float": float, "decimal": Decimal, "text": str, "bytes": bytes, "when": datetime, "span": timedelta,
    "list of int": list[int], "list of float": list[float], "list of decimal": list[Decimal], "list of dates": list[date],
    "set of int": set[int], "set of decimal": frozenset[Decimal], "set of uuid": set[UUID], "set of pairs": set[tuple[int, int]],
    "set of points": set[Point], "dict": dict[str, Any], "dict by int": dict[int, Any], "dict by uuid": dict[UUID, int], "mapping": Mapping[int, int],
    "literal": Literal["a", "b"], "enums": list[Colour], "union": int | str | list[int] | dict[str, int] | None,
    "deep union": dict[str, int | list[int | dict[str, list[float | None]]]], "dataclass": Tree, "list of trees": list[Tree],
    "struct": Struct, "structs": list[Struct], "model": Model, "models": list[Model], "models by name": dict[str, Model | None],
}  # fmt: skip


def many(item: Any, size: int) -> list[Any]:
    return [item] * (size // (len(json.dumps(item, separators=(",", ":"))) + 1))


def numbered(make: Callable[[int], Any], size: int) -> list[Any]:
    return [make(n) for n in range(size // (len(json.dumps(make(size))) + 1))]


def nested(make: Callable[[Any], Any], value: Any, levels: int = 60) -> Any:
    for _ in range(levels):
        value = make(value)
    return value


def digits(count: int) -> str:
    return "7" * count


# JSON text of a value of about so many bytes.
VALUES: dict[str, Callable[[int], str]] = {
    "one number": lambda size: digits(size),
    "one fraction": lambda size: f"1.{digits(size)}",
    "one exponent": lambda size: f"1e{digits(size)}",
    "long numbers": lambda size: f"[{','.join([digits(4000)] * (size // 4001))}]",
    "numbers of one hash": lambda size: json.dumps(numbered(number, size)),
    "texts of one hash": lambda size: json.dumps(numbered(lambda n: str(number(n)), size)),
    "ids of one hash": lambda size: json.dumps(numbered(uuid, size)),
    "pairs of one hash": lambda size: json.dumps(numbered(lambda n: [number(n), 0], size)),
    "points of one hash": lambda size: json.dumps(numbered(lambda n: {"x": number(n)}, size)),
    "keys of one hash": lambda size: json.dumps({str(number(n)): 1 for n in range(size // 37)}),
    "ids as keys": lambda size: json.dumps({uuid(n): 1 for n in range(size // 44)}),
    "numbers in a model": lambda size: json.dumps({"numbers": numbered(number, size)}),
    "tags of a struct": lambda size: json.dumps({"name": "n", "tags": numbered(number, size)}),
    "numbers": lambda size: json.dumps(numbered(lambda n: n, size)),
    "small numbers": lambda size: json.dumps(many(1, size), separators=(",", ":")),
    "one wrong at the end": lambda size: json.dumps([*many(1, size), {}], separators=(",", ":")),
    "all wrong": lambda size: json.dumps(many("q", size), separators=(",", ":")),
    "wrong in a model": lambda size: json.dumps({"nested": many({"a": "q"}, size)}, separators=(",", ":")),
    "empty lists": lambda size: json.dumps(many([], size), separators=(",", ":")),
    "empty objects": lambda size: json.dumps(many({}, size), separators=(",", ":")),
    "objects": lambda size: json.dumps(many({"": 0}, size), separators=(",", ":")),
    "keys": lambda size: json.dumps({f"k{n}": n for n in range(size // 15)}),
    "one key": lambda size: json.dumps({"k" * size: 1}),
    "text": lambda size: json.dumps("x" * size),
    "escapes": lambda size: '"' + "\\u0061" * (size // 6) + '"',
    "times": lambda size: json.dumps(many("2020-01-01T00:00:00+23:59", size)),
    "spans": lambda size: json.dumps(many("P1DT1S", size), separators=(",", ":")),
    "deep lists": lambda size: json.dumps(nested(lambda v: [v], many(1, size), 58)),
    "deep trees": lambda size: json.dumps({"children": nested(lambda v: [{"children": v}], many({"value": 1}, size), 25)}),
    "secrets": lambda size: json.dumps({"password": numbered(lambda n: f'a& "é/{n:x}', size)}, ensure_ascii=False),
}  # fmt: skip


SIGNATURES = {name: signature(kind) for name, kind in KINDS.items()}


def arguments(name: str, size: int) -> str:
    return f'{{"value":{VALUES[name](size)}}}'


def runs(kind: str, text: str) -> Callable[[], None]:
    """What a worker does for a job with these arguments whose handler raises with them."""

    def run() -> None:
        try:
            given = SIGNATURES[kind].decode(text, task="t")
        except ArgumentsError as error:
            assert len(str(error)) < 50_000
            return
        conceal = Privacy().concealer("t", text, arguments=given)
        describe(ValueError(text[:100_000]), conceal)

    return run


def shows(text: str) -> Callable[[], None]:
    """What a command does for a job with them."""

    def show() -> None:
        json_text(Redaction().mask(_args(text)), indent=2)

    return show


# A few in `make test`; each value for each type in `make fuzz`.
FEW = [
    ("list of int", "one wrong at the end"), ("set of int", "numbers"), ("models", "wrong in a model"), ("model", "all wrong"),
    ("list of trees", "empty objects"), ("dataclass", "deep trees"), ("any", "secrets"), ("deep union", "keys"), ("literal", "text"),
]  # fmt: skip
LONG = "TESTS_EXAMPLES" in os.environ
SIZE = LARGE if LONG else LARGE // 2  # a machine that does much else is slower
PAIRS = [(kind, value) for value in VALUES for kind in KINDS] if LONG else FEW


@pytest.mark.parametrize(("kind", "value"), PAIRS)
def test_no_arguments_are_expensive_to_read(kind: str, value: str) -> None:
    assert_quick(runs(kind, arguments(value, SIZE)))


@pytest.mark.parametrize(("kind", "value"), PAIRS)
def test_no_arguments_take_much_memory(kind: str, value: str) -> None:
    """Also those just below the limit of lists and objects."""
    for size in (LARGE, LARGE // 4) if LONG else (LARGE // 4,):
        assert_small(runs(kind, arguments(value, size)))


@pytest.mark.parametrize("value", VALUES if LONG else ["objects", "secrets"])
def test_no_arguments_are_expensive_to_show(value: str) -> None:
    text = arguments(value, SIZE)
    assert_quick(shows(text))
    assert_small(shows(arguments(value, LARGE if LONG else LARGE // 4)))


@pytest.mark.parametrize(
    ("kind", "value"),
    PAIRS
    if LONG
    else [("set of uuid", "ids of one hash"), ("any", "secrets"), ("list of int", "long numbers")],
)
async def test_a_whole_worker_is_held_up_by_none(
    app: App, conn: psycopg.Connection, kind: str, value: str
) -> None:
    """From the claim to the outcome, with the job's handler raising what it was given; the job beside it runs."""
    ran: list[int] = []

    def fails(value: Any) -> None:
        raise ValueError("no" * 50_000)

    fails.__annotations__["value"] = KINDS[kind]
    app.task(name="fails", max_retries=0)(fails)

    @app.task(name="beside")
    async def beside(number: int) -> None:
        ran.append(number)

    await beside.aenqueue(0)
    await drain(app)
    conn.execute(
        "insert into pgqueue.jobs (task, args, max_retries) values ('fails', %s, 0)",
        (arguments(value, LARGE - 1000),),
    )
    await beside.aenqueue(1)
    began = time.process_time()
    await drain(app)
    assert time.process_time() - began < SECONDS + 1  # and what a worker needs to begin and to end
    assert ran == [0, 1]
    assert conn.execute("select status from pgqueue.jobs where task = 'fails'").fetchone() == (
        "dead",
    )
