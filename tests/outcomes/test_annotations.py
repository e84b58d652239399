"""Annotations of tasks: what they say is enforced, or refused when the task is declared."""

from __future__ import annotations

import collections
import dataclasses
import numbers
import pathlib
import re
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, OrderedDict, TypedDict  # noqa: UP035

import msgspec
import psycopg
import pydantic
import pytest
from annotated_types import Gt, Len

from pgqueue import App, ArgumentsError, Job, Secret, TaskError
from tests.support import drain


class Mine:
    """A class of the application."""


class MyInt(int):
    """A number of the application's own type."""


@dataclasses.dataclass
class Constrained:
    count: Annotated[int, pydantic.Field(gt=0)]


class ConstrainedDict(TypedDict):
    count: Annotated[int, Gt(0)]


class ConstrainedTuple(NamedTuple):
    count: Annotated[int, Gt(0)]


class ConstrainedStruct(msgspec.Struct):
    count: Annotated[int, Gt(0)]


@dataclasses.dataclass
class Holds:
    mine: Mine


def declare(kind: Any, **options: Any) -> Any:
    def task(x: Any) -> None: ...

    task.__annotations__["x"] = kind
    return App("").task(name="t", **options)(task)


@pytest.mark.parametrize(
    "kind",
    [
        OrderedDict[str, int], collections.OrderedDict, collections.deque, collections.deque[int], collections.Counter,
        collections.defaultdict[str, int], OrderedDict[str, int] | None, list[collections.deque[int]], Iterator[int],
        Generator[int, None, None], Hashable, Callable, Callable[[int], None], type, type[int], numbers.Number, complex,
        pathlib.Path, re.Pattern[str], range, Mine, MyInt, Holds, list[Holds], dict[str, Mine], pydantic.SecretStr,
        Constrained, ConstrainedDict, ConstrainedTuple, ConstrainedStruct, list[Constrained], Annotated[Mine, "doc"],
    ],
)  # fmt: skip
def test_what_would_not_be_enforced_is_refused_when_it_is_declared(kind: Any) -> None:
    with pytest.raises(TaskError, match="the parameter x: ") as refused:
        declare(kind)
    said = str(refused.value)
    assert any(way in said for way in ("can be str, int", "msgspec.Meta", "pgqueue.Secret")), said


def test_a_field_of_a_job_class_is_refused_as_well() -> None:
    with pytest.raises(TaskError, match="the parameter mine: Mine cannot be read"):

        class Refused(Job):
            mine: Mine

            def handle(self) -> None: ...


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Iterable[int], [[1, 2], []], [["1"], 5, "ab", [1.5]]),
        (Iterable, [[1, "a"]], [5]),
        (list[Iterable[int]], [[[1]]], [[["1"]], [1]]),
        (Iterable[int] | None, [None, [1]], [["1"]]),
        (object, [1, "a", [1]], []),
        (Annotated[int, pydantic.Field(gt=0)], [1, 10**15], [0, -1, "1", 1.5, True]),
        (Annotated[int, Gt(0)], [1], [0, "1"]),
        (pydantic.PositiveInt, [1], [0, "1"]),
        (Annotated[int, pydantic.Field(gt=0)] | None, [1, None], [0, "1"]),
        (list[Annotated[int, pydantic.Field(gt=0)]], [[1]], [[1, 0], ["1"]]),
        (dict[str, Annotated[str, pydantic.Field(max_length=2)]], [{"a": "ab"}], [{"a": "abc"}]),
        (Annotated[list[int], Len(1, 2)], [[1]], [[], [1, 2, 3]]),
        (Annotated[str, pydantic.StringConstraints(pattern="^a")], ["ab"], ["b"]),
        (Annotated[int, msgspec.Meta(gt=0)], [1], [0, "1"]),
        (list[Annotated[int, msgspec.Meta(gt=0)]], [[1]], [[0]]),
        (Annotated[int, "the number of the order"], [1], ["1"]),
        (Annotated[Decimal, pydantic.Field(gt=0)], [Decimal("1.10")], [Decimal(0)]),
    ],
)
def test_what_can_be_enforced_is(kind: Any, good: list[Any], bad: list[Any]) -> None:
    task = declare(kind)
    for value in good:
        job = task.call(value)
        assert task.definition.signature.decode(job.args) == {"x": value}
    for value in bad:
        with pytest.raises(ArgumentsError):
            task.call(value)


async def test_a_constraint_holds_for_what_sql_enqueues(app: App, conn: psycopg.Connection) -> None:
    ran: list[int] = []

    @app.task(name="t")
    def task(x: Annotated[int, pydantic.Field(gt=0)]) -> None:
        ran.append(x)

    for x in ("1", "0", '"1"'):
        conn.execute("select pgqueue.enqueue('t', %s::jsonb)", [f'{{"x": {x}}}'])
    await drain(app)
    assert ran == [1]
    found = conn.execute("select status, last_error from pgqueue.jobs order by id").fetchall()
    assert [row[0] for row in found] == ["succeeded", "dead", "dead"]
    assert "greater than 0" in found[1][1]


def test_a_secret_may_have_a_constraint() -> None:
    from pgqueue import Keys

    app = App("", keys=Keys(Keys.generate()))

    @app.task(name="t")
    def task(x: Secret[Annotated[str, pydantic.Field(min_length=3)]]) -> None: ...

    assert "long enough" not in task.call("long enough").args
    with pytest.raises(ArgumentsError):
        task.call("a")


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("sNaN"), Decimal("-NaN")], ids=str)
def test_a_decimal_that_is_no_number(value: Decimal) -> None:
    with pytest.raises(
        ArgumentsError, match=r"x: a Decimal that is not a number \(NaN\) cannot be"
    ):
        declare(Decimal).call(value)
    with pytest.raises(ArgumentsError, match=r"x\[0\]: a Decimal that is not a number"):
        declare(list[Decimal]).call([value])
