"""Text from elsewhere, made safe to print: it can neither steer a terminal nor forge a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

# What JSON may hold as it is, yet ends a line for some readers or steers a terminal.
_UNSAFE_IN_JSON = re.compile(
    r"[\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def nearest(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """``; did you mean list?``, or nothing when no known name is like it."""
    found = get_close_matches(name, list(known), n=1)
    return f"; did you mean {prefix}{found[0]}?" if found else ""


def one_line(text: str) -> str:
    """Escape line breaks, control and invisible characters as Python does: ``\\n``, ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def lines(text: str, indent: str = "  ") -> str:
    """The same for text of several lines; those after the first are indented, to tell them apart."""
    return f"\n{indent}".join(map(one_line, text.split("\n")))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON in which every control, line-ending and direction-changing character is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
