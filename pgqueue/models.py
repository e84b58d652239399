"""Values with fields: how those of pydantic become JSON and come back, and whether what comes back is the same.

Dataclasses, attrs classes and msgspec Structs are converted by msgspec, pydantic models by themselves.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
import msgspec.inspect

from pgqueue.annotations import CANNOT_RESOLVE, hints_of
from pgqueue.errors import ArgumentsError

_PLAIN = {str, int, float, bool, type(None)}
# Of more, pydantic takes longer to list them than to find them.
MOST_ERRORS = 1000
_ADAPTER, _STRICT = "__pgqueue_adapter__", "__pgqueue_strict__"
_PYDANTIC = {"pydantic", "pydantic_core", "annotated_types"}
TAKEN = (
    "a parameter can be str, int, float, bool, None, bytes, datetime, date, time, timedelta, UUID, Decimal, an Enum, a"
    " Literal, a list, tuple, set, frozenset or dict of them (or Iterable, Sequence, Mapping), a TypedDict, NamedTuple,"
    " dataclass, attrs class, msgspec Struct or pydantic model, or a union of these"
)


class _OneOf(type):
    """The type of a union to msgspec, which asks whether what was read is of this type."""

    def __instancecheck__(cls, instance: object) -> bool:
        return True  # its adapter has seen to it


def is_pydantic(kind: Any) -> bool:
    """Is it a pydantic model class?"""
    return isinstance(kind, type) and hasattr(kind, "model_validate_json")


def dump(model: Any) -> Any:
    """Plain values of a pydantic model, by the names of its fields, without computed ones."""
    named = _takes_names(type(model))
    plain = model.model_dump(mode="json", by_alias=not named, round_trip=True, warnings=False)
    return _ordered(model, plain)


def validate(kind: Any, value: Any) -> Any:
    """A pydantic model, or one of a union, from plain values; both aliases and names of fields are taken.

    Raises:
        ValueError: they do not fit; the message does not hold them.
    """
    text = msgspec.json.encode(value)
    adapter = getattr(kind, _ADAPTER, None)
    try:
        if adapter is not None:
            strict = getattr(kind, _STRICT) or None
            return adapter.validate_json(
                text, strict=strict, **_by_name(type(adapter).validate_json)
            )
        return kind.model_validate_json(text, **_by_name(kind.model_validate_json))
    except ValueError as error:
        raise ValueError(_without_input(error)) from None


def is_readable(kind: Any) -> bool:
    """Can ``validate`` make one of this type?"""
    return is_pydantic(kind) or hasattr(kind, _ADAPTER)


def readable(kind: Any) -> Any:
    """The type as msgspec and ``validate`` read it.

    Each union of pydantic models, and all that has a constraint of pydantic, becomes a type that pydantic reads; an
    ``Iterable`` is a list, and ``object`` anything.
    """
    if is_constrained(kind):
        return _by_pydantic(kind, strict=True)
    if kind is object:
        return Any
    if kind is collections.abc.Iterable:
        return list
    arguments = typing.get_args(kind)
    origin: Any = typing.get_origin(kind)
    if not arguments:
        return list if origin is collections.abc.Iterable else kind
    union = origin in (typing.Union, types.UnionType)
    if union and any(map(is_pydantic, arguments)) and len(set(arguments) - {type(None)}) > 1:
        one = _by_pydantic(kind)
        return one | None if type(None) in arguments else one
    if origin is typing.Literal or origin is collections.abc.Callable:
        return kind
    if origin is collections.abc.Iterable:
        origin = list
    elif (changed := _all_readable(arguments)) == arguments:
        return kind
    changed = _all_readable(arguments)
    if union:
        return typing.Union[changed]  # noqa: UP007  made of what is known now only
    return origin[changed]


def _all_readable(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(readable(each) if each is not ... else each for each in arguments)


def _by_pydantic(kind: Any, *, strict: bool = False) -> Any:
    from pydantic import TypeAdapter

    return _OneOf(str(kind), (), {_ADAPTER: TypeAdapter(kind), _STRICT: strict})


def is_constrained(kind: Any) -> bool:
    """Has the type, itself or within, a constraint that pydantic applies: ``Annotated[int, pydantic.Field(gt=0)]``?"""
    return any(_root(type(each)) in _PYDANTIC for each in _metadata(kind))


def is_limited(kind: Any) -> bool:
    """Has it any constraint: one of pydantic, or a ``msgspec.Meta``?"""
    return any(isinstance(each, msgspec.Meta) for each in _metadata(kind)) or is_constrained(kind)


def _root(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _metadata(kind: Any) -> Iterator[Any]:
    """What ``Annotated`` says of a type, and of its parts."""
    if typing.get_origin(kind) is typing.Literal:
        return
    if (found := getattr(kind, "__metadata__", None)) is not None:
        yield from found
        yield from _metadata(kind.__origin__)
        return
    for each in typing.get_args(kind):
        yield from _metadata(each)


def check_readable(kind: Any) -> None:
    """Refuse a type of which something would not be enforced, or that cannot be made of JSON.

    Args:
        kind: as ``readable`` returns it.

    Raises:
        TypeError: with what it is, and which types there are.
    """
    seen: dict[int, Any] = {}
    pending: list[Any] = [msgspec.inspect.type_info(kind)]
    while pending:
        each = pending.pop()
        if isinstance(each, tuple):
            pending += each
        elif isinstance(each, msgspec.Struct) and id(each) not in seen:
            seen[id(each)] = each
            pending += [getattr(each, name) for name in each.__struct_fields__]
            if isinstance(each, msgspec.inspect.CustomType):
                _check_custom(each.cls)
            elif (cls := getattr(each, "cls", None)) is not None:
                _check_fields(cls)


def _check_custom(cls: Any) -> None:
    if is_readable(cls) or cls is object:
        return
    name = getattr(cls, "__qualname__", str(cls))
    if hasattr(cls, "get_secret_value"):
        raise TypeError(
            f"a {name} cannot be stored: declare a plain type and mark it pgqueue.Secret[...], which stores it"
            " encrypted"
        )
    raise TypeError(f"{name} cannot be read from JSON and checked; {TAKEN}")


def _check_fields(cls: Any) -> None:
    """Nobody applies a constraint of pydantic to a field of a class that is not pydantic's."""
    cls = typing.get_origin(cls) or cls  # of a generic one
    names = [name for base in cls.__mro__ for name in inspect.get_annotations(base)]
    try:
        hints = hints_of(cls, names, extras=True)
    except CANNOT_RESOLVE:
        return
    for name, kind in hints.items():
        if is_constrained(kind):
            raise TypeError(
                f"the constraint of {cls.__qualname__}.{name} is one of pydantic, which does not read a class of this"
                " kind: make it a pydantic model, or use msgspec.Meta"
            )


