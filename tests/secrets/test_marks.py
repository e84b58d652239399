"""Wherever a type holds Secret, the argument is encrypted; where nobody can tell, the task is refused."""

import dataclasses
import sys
import typing
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Generic,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
)

import attrs
import msgspec
import pytest
from typing_extensions import TypeAliasType
from typing_extensions import TypedDict as ExtendedTypedDict

from pgqueue import Encrypted, Secret, TaskError
from pgqueue.codec import signature_of
from pgqueue.keys import is_encrypted

T = TypeVar("T")
Bound = TypeVar("Bound", bound=Secret[str])


@attrs.define
class Attrs:
    user: str
    password: Secret[str]


@attrs.define
class Outer:
    inner: list[Attrs]


@dataclass
class Box(Generic[T]):
    value: T
    password: Secret[str]


@dataclass
class Of(Generic[T]):
    value: Secret[T]


class Struct(msgspec.Struct, Generic[T]):
    value: T
    password: Secret[str]


@dataclass
class Plain(Generic[T]):
    value: T


class Inherited(Plain[Secret[str]]):
    pass


class Typed(TypedDict, total=False):
    password: Secret[str]


class TypedNot(ExtendedTypedDict):
    password: NotRequired[Secret[str]]


class Named(NamedTuple):
    password: Secret[str]


@dataclass
class Ring:
    following: "Ring | None"
    password: Secret[str]


@dataclass
class Init:
    password: dataclasses.InitVar[Secret[str]]


class Model:
    """As pydantic keeps its fields: types that were local are resolved, marks stand apart."""

    model_fields: typing.ClassVar[dict[str, Any]] = {}

    @classmethod
    def model_validate(cls, value: object) -> "Model":
        return cls()


class Field:
    def __init__(self, annotation: object, *metadata: object) -> None:
        self.annotation, self.metadata = annotation, list(metadata)


Model.model_fields = {"user": Field(str), "password": Field(str, Encrypted)}
Password = NewType("Password", Secret[str])  # type: ignore[valid-newtype]
Alias = TypeAliasType("Alias", Secret[str])
Deep = TypeAliasType("Deep", "dict[str, list[Alias]]")
Holder = TypeAliasType("Holder", list[T], type_params=(T,))

HOLD: list[Any] = [
    Secret[str], Annotated[str, Encrypted()], Annotated[str, "note", Encrypted],
    Annotated[list[Secret[str]], "note"], Secret[str] | None, Optional[Secret[int]],  # noqa: UP045
    list[Secret[str]], dict[str, tuple[Secret[str], ...]], set[Secret[int]], list[dict[str, Secret[str] | int]],
    Attrs, Outer, list[Attrs], Box[int], Of[int], Struct[int], Plain[Secret[str]], Inherited, Typed, TypedNot, Named,
    Ring, Init, Model, list[Model], Password, list[Password], Alias, list[Alias], Holder[Secret[str]], Bound,
]  # fmt: skip


@pytest.mark.parametrize("kind", HOLD, ids=range(len(HOLD)))
def test_it_is_found(kind: Any) -> None:
    assert is_encrypted(kind)

    def task(value: Any) -> None: ...

    task.__annotations__["value"] = kind
    try:
        encrypted = signature_of(task).encrypted
    except TaskError:  # msgspec knows no such types: refused when declared
        assert kind in (
            Init,
            Bound,
            Model,
            list[Model],
            Alias,
            list[Alias],
            Deep,
            Holder[Secret[str]],
        )
    else:
        assert encrypted == {"value"}


@pytest.mark.parametrize(
    "kind", [int, str, Any, None, dict[str, int], Plain[int], typing.Literal["Secret"], Annotated[str, "x"],
             typing.Callable[[int], str], NewType("Id", int), Holder[int], T, tuple[()]], ids=repr)  # fmt: skip
def test_it_is_not_where_it_is_not(kind: Any) -> None:
    assert not is_encrypted(kind)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
def test_aliases_of_python_3_12() -> None:
    names: dict[str, Any] = {"Secret": Secret}
    exec(
        "type X = Secret[str]\ntype Y[T] = list[T]\ntype Z = dict[str, X]\ntype Broken = list[Missing]",
        names,
    )
    assert all(map(is_encrypted, (names["X"], names["Y"][Secret[str]], names["Z"])))
    assert not is_encrypted(names["Y"][int])
    with pytest.raises(TypeError, match="may be a Secret"):
        is_encrypted(names["Broken"])


def local_types() -> list[type]:
    """Their annotations name what nobody but this function knows."""
    Local = Secret[str]
    made = dataclasses.make_dataclass("Made", [("password", "Local")])

    @dataclass
    class Written:
        password: "Local"

    class Tuple(NamedTuple):
        password: "Local"

    class Dict(TypedDict):
        password: "Local"

    return [made, Written, Tuple, Dict]


@pytest.mark.parametrize("kind", local_types(), ids=lambda kind: kind.__name__)
def test_what_does_not_resolve_is_refused(kind: type) -> None:
    def task(value: Any) -> None: ...

    for wrapped in (kind, list[kind], kind | None):  # type: ignore[valid-type]
        task.__annotations__["value"] = wrapped
        with pytest.raises(TaskError, match=r"resolve"):
            _ = signature_of(task).encrypted
