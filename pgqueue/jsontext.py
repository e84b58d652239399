"""JSON text that is stored with a job, and its limits. Pure."""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import msgspec

from pgqueue.errors import ArgumentsError

WARN_BYTES = 256 * 1024
MOST_BYTES = 1024 * 1024
MOST_DEPTH = 64
# Two characters of text become an object of a hundred bytes and more, as their type has it.
MOST_CONTAINERS = 100_000
# A claim cuts the text of arguments here, lest huge ones fill the memory of the worker.
MOST_CLAIMED = 2 * MOST_BYTES + 1
_BLANK = re.compile(r'("(?:[^"\\]|\\.)*")|\s+')
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


_strictly = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


def json_of(plain: Any) -> str:
    """The JSON text of plain values; raises ValueError for NaN and infinity, which JSON has not."""
    text = msgspec.json.encode(plain).decode()
    # It writes NaN as null, in a tenth of the time.
    return _strictly(plain) if "null" in text else text


def check_text(text: str) -> None:
    """Refuse JSON text that PostgreSQL or a worker could not read back.

    Raises:
        ArgumentsError: over 1 MB, deeper than 64, more than 100,000 lists and objects, or with NUL. Over
            256 KB it warns.
    """
    size = len(text.encode("utf-8"))
    if size > MOST_BYTES:
        raise ArgumentsError(
            f"{size:,} bytes of JSON, at most {MOST_BYTES:,}: store the document and pass its id"
        )
    if size > WARN_BYTES:
        warnings.warn(
            f"pgqueue: {size:,} bytes of arguments; better store the document and pass its id",
            stacklevel=2,
        )
    if "\\u0000" in text and _NUL.search(text):
        raise ArgumentsError("text with a NUL character cannot be stored in PostgreSQL")
    _check_nesting(text, "")


def check_stored(text: str) -> None:
    """The limits again when a job is claimed: its row may come from SQL, past ``encode``.

    PostgreSQL writes a blank after each colon and comma; the limit is meant without them.

    Raises:
        ArgumentsError: over 1 MB, deeper than 64, or more than 100,000 lists and objects.
    """
    if len(text) >= MOST_CLAIMED:
        raise ArgumentsError(f"the stored arguments are too large: at most {MOST_BYTES:,} bytes")
    if len(text) * 4 > MOST_BYTES and (size := len(text.encode("utf-8", "replace"))) > MOST_BYTES:
        size = len(_BLANK.sub(r"\1", text).encode("utf-8"))
        if size > MOST_BYTES:
            raise ArgumentsError(
                f"the stored arguments are too large: {size:,} bytes, at most {MOST_BYTES:,}"
            )
    _check_nesting(text, "the stored arguments are ")


def _check_nesting(text: str, what: str) -> None:
    if text.count("{") + text.count("[") <= MOST_DEPTH:
        return
    deepest, number = nesting(text)
    if deepest > MOST_DEPTH:
        raise ArgumentsError(f"{what}nested deeper than {MOST_DEPTH}")
    if number > MOST_CONTAINERS:
        raise ArgumentsError(
            f"{what}too many: {number:,} lists and objects, at most {MOST_CONTAINERS:,}"
        )


def depth(text: str) -> int:
    """How deep JSON text nests."""
    return nesting(text)[0]


def nesting(text: str) -> tuple[int, int]:
    """How deep JSON text nests, and how many lists and objects it has; braces inside strings do not count."""
    deepest = level = number = 0
    for token in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text):
        if token[0] in "[{":
            number += 1
            level += 1
            deepest = max(deepest, level)
        elif token[0] in "]}":
            level -= 1
    return deepest, number
