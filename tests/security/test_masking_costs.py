"""Whoever enqueues chooses keys, nesting and number of the values: masking them is quick for all."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue.codec import signature_of
from pgqueue.errors import ArgumentsError
from pgqueue.jsontext import MOST_CONTAINERS
from pgqueue.privacy import Privacy
from pgqueue.redact import MASK, MOST_TEXT, PIECE, TOO_DEEP, WITHHELD, Redaction, concealer, scalars
from tests.fuzz.support import fuzz
from tests.security.costs import assert_quick, assert_small

LARGE = 1_000_000
TEXT = "a&b " * (MOST_TEXT // 4)


def mixed(size: int) -> str:
    """Letters and digits by turns: as many words as characters."""
    chosen = random.Random(size)
    return "".join(chosen.choice("abcdef") + chosen.choice("012345") for _ in range(size // 2))


def nested(levels: int, value: Any) -> Any:
    for _ in range(levels):
        value = {"a": value}
    return value


def of_two_letters(length: int) -> str:
    return "".join(random.Random(length).choices("ab", k=length))


# name -> arguments of about so many bytes.
ARGUMENTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "one long key": lambda size: {mixed(size): 1},
    "keys of many words": lambda size: {mixed(246) + str(n): 1 for n in range(size // 256)},
    "keys that hold a name again and again": lambda size: {
        "pin" * 80 + f"a{n}": 1 for n in range(size // 252)
    },
    "many keys": lambda size: {f"a{n}": 1 for n in range(size // 12)},
    "many short secrets": lambda size: {"password": [f"{n:05x}" for n in range(size // 9)]},
    "secrets that are written in many ways": lambda size: {
        "password": [f'a& "é/{n:x}' for n in range(size // 17)]
    },
    "secrets within each other": lambda size: {
        "password": ["a" * n for n in range(3, int(size**0.5 * 1.38))]
    },
    "secrets of every length": lambda size: {
        "password": [of_two_letters(3 + n % 70) for n in range(size // 42)]
    },
    "one large secret": lambda size: {"password": "é&" * (size // 3)},
    "one secret of many lines": lambda size: {"password": "abcdef\n" * (size // 8)},
    "empty lists": lambda size: {"a": [[]] * min(size // 3, MOST_CONTAINERS)},
    "small objects": lambda size: {"a": [{"b": 1}] * (size // 9)},
    "empty lists under a secret name": lambda size: {
        "password": [[]] * min(size // 3, MOST_CONTAINERS)
    },
    "deep": lambda size: nested(60, {"password": ["x" * 9] * (size // 12)}),
}
TEXTS = {"words": TEXT, "a": "a" * MOST_TEXT, "ab": of_two_letters(MOST_TEXT)}


def both(arguments: dict[str, Any]) -> list[Callable[[], None]]:
    """What a command does to show them, and a worker when their job fails."""
    text = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    assert len(text.encode()) < 1_048_576

    def show() -> None:
        Redaction().mask(json.loads(text))

    def fail() -> None:
        conceal = Privacy().concealer("t", text, arguments=arguments)
        for each in TEXTS.values():  # a message, a traceback and what was logged
            assert isinstance(conceal(each), str)

    return [show, fail]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_no_arguments_are_expensive_to_mask(name: str) -> None:
    for work in both(ARGUMENTS[name](LARGE)):
        assert_quick(work)
    for work in both(ARGUMENTS[name](LARGE // 20)):
        assert_small(work, share=1 / 20)


SHAPES = st.recursive(
    st.sampled_from(["", "a", "pin", "é&", "x" * 500, 7, 12345, None, 0.5]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "pin", "password", "A1b2" * 50]), inner, max_size=3),
    ),
    max_leaves=8,
)


@fuzz(25)
@given(SHAPES, st.sampled_from(["", "pin", "password", "A1" * 60]))
def test_no_shape_many_times_over_is_expensive_to_mask(shape: Any, key: str) -> None:
    size = len(json.dumps(shape, ensure_ascii=False).encode()) + len(key) + 10
    for work in both({f"{key}{n}": shape for n in range(max(1, LARGE // 20 // size))}):
        assert_quick(work, share=1 / 4)  # most of it for the texts
        assert_small(work, share=1 / 20)


def test_what_is_over_the_bounds_is_masked_whole() -> None:
    assert Redaction().mask({"x" * 257: "hunter2", "y" * 256: 1}) == {
        "x" * 257: MASK, "y" * 256: 1,
    }  # fmt: skip
    deep = Redaction().mask(nested(900, {"password": "hunter2"}))
    assert "hunter2" not in repr(deep)
    assert TOO_DEEP in repr(deep)
    hide = concealer(f"a&{n} b/é" for n in range(60_000))
    assert hide("boom") == WITHHELD
    ring: list[Any] = []
    ring += [ring, ring]
    assert concealer(scalars(ring))("boom") == WITHHELD
    assert concealer(Redaction().secrets(ring))("boom") == WITHHELD


class Broken(dict[str, Any]):
    def values(self) -> Any:
        raise ValueError("hunter2")


def test_a_value_that_cannot_be_read_hides_the_text() -> None:
    assert concealer(scalars(Broken()))("boom") == WITHHELD


@pytest.mark.parametrize("length", [6, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7, 50_000])
@pytest.mark.parametrize("many", [1, 40])
def test_long_secrets_are_found_also_where_the_text_is_cut(length: int, many: int) -> None:
    secret = "".join(random.Random(length).choices("abcdefghij-", k=length))
    others = ["".join(random.Random(n).choices("klmnop", k=length)) for n in range(many - 1)]
    hide = concealer([secret, *others])
    half = MOST_TEXT // 2
    for before in (0, 1, half - length, half - length + 1, half - length // 2, half - 1, half):
        for after in (0, 1, half - 1, half, MOST_TEXT):
            if before < 0:
                continue
            shown = hide("." * before + secret + "." * after).replace(MASK, " ")
            pieces = {secret[n : n + 4] for n in range(length - 3)}
            assert not pieces & {shown[n : n + 4] for n in range(len(shown))}, (before, after)
            assert len(shown) < MOST_TEXT + 100


def test_arguments_in_a_circle_are_refused() -> None:
    def task(value: Any) -> None: ...

    ring: list[Any] = []
    ring.append(ring)
    for value in (ring, nested(100_000, 1)):
        with pytest.raises(ArgumentsError, match="deeper than 64"):
            signature_of(task).encode("t", (value,), {})
