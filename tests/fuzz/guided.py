"""Coverage-guided fuzzing of what reads text: ``make fuzz-atheris``. Arguments are libFuzzer's."""

from __future__ import annotations

import contextlib
import sys
import warnings
from typing import Any

import atheris

with atheris.instrument_imports(include=["pgqueue"]):
    from pgqueue.codec import signature_of
    from pgqueue.connect import asyncpg_uri, describe
    from pgqueue.durations import LONGEST, seconds
    from pgqueue.errors import ArgumentsError, ConfigError
    from pgqueue.jsontext import check_text, depth
    from pgqueue.redact import MASK, Redaction, concealer
    from pgqueue.text import json_text, lines, one_line


def task(value: int = 0, other: Any = None) -> None: ...


SIGNATURE = signature_of(task)


def read_arguments(text: str) -> None:
    with contextlib.suppress(ArgumentsError):
        assert SIGNATURE.decode(text).keys() == {"value", "other"}
    with contextlib.suppress(ArgumentsError, UnicodeEncodeError):
        check_text(text)
    assert depth(text) >= 0


def read_duration(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert 0 <= seconds(text) <= LONGEST


def read_dsn(text: str) -> None:
    for use in (describe, asyncpg_uri):
        with contextlib.suppress(ConfigError):
            use(text)


def show(text: str) -> None:
    assert one_line(text).isprintable()
    assert len(lines(text).split("\n")) == len(text.split("\n"))
    assert len(json_text(text).splitlines()) == 1
    Redaction().mask({text: text})
    secret = text[: len(text) // 2]
    if len(secret) >= 6:
        assert not any(secret in part for part in concealer([secret])(text).split(MASK))


TARGETS = (read_arguments, read_duration, read_dsn, show)


def one_input(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    target = TARGETS[provider.ConsumeIntInRange(0, len(TARGETS) - 1)]
    target(provider.ConsumeUnicode(sys.maxsize))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
