"""Masks what names say is secret: in shown arguments, and where their values turn up in text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

from pgqueue.errors import ConfigError

MASK = "[redacted]"
NAMES = frozenset({
    "access_key", "api_key", "authorization", "card_number", "cookie", "credential", "credentials",
    "cvv", "iban", "passphrase", "passwd", "password", "pin", "private_key", "secret", "session_id",
    "ssn", "token",
})  # fmt: skip
SHORTEST = 3
WHOLE_WORDS_BELOW = 6
SUFFIX_FROM = 5
SEARCHED = 1_000_000
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")


@dataclass(frozen=True)
class Redaction:
    """The names whose values are masked.

    A name is masked when its words contain those of an entry, one or many of it: ``password`` masks
    ``db_password``, ``newPasswords`` and ``dbpassword``, ``api_key`` masks ``X-Api-Key``.
    """

    names: frozenset[str] = NAMES

    def plus(self, names: Iterable[str]) -> Redaction:
        """With these names as well; ``-token`` takes ``token`` off.

        Raises:
            ConfigError: a name is no text with a letter in it.
        """
        if isinstance(names, str):
            raise ConfigError(f'redact takes several names, got the text {names!r}: use ["..."]')
        changed = set(self.names)
        for name in names:
            if not isinstance(name, str) or not _WORD.search(name):
                raise ConfigError(f"redact takes names of arguments, got {name!r}")
            if name.startswith("-"):
                changed -= {known for known in changed if words(known) == words(name)}
            else:
                changed.add(name)
        return Redaction(frozenset(changed))

    def hides(self, name: str) -> bool:
        """Is the value under this name masked?"""
        return _hides(self.names, name)

    def mask(self, value: Any) -> Any:
        """A copy of a JSON value, with what is under masked names replaced; None stays."""
        if isinstance(value, Mapping):
            return {
                key: MASK if self.hides(str(key)) and item is not None else self.mask(item)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.mask(item) for item in value]
        return value

    def secrets(self, value: Any) -> Iterator[Any]:
        """The texts, bytes and numbers under masked names, at any depth."""
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from scalars(item) if self.hides(str(key)) else self.secrets(item)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from self.secrets(item)


def words(name: str) -> tuple[str, ...]:
    """``userApiKey``, ``user_api_key`` and ``User-Api-Key`` as ``("user", "api", "key")``."""
    return tuple(word.lower() for word in _WORD.findall(name))


@lru_cache(maxsize=4096)
def _hides(names: frozenset[str], name: str) -> bool:
    given = words(name)
    ends = range(1, len(given) + 1)
    runs = {"".join(given[i:j]).removesuffix("s") for j in ends for i in range(j)}
    return any(
        _named(run, "".join(words(entry)).removesuffix("s")) for entry in names for run in runs
    )


def _named(run: str, entry: str) -> bool:
    return run == entry or (len(entry) >= SUFFIX_FROM and run.endswith(entry))


def scalars(value: Any) -> Iterator[Any]:
    """Every text, bytes and number in a value of lists and mappings."""
    if isinstance(value, str | bytes | int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from scalars(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from scalars(item)


def concealer(secrets: Iterable[Any]) -> Callable[[str], str]:
    """A function that replaces these values in text, however it is that the text writes them.

    Found: the value itself, its ``repr``, its JSON, its URL encoding, and each line of a text of several lines.
    Not found: other encodings (base64, hashes), parts of a value, and what is shorter than 3
    characters. A value of 3 to 5 characters is replaced only as a word of its own, lest ``port``
    vanish from ``transport``.
    """
    forms = {form for secret in secrets for form in _forms(secret) if len(form) >= SHORTEST}

    def conceal(text: str) -> str:
        if len(text) > SEARCHED:  # what is stored is far shorter
            text = f"{text[: SEARCHED // 2]} [cut] {text[-SEARCHED // 2 :]}"
        found = sorted((form for form in forms if form in text), key=len, reverse=True)
        if not found:
            return text
        return re.sub("|".join(map(_pattern, found)), MASK, text)

    return conceal


def _pattern(form: str) -> str:
    escaped = re.escape(form)
    return rf"(?<!\w){escaped}(?!\w)" if len(form) < WHOLE_WORDS_BELOW else escaped


def _forms(secret: Any) -> Iterator[str]:
    if isinstance(secret, bytes):
        yield repr(secret)[2:-1]
        yield from _forms(secret.decode("latin-1"))
        return
    text = str(secret)
    yield text
    yield repr(text)[1:-1]
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    encodable = text.encode("utf-8", "replace")
    yield quote(encodable)
    yield quote(encodable, safe="")
    yield quote_plus(encodable)
    if "\n" in text:
        yield from (line for line in text.splitlines() if len(line) >= WHOLE_WORDS_BELOW)