def _takes_names(kind: Any) -> bool:
    return bool(_by_name(kind.model_validate_json))


def _by_name(method: Callable[..., Any]) -> dict[str, bool]:
    function = getattr(method, "__func__", method)
    return {"by_alias": True, "by_name": True} if _knows_names(function) else {}


@functools.lru_cache
def _knows_names(function: Callable[..., Any]) -> bool:
    """Can it be told to take names as well as aliases? pydantic can from 2.11 on."""
    return "by_name" in inspect.signature(function).parameters


# What msgspec says of a struct, so that a model with an unknown field is told by the same words.
UNKNOWN_FIELD = "Object contains unknown field"


def _without_input(error: ValueError) -> str:
    """What pydantic found wrong, without the values it found."""
    listed = getattr(error, "errors", None)
    if listed is None:
        return str(error)
    if (count := error.error_count()) > MOST_ERRORS:  # type: ignore[attr-defined]
        return f"{count:,} errors"
    found = listed(include_input=False, include_url=False, include_context=False)
    if found and all(each["type"] == "extra_forbidden" for each in found):
        return f"{UNKNOWN_FIELD} `{'.'.join(map(str, found[0]['loc']))}`"
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg']}" for e in found)


def _ordered(value: Any, plain: Any) -> Any:
    """The plain values of a value with what were sets in an order that does not depend on the process."""
    if isinstance(value, set | frozenset) and isinstance(plain, list):
        return sorted(plain, key=_text)
    if isinstance(plain, dict):
        if is_pydantic(type(value)):
            return {n: _ordered(getattr(value, n, None), each) for n, each in plain.items()}
        if isinstance(value, Mapping) and len(value) == len(plain):
            pairs = zip(value.values(), plain.items(), strict=True)
            return {name: _ordered(given, each) for given, (name, each) in pairs}
    if isinstance(plain, list) and isinstance(value, list | tuple) and len(value) == len(plain):
        return [_ordered(*pair) for pair in zip(value, plain, strict=True)]
    return plain


def fields_of(value: Any) -> tuple[str, ...] | None:
    """The names of the fields that make a value equal to another; None if it has none."""
    kind: Any = type(value)
    if dataclasses.is_dataclass(kind):
        return tuple(f.name for f in dataclasses.fields(kind) if f.compare)
    if is_pydantic(kind):
        return (*kind.model_fields, *(value.model_extra or ()))
    if (attributes := getattr(kind, "__attrs_attrs__", None)) is not None:
        return tuple(each.name for each in attributes if each.eq)
    struct: tuple[str, ...] | None = getattr(kind, "__struct_fields__", None)
    return struct


