"""Arguments with fields: they arrive as they were given, or are refused where they are enqueued, with the way out."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import attrs
import msgspec
import psycopg
import pydantic
import pytest
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_validator,
)

from pgqueue import App, ArgumentsError, Context, Job, TaskError
from pgqueue.testing import QueueTester
from tests.support import drain

nowhere = App("postgresql:///nowhere")


class Colour(Enum):
    RED = "red"


class Inner(BaseModel, extra="forbid"):
    user_id: int = Field(alias="userId")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return self.user_id * 2


class Everything(BaseModel, extra="forbid"):
    model_config = ConfigDict(frozen=True)

    inner: Inner
    inners: list[Inner]
    by: int = Field(validation_alias="By")
    out: int = Field(serialization_alias="Out")
    choice: int = Field(validation_alias=AliasChoices("choice_a", "choice_b"))
    tags: set[str]
    pair: tuple[int, str]
    raw: bytes
    at: dt.datetime
    wait: dt.timedelta
    price: Decimal
    colour: Colour
    key: uuid.UUID
    loaded: Json[list[int]]
    numbers: dict[int, float]
    nothing: None = None
    _private: float = PrivateAttr(default_factory=lambda: 1.0)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def computed(self) -> str:
        return "computed"


def everything() -> Everything:
    return Everything.model_validate({
        "inner": {"userId": 1}, "inners": [{"userId": 2}], "By": 3, "out": 4, "choice_b": 5,
        "tags": {"a", "b"}, "pair": (1, "x"), "raw": b"raw", "at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        "wait": dt.timedelta(seconds=90), "price": Decimal("1.10"), "colour": Colour.RED,
        "key": uuid.UUID(int=5), "loaded": "[1, 2]", "numbers": {1: 2.5},
    })  # fmt: skip


class Strict(BaseModel, strict=True):
    at: dt.datetime
    tags: frozenset[int]


class ByAlias(BaseModel, serialize_by_alias=True, populate_by_name=False):
    user_id: int = Field(alias="userId")


class Numbers(RootModel[list[int]]):
    """A model that is a list."""


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    tricks: list[str] = []


class Extra(BaseModel, extra="allow"):
    known: int


class Generic(BaseModel):
    value: int | str


@pydantic.dataclasses.dataclass
class Validated:
    number: int


@dataclass
class Point:
    x: int
    y: float = 0.0


@attrs.define
class Size:
    width: int
    height: int = attrs.field(default=1, alias="h")


class Box(msgspec.Struct, rename="camel"):
    inner_point: Point
    models: list[Cat] = []


GOOD: dict[str, tuple[Any, Any]] = {
    "everything": (Everything, everything()),
    "strict": (Strict, Strict(at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC), tags=frozenset({1}))),
    "by alias": (ByAlias, ByAlias(userId=1)),
    "root": (Numbers, Numbers([1, 2])),
    "list": (list[Inner], [Inner(userId=1)]),
    "optional": (Inner | None, Inner(userId=1)),
    "one of two": (Cat | Dog, Dog(tricks=["sit"])),
    "the other": (Cat | Dog, Cat()),
    "one of two or none": (Cat | Dog | None, None),
    "many of two": (list[Cat | Dog], [Cat(), Dog()]),
    "by name": (dict[str, Cat | Dog | int], {"a": Cat(), "b": 5}),
    "extra": (Extra, Extra(known=1, more=[1])),  # type: ignore[call-arg]
    "validated": (Validated, Validated(5)),
    "dataclass": (Point, Point(1, 2.5)),
    "attrs": (Size, Size(1, 2)),
    "struct": (Box, Box(Point(1), [Cat()])),
    "untyped": (Any, {"a": [1, "b", None]}),
    "tuple": (list[int], (1, 2)),
    "text for a time": (dt.datetime, "2026-01-02T00:00:00Z"),
}


OSLO = ZoneInfo("Europe/Oslo")
REPEATED = dt.datetime(2026, 10, 25, 2, 30, tzinfo=OSLO, fold=1)  # the clock goes back at 3
LEFT_OUT = dt.datetime(2026, 3, 29, 2, 30, tzinfo=OSLO)  # the clock goes forward at 2


class Stamp(BaseModel):
    at: dt.datetime


@dataclass
class Stamped:
    at: dt.datetime
    before: tuple[dt.datetime, ...] = ()


class Pair(NamedTuple):
    at: dt.datetime
    name: str


@pytest.mark.parametrize(
    "at", [REPEATED, REPEATED.replace(fold=0), LEFT_OUT, LEFT_OUT.replace(fold=1)]
)
def test_times_around_a_change_of_the_clock(at: dt.datetime) -> None:
    """To Python they equal no time of another zone, not even the same one in UTC."""
    for kind, value in [
        (dt.datetime, at), (dt.datetime | None, at), (list[dt.datetime], [at]), (set[dt.datetime], {at}),
        (dict[dt.datetime, dt.datetime], {at: at}), (Stamp, Stamp(at=at)), (Stamped, Stamped(at, (at,))),
        (Pair, Pair(at, "a")),
    ]:  # fmt: skip
        task = task_of(App("postgresql:///nowhere"), kind)
        assert task.definition.signature.decode(task.call(value).args)
    (back,) = task.definition.signature.decode(task.call(Pair(at, "a")).args).values()
    assert back.at.timestamp() == at.timestamp()
    with pytest.raises(ArgumentsError, match="Pair comes back as list"):
        task_of(App("postgresql:///nowhere"), Any).call(Pair(at, "a"))


def task_of(app: App, kind: Any, function: Any = None, **options: Any) -> Any:
    def takes(value: Any) -> Any:
        return None if function is None else function(value)

    takes.__annotations__ = {"value": kind}
    return app.task(**({"name": "takes"} | options))(takes)


@pytest.mark.parametrize("which", GOOD)
def test_what_comes_back_as_it_was(which: str) -> None:
    kind, value = GOOD[which]
    app = App("postgresql:///nowhere")
    task = task_of(app, kind)
    arguments = task.definition.signature.decode(task.call(value).args)
    if not which.startswith("text") and which != "tuple":
        assert arguments == {"value": value}


async def test_models_arrive(app: App, conn: psycopg.Connection) -> None:
    got: list[Any] = []

    @app.job
    class Takes(Job):
        name = "takes_class"
        everything: Everything
        animal: Cat | Dog

        def handle(self) -> None:
            got.append((self.everything, self.animal))

    one = task_of(app, Cat | Dog, got.append)
    one.enqueue(Dog())
    app.dispatch(Takes(everything(), Cat())).enqueue()
    # Others may send names or aliases.
    two = task_of(app, ByAlias, got.append, name="by_alias")
    assert two
    conn.execute("""select pgqueue.enqueue('by_alias', '{"value": {"userId": 1}}')""")
    conn.execute("""select pgqueue.enqueue('by_alias', '{"value": {"user_id": 2}}')""")
    await drain(app, concurrency=1)
    assert got == [Dog(), (everything(), Cat()), ByAlias(userId=1), ByAlias(userId=2)]


class Keeps(BaseModel):
    password: SecretStr
    name: str = "n"


class Nested(BaseModel):
    keeps: list[Keeps]


class Hidden(BaseModel):
    shown: int
    hidden: int = Field(1, exclude=True)


class Changes(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def longer(cls, value: str) -> str:
        return value + "!"


class Base(BaseModel):
    number: int


class Derived(Base):
    more: int


@dataclass
class Computed:
    x: int
    seen: list[int] = field(default_factory=list, init=False)


@dataclass
class Loose:
    anything: Any


@dataclass(eq=False)
class ByIdentity:
    at: Any


class LooseStruct(msgspec.Struct):
    anything: Any


@attrs.define
class LooseAttrs:
    anything: Any


@dataclass
class PointMore(Point):
    z: int = 3


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (Keeps, Keeps(password=SecretStr("pa55word")), r"value\.password: SecretStr .*pgqueue\.Secret"),
        (Nested, Nested(keeps=[Keeps(password=SecretStr("pa55word"))]),
         r"value\.keeps\[0\]\.password: SecretStr .*pgqueue\.Secret"),
        (Any, SecretStr("pa55word"), r"SecretStr cannot be stored.*pgqueue\.Secret"),
        (Hidden, Hidden(shown=1, hidden=2), r"value\.hidden: int comes back as another int"),
        (Changes, Changes(text="a"), r"value\.text: str comes back as another str"),
        (Base, Derived(number=1, more=2), "value: Derived comes back as Base"),
        (Point, PointMore(1), "value: PointMore comes back as Point"),
        (list[Base], [Derived(number=1, more=2)], r"value\[0\]: Derived comes back as Base"),
        (Loose, Loose(dt.date(2026, 1, 2)), r"value\.anything: date comes back as str"),
        (LooseStruct, LooseStruct({1}), r"value\.anything: set comes back as list"),
        (LooseAttrs, LooseAttrs(Decimal(1)), r"value\.anything: Decimal comes back as str"),
        (ByIdentity, ByIdentity(uuid.UUID(int=1)), r"value\.at: UUID comes back as str"),
        (Any, Point(1), "value: Point comes back as dict; annotate the parameter value with its type"),
        (Any, dt.date(2026, 1, 2), "value: date comes back as str; annotate the parameter value"),
        (Any, {"a", "b"}, "value: set comes back as list; annotate"),
        (Any, [Point(1)], r"value\[0\]: Point comes back as dict; annotate"),
        (dict, {1: "a"}, "the keys of value: int comes back as str; annotate"),
        (Any, {"a": Decimal(1)}, "Decimal comes back as str; annotate"),
    ],
)  # fmt: skip
def test_what_does_not_is_refused(kind: Any, value: Any, words: str) -> None:
    task = task_of(App("postgresql:///nowhere"), kind)
    with pytest.raises(ArgumentsError, match=words) as refused:
        task.call(value)
    assert "pa55word" not in str(refused.value)


def test_one_that_is_equal_by_its_fields_is_not() -> None:
    task = task_of(App("postgresql:///nowhere"), ByIdentity)
    assert task.call(ByIdentity("text"))


class Struct(msgspec.Struct):
    a: int


class Other(msgspec.Struct):
    b: int


@dataclass
class Plain:
    a: int


@pytest.mark.parametrize("kind", [Struct | Other, Point | Plain, Point | Size])
def test_a_union_that_cannot_be_told_apart_says_what_to_do(kind: Any) -> None:
    with pytest.raises(TaskError, match="pydantic models, and msgspec Structs with a tag"):
        task_of(App("postgresql:///nowhere"), kind)


def test_what_is_wrong_is_said_without_the_values() -> None:
    task = task_of(App("postgresql:///nowhere"), Inner)
    with pytest.raises(ArgumentsError, match="userId: Input should be a valid integer") as refused:
        task.call({"userId": "s3cret"})
    assert "s3cret" not in str(refused.value)


async def test_results_and_steps(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="good", result=True)
    async def good() -> Everything:
        return everything()

    @app.task(name="either", result=True)
    async def either() -> Cat | Dog:
        return Dog()

    @app.task(name="masked", result=True)
    async def masked() -> Keeps:
        return Keeps(password=SecretStr("pa55word"))

    @app.task(name="step", result=True, max_retries=0)
    async def in_step(ctx: Context) -> str:
        async def step() -> Keeps:
            return Keeps(password=SecretStr("pa55word"))

        return (await ctx.step("one", step)).password.get_secret_value()

    handles = [good.enqueue(), either.enqueue()]
    late, stepped = masked.enqueue().id, in_step.enqueue().id
    await drain(app)
    assert [await handle.aresult() for handle in handles] == [everything(), Dog()]
    assert "ResultNotStored" in (app.client.job(late).last_error or "")
    assert "password: SecretStr" in (app.client.job(late).last_error or "")
    assert "StepNotStored" in (app.client.job(stepped).last_error or "")
    assert app.client.job(stepped).status == "dead"


def test_the_kit(dsn: str, conn: psycopg.Connection) -> None:
    app, got = App(dsn), list[Any]()
    task = task_of(app, Everything, got.append)
    task.on(conn).enqueue(everything())
    tester = QueueTester(app, conn)
    tester.assert_enqueued(task, value=everything())
    tester.drain()
    assert got == [everything()]
