"""Masks what names say is secret: in shown arguments, and where their values turn up in text.

Whoever enqueues a job chooses the keys, the nesting and the number of its values, so all of it is
linear in what it reads and bounded: what is over a bound is masked whole.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any
from urllib.parse import quote

from pgqueue.checks import several, shown
from pgqueue.errors import ConfigError

MASK = "[redacted]"
TOO_DEEP = "[nested too deep]"
WITHHELD = "[redacted: the arguments hold too many values to look for in this text]"
NAMES = frozenset({
    "access_key", "api_key", "authorization", "card_number", "cookie", "credential", "credentials",
    "cvv", "iban", "passphrase", "passwd", "password", "pin", "private_key", "secret", "session_id",
    "ssn", "token",
})  # fmt: skip
SHORTEST = 3
WHOLE_WORDS_BELOW = 6
SUFFIX_FROM = 5
# A longer key is no name: its value is masked without a look at it.
LONGEST_NAME = 256
# What is stored nests at most 64 levels.
MOST_DEPTH = 100
# Characters of a text that are kept, half of them from each end; what is stored has no more.
MOST_TEXT = 20_000
# Longer secrets are looked for in pieces of this many characters.
PIECE = 64
# As many of one length are looked for one by one, more of them all at once.
FEW = 16
MOST_PIECES = 250_000
MOST_VALUES = 1_000_000
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
_BETWEEN_WORDS = re.compile(r"[\W_]+")
_SCALARS = (str, bytes, int, float)
_PLAIN = (*_SCALARS, type(None))
_LISTS = (list, tuple)
_COLLECTIONS = (*_LISTS, set, frozenset)
_MAPPINGS = (dict, Mapping)


@dataclass(frozen=True)
class Redaction:
    """The names whose values are masked.

    A name is masked when its words contain those of an entry, one or many of it: ``password`` masks
    ``db_password``, ``newPasswords`` and ``dbpassword``, ``api_key`` masks ``X-Api-Key``. So is a
    name of more than 256 characters.
    """

    names: frozenset[str] = NAMES

    def plus(self, names: Iterable[str]) -> Redaction:
        """With these names as well; ``-token`` takes ``token`` off.

        Raises:
            ConfigError: a name is no text with a letter in it.
        """
        changed = set(self.names)
        for name in several(names, "redact", "names"):
            if not isinstance(name, str) or not _WORD.search(name):
                raise ConfigError(f"redact takes names of arguments, got {shown(name)}")
            if name.startswith("-"):
                changed -= {known for known in changed if words(known) == words(name)}
            else:
                changed.add(name)
        return Redaction(frozenset(changed))

    def hides(self, name: str) -> bool:
        """Is the value under this name masked?"""
        return len(name) > LONGEST_NAME or _hides(self.names, name)

    def mask(self, value: Any) -> Any:
        """A copy of a JSON value, with what is under masked names replaced; None stays.

        What is nested deeper than 100 levels is replaced as well: nothing that can be stored is.
        """
        return self._mask(value, MOST_DEPTH)

    def _mask(self, value: Any, levels: int) -> Any:
        if isinstance(value, _PLAIN):
            return value
        if not levels:
            return TOO_DEEP
        levels -= 1
        if isinstance(value, _LISTS):
            return [
                item if isinstance(item, _PLAIN) else self._mask(item, levels) for item in value
            ]
        if isinstance(value, _MAPPINGS):
            return {
                key: MASK if item is not None and self.hides(str(key)) else self._mask(item, levels)
                for key, item in value.items()
            }
        return value

    def secrets(self, value: Any) -> Iterator[Any]:
        """The texts, bytes and numbers under masked names, at any depth, in no order.

        Raises:
            TooMany: there are more than 1,000,000 values.
        """
        pending: list[Any] = [value]
        hidden: list[Any] = []
        for _ in range(MOST_VALUES):
            if not pending:
                break
            each = pending.pop()
            if isinstance(each, _LISTS) and len(each) <= MOST_VALUES:
                pending += each
            elif isinstance(each, _MAPPINGS):
                for key, item in each.items():
                    (hidden if self.hides(str(key)) else pending).append(item)
        if pending:
            raise TooMany
        yield from scalars(hidden)


class TooMany(Exception):
    """There are too many values to look for."""


def words(name: str) -> tuple[str, ...]:
    """``userApiKey``, ``user_api_key`` and ``User-Api-Key`` as ``("user", "api", "key")``."""
    return tuple(word.casefold() for word in _WORD.findall(name))


@lru_cache(maxsize=4096)
def _hides(names: frozenset[str], name: str) -> bool:
    entries, pattern = _entries(names)
    together = name if name.isalnum() else _BETWEEN_WORDS.sub("", name)
    return pattern.search(together.casefold()) is not None and _holds(entries, words(name))


@lru_cache(maxsize=256)
def _entries(names: frozenset[str]) -> tuple[frozenset[str], re.Pattern[str]]:
    """The names without what is between their words, in the singular; and what finds one."""
    together = ("".join(words(name)) for name in names)
    entries = frozenset(name.removesuffix("s") or name for name in together)
    return entries, re.compile("|".join(map(re.escape, entries)) or "(?!)")


def _holds(entries: frozenset[str], given: tuple[str, ...]) -> bool:
    """Is an entry the end of one of these words, or some of them in a row?"""
    together = "".join(given)
    ends = set(accumulate(map(len, given)))
    starts = ends | {0}
    return any(
        (len(entry) >= SUFFIX_FROM or at in starts)
        and _ends_a_word(together, at + len(entry), ends)
        for entry in entries
        for at in _places(together, entry)
    )


def _ends_a_word(text: str, end: int, ends: set[int]) -> bool:
    return end in ends or (text.startswith("s", end) and end + 1 in ends)


def scalars(value: Any) -> Iterator[Any]:
    """Every text, bytes and number in a value of lists, sets and mappings, in no order.

    Raises:
        TooMany: there are more than 1,000,000 values.
    """
    pending = [value]
    for _ in range(MOST_VALUES):
        if not pending:
            return
        each = pending.pop()
        if isinstance(each, _SCALARS):
            if each is not True and each is not False:
                yield each
        elif isinstance(each, _COLLECTIONS):
            if len(each) > MOST_VALUES:
                break
            pending += each
        elif isinstance(each, _MAPPINGS):
            pending += each.values()
    raise TooMany


def concealer(secrets: Iterable[Any]) -> Callable[[str], str]:
    """A function that replaces these values in text, however it is that the text writes them.

    Found: the value itself, its ``repr``, its JSON, its URL encoding, and each line of a text of several lines.
    Not found: other encodings (base64, hashes), parts of a value, and what is shorter than 3
    characters. A value of 3 to 5 characters is replaced only as a word of its own, lest ``port``
    vanish from ``transport``.

    The values are read when the function is first called. Of a text of more than 20,000 characters
    both ends are kept. When there are too many values to look for, the whole text is replaced.
    """

    @cache
    def pieces() -> Mapping[int, set[str]] | None:
        try:
            return _pieces(secrets)
        except Exception:  # too many of them, or an object of the caller's that cannot be read
            return None

    def conceal(text: str) -> str:
        text, found, half = str.__str__(text), pieces(), MOST_TEXT // 2
        if found is None:
            return WITHHELD
        if len(text) <= MOST_TEXT:
            return _masked(text, found, 0, len(text))
        # A secret that the cut divides: all of it is found but what is less than a piece from the cut.
        head, tail = text[: half + PIECE], text[-half - PIECE :]
        return (
            f"{_masked(head, found, 0, half)} [{len(text) - MOST_TEXT} characters cut]"
            f" {_masked(tail, found, PIECE, half + PIECE)}"
        )

    return conceal


def _masked(text: str, pieces: Mapping[int, set[str]], start: int, end: int) -> str:
    """A part of a text, in which each place of a piece is masked."""
    hidden = bytearray(len(text))
    for length, wanted in pieces.items():
        if len(wanted) <= FEW:
            for piece in wanted:
                _hide_one(text, piece, hidden)
        else:
            _hide_many(text, length, wanted, hidden)
    shown = list(text[start:end])
    for found in re.finditer(rb"\x01+", hidden[start:end]):
        shown[found.start() : found.end()] = [MASK, *[""] * (found.end() - found.start() - 1)]
    return "".join(shown)


def _hide_one(text: str, piece: str, hidden: bytearray) -> None:
    """Note where a text holds a piece; what is noted already is passed over."""
    size, cover = len(piece), b"\1" * len(piece)
    at = text.find(piece)
    while at != -1:
        if size >= WHOLE_WORDS_BELOW or _is_alone(text, at, at + size):
            hidden[at : at + size] = cover
        shown = hidden.find(0, at + 1)
        at = -1 if shown == -1 else text.find(piece, max(at, shown - size) + 1)


def _hide_many(text: str, length: int, wanted: set[str], hidden: bytearray) -> None:
    """The same for many pieces of one length, in time that does not grow with their number."""
    cover = b"\1" * length
    for at in range(len(text) - length + 1):
        if text[at : at + length] in wanted and (
            length >= WHOLE_WORDS_BELOW or _is_alone(text, at, at + length)
        ):
            hidden[at : at + length] = cover


def _places(text: str, piece: str) -> Iterator[int]:
    at = text.find(piece)
    while at != -1:
        yield at
        at = text.find(piece, at + 1)


def _is_alone(text: str, start: int, end: int) -> bool:
    return not any(
        c.isalnum() or c == "_" for c in text[max(start - 1, 0) : start] + text[end : end + 1]
    )


def _pieces(secrets: Iterable[Any]) -> Mapping[int, set[str]]:
    """What to look for, by length: the ways to write each value, long ones in pieces.

    Raises:
        TooMany: there are more than 250,000.
    """
    pieces: dict[int, set[str]] = defaultdict(set)
    count = 0
    for text in {text for secret in secrets for text in _texts(secret)}:
        for form in _forms(text):
            for piece in _cut(form):
                pieces[len(piece)].add(piece)
                count += 1
        if count > MOST_PIECES:
            raise TooMany
    return pieces


def _cut(form: str) -> Iterator[str]:
    """A form, or pieces of equal length that cover it; of a very long one, its two ends."""
    if len(form) <= PIECE:
        if len(form) >= SHORTEST:
            yield form
        return
    for part in [form] if len(form) <= 2 * MOST_TEXT else [form[:MOST_TEXT], form[-MOST_TEXT:]]:
        for start in range(0, len(part) - PIECE, PIECE):
            yield part[start : start + PIECE]
        yield part[-PIECE:]


def _texts(secret: Any) -> Iterator[str]:
    if isinstance(secret, str):
        yield str.__str__(secret)
    elif isinstance(secret, bytes):
        yield repr(secret)[2:-1]
        yield secret.decode("latin-1")
    else:
        with suppress(ValueError):  # a number of too many digits is in no text either
            yield str(secret)


def _forms(text: str) -> Iterable[str]:
    if text.isascii() and text.isalnum():
        return [text]
    forms = {
        text,
        repr(text)[1:-1],
        encode_basestring_ascii(text)[1:-1],
        encode_basestring(text)[1:-1],
    }
    for part in [text] if len(text) <= 2 * MOST_TEXT else [text[:MOST_TEXT], text[-MOST_TEXT:]]:
        encoded = quote(part.encode("utf-8", "replace"), safe="")
        forms |= {encoded, encoded.replace("%2F", "/"), encoded.replace("%20", "+")}
    if "\n" in text:
        forms.update(line for line in text.splitlines() if len(line) >= WHOLE_WORDS_BELOW)
    return forms