def check_same(name: str, given: Any, back: Any, *, untyped: bool = False) -> None:
    """Refuse an argument that a handler would not get as it was given.

    What JSON has is let through: a text for a date, a list for a tuple.

    Raises:
        ArgumentsError: with the parameter's name, the place in it, and the way out; not with the value.
    """
    for place, value, other in _differences(given, back, name):
        if isinstance(value, Decimal) and value.is_nan():
            raise ArgumentsError(
                f"{place}: a Decimal that is not a number (NaN) cannot be stored: pass None"
            )
        if _named(value).startswith("Secret") and hasattr(value, "get_secret_value"):
            way = (
                "it is written as asterisks: make it a plain type, and mark the parameter pgqueue.Secret[...],"
                " which stores it encrypted"
            )
        elif untyped:
            way = f"annotate the parameter {name} with its type"
        else:
            way = (
                "JSON, or the way in which its class is read and written, does not keep all of it: change that, or"
                " pass an id by which the handler finds it"
            )
        raise ArgumentsError(
            f"{place}: {_named(value)} comes back as {_named(other, value)}; {way}"
        )


def same(one: Any, other: Any) -> bool:
    """Are they equal, or the same by their fields and to JSON?"""
    return _equal(one, other) or canonical_text(one) == canonical_text(other)


def _named(value: Any, beside: Any = None) -> str:
    name = type(value).__name__
    return f"another {name}" if type(value) is type(beside) else name


def _differences(given: Any, back: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    kind = type(given)
    if kind in _PLAIN:
        return
    if kind in (list, tuple):
        if isinstance(back, list | tuple) and not set(map(type, given)) <= _PLAIN:
            for number, pair in enumerate(zip(given, back, strict=False)):
                yield from _differences(*pair, f"{place}[{number}]")
    elif kind is dict:
        if isinstance(back, dict):
            if not set(map(type, given)) <= {str} and not _equal(set(given), set(back)):
                yield f"the keys of {place}", next(iter(given)), next(iter(back), None)
            elif not set(map(type, given.values())) <= _PLAIN:
                found = {_instants(key): value for key, value in back.items()}
                for key, value in given.items():
                    other = found.get(_instants(key))
                    yield from _differences(value, other, f"{place}[{type(key).__name__}]")
    elif (names := fields_of(given)) is not None:
        if type(back) is not kind:
            yield place, given, back
            return
        for name in names:
            one, other = getattr(given, name, None), getattr(back, name, None)
            if type(one) in _PLAIN and one != other:
                yield f"{place}.{name}", one, other
            yield from _differences(one, other, f"{place}.{name}")
    elif not _equal(given, back):
        yield place, given, back


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other or _instants(one) == _instants(other))
    except Exception:  # a class that cannot be compared
        return False


def _instants(value: Any) -> Any:
    """The value with times in UTC.

    To Python, a time that a change of the clock repeats or leaves out equals none of another zone.
    """
    if isinstance(value, datetime) and value.tzinfo is not None:
        with suppress(OverflowError):  # in the first or the last year
            return value.astimezone(UTC)
    elif isinstance(value, set | frozenset):
        return frozenset(map(_instants, value))
    elif isinstance(value, tuple):
        return tuple(map(_instants, value))
    elif isinstance(value, list):
        return list(map(_instants, value))
    elif isinstance(value, Mapping):
        return {_instants(key): _instants(each) for key, each in value.items()}
    return value


def canonical(value: Any) -> Any:
    """JSON of a value that is the same for equal values: sets in one order, times in UTC, 1.0 as 1."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    if isinstance(value, Enum):
        return canonical(value.value)
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        return {_key(key): canonical(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(canonical, value), key=_text)
    if (names := fields_of(value)) is not None:
        return {name: canonical(getattr(value, name, None)) for name in names}
    if isinstance(value, list | tuple):
        return [canonical(each) for each in value]
    if isinstance(value, datetime | time) and value.tzinfo is not None:
        return _in_utc(value)
    if isinstance(value, Decimal) and value.is_finite():
        return str(value.normalize() + 0)
    if isinstance(value, datetime | date | time | timedelta | UUID | bytes | bytearray | Decimal):
        return msgspec.to_builtins(value)
    try:
        return msgspec.to_builtins(value, enc_hook=dump, str_keys=True)
    except (TypeError, AttributeError):
        return str(value)


def _in_utc(value: datetime | time) -> str:
    if isinstance(value, datetime):
        try:
            return value.astimezone(UTC).isoformat()
        except OverflowError:  # in the first or the last year
            return value.isoformat()
    return value.isoformat()


def _key(key: Any) -> str:
    plain = canonical(key)
    return plain if isinstance(plain, str) else _text(plain)


def _text(plain: Any) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_text(value: Any) -> str:
    """The JSON text of ``canonical``."""
    return _text(canonical(value))
