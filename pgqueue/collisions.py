"""Refuses values that are chosen to have one hash: a set or a dict of n of them takes n² steps to make. Pure.

The hashes of text are seeded, those of numbers and UUIDs are not: https://docs.python.org/3/library/stdtypes.html#hashing-of-numeric-types
"""

from __future__ import annotations

import re
import types
import typing
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

import msgspec

from pgqueue.errors import ArgumentsError

# Shorter text holds too few of them to matter.
SHORTEST = 8 * 1024
MOST = 500
_NUMBER = re.compile(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?")
_UUID = re.compile(r"[0-9a-fA-F-]{32,36}")
_SCALARS = (str, int, float, bool, bytes, bytearray, type(None), Decimal, UUID, datetime, date, time, timedelta)  # fmt: skip
_PLAIN = (list, tuple, typing.Union, types.UnionType, typing.Annotated)


def hashes(kind: Any) -> bool:
    """May reading a value of this type hash numbers or UUIDs that the text holds?"""
    if kind is Any or kind in _SCALARS:
        return False
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in (list, tuple, dict) or origin is typing.Literal:
        return False
    if origin in _PLAIN:
        return any(hashes(each) for each in arguments if each is not ...)
    if origin is dict:
        return arguments[0] is not str or hashes(arguments[1])
    return True  # a set, or a class with fields that may be one


def check_collisions(text: str) -> None:
    """Refuse JSON text of which a list or an object has more than 500 values or keys of one hash.

    Raises:
        ArgumentsError: it has.
        msgspec.DecodeError: it is no JSON.
    """
    if len(text) < SHORTEST:
        return
    pending = [msgspec.json.decode(text)]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            values: Iterable[Any] = each
            pending += filter(None, each.values())
        elif isinstance(each, list):
            values = each
            pending += filter(None, each)
        else:
            continue
        if len(each) > MOST:
            _check(values)


def _check(values: Iterable[Any]) -> None:
    distinct = {repr(value): value for value in values}
    if len(distinct) <= MOST:
        return
    counts = Counter(found for value in distinct.values() for found in _hashes_of(value))
    if counts and counts.most_common(1)[0][1] > MOST:
        raise ArgumentsError(
            f"more than {MOST} values of one hash: they are chosen to make a set or a dict slow"
        )


def _hashes_of(value: Any) -> Iterator[int]:
    """The hash of a number, or of what text may stand for; of several together, of their first ones."""
    if isinstance(value, int | float):
        yield hash(value)
    elif isinstance(value, str):
        if _NUMBER.fullmatch(value):
            with suppress(InvalidOperation, ValueError):
                yield hash(Decimal(value))
        if _UUID.fullmatch(value):
            with suppress(ValueError):
                yield hash(UUID(value))
    elif isinstance(value, list):
        yield hash(tuple(next(_hashes_of(each), hash(str(each))) for each in value))
    elif isinstance(value, dict):
        yield hash(tuple(next(_hashes_of(each), hash(str(each))) for each in value.values()))
