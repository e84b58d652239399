"""Text from elsewhere, made safe to print: it can neither steer a terminal nor forge a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

# What JSON may hold as it is, and some of which ends a line for some readers, steers a terminal or is not seen.
_NOT_ASCII = re.compile(r"[^\n -~]")


def nearest(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """``; did you mean list?``, or nothing when no known name is like it."""
    found = get_close_matches(name, list(known))
    if not found:
        return ""
    # Letters in another order are the likeliest slip: dql is dlq, and not sql.
    best = max(found, key=lambda each: sorted(each) == sorted(name))
    return f"; did you mean {prefix}{best}?"


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
    """JSON in which every character that cannot be printed as such is escaped: controls, directions, invisible ones."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if text.isascii() and "\x7f" not in text:
        return text
    return _NOT_ASCII.sub(
        lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text
    )
