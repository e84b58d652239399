"""Keys that encrypt chosen arguments: AES-256-GCM, by the ``cryptography`` library.

A parameter ``password: Secret[str]`` is a ``str`` for callers and handlers; its row holds::

    {"$encrypted": "v1.<key id>.<base64url of nonce, ciphertext and tag>"}

The plain text is the value's JSON. The nonce is 12 random bytes, the tag 16 (NIST SP 800-38D: at most
2**32 values per key). Associated data is ``pgqueue:v1:<task>:<parameter>``, so that a value copied to
another task or parameter does not decrypt. The key id is the first 8 hex digits of
SHA-256(``"pgqueue key id"`` + key).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import hmac
import os
import typing
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pgqueue.errors import ArgumentsError, ConfigError, KeyMissing

T = TypeVar("T")
FIELD = "$encrypted"
KEY_BYTES = 32
NONCE_BYTES = 12


class Encrypted:
    """Marks a parameter whose value is stored encrypted: ``Annotated[str, Encrypted]``."""


Secret: TypeAlias = Annotated[T, Encrypted]
"""``password: Secret[str]`` is a ``str`` that is stored encrypted."""


class Keys:
    """Keys of 32 bytes as base64; the first encrypts, each decrypts what it once encrypted.

    Args:
        keys: each as ``Keys.generate()`` or ``openssl rand -base64 32`` prints it.

    Raises:
        ConfigError: not such a key, or the ``cryptography`` library is not installed.
    """

    def __init__(self, *keys: str) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError:
            raise ConfigError(
                'encrypted arguments need the extra: pip install "pgqueue-postgres[crypto]"'
            ) from None
        if not keys:
            raise ConfigError("Keys() needs at least one key: Keys.generate() makes one")
        self._texts = keys
        self._ciphers: dict[str, Any] = {}
        for text in keys:
            raw = _key_bytes(text)
            self._ciphers.setdefault(key_id(raw), AESGCM(raw))

    @staticmethod
    def generate() -> str:
        """A new random key, as base64 text."""
        return base64.b64encode(os.urandom(KEY_BYTES)).decode()

    @classmethod
    def parse(cls, text: str) -> Keys:
        """Keys separated by commas or white space, as in ``PGQUEUE_KEYS``; raises as ``Keys`` does."""
        return cls(*text.replace(",", " ").split())

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys, the one that encrypts first. No secret."""
        return tuple(self._ciphers)

    def seal(self, plain: bytes, *, task: str, parameter: str) -> dict[str, str]:
        """Encrypt a parameter's JSON; returns what the row holds."""
        name, cipher = next(iter(self._ciphers.items()))
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + cipher.encrypt(nonce, plain, _associated(task, parameter))
        return {FIELD: f"v1.{name}.{base64.urlsafe_b64encode(sealed).decode()}"}

    def open(self, sealed: dict[str, str], *, task: str, parameter: str) -> bytes:
        """The JSON of an encrypted parameter.

        Raises:
            KeyMissing: none of these keys encrypted it.
            ArgumentsError: it was changed, or belongs to another task or parameter.
        """
        from cryptography.exceptions import InvalidTag

        name, body = _parts(sealed, parameter)
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise key_missing(name, parameter)
        try:
            raw = base64.b64decode(body, altchars=b"-_", validate=True)
            plain: bytes = cipher.decrypt(
                raw[:NONCE_BYTES], raw[NONCE_BYTES:], _associated(task, parameter)
            )
        except (InvalidTag, ValueError):
            raise ArgumentsError(
                f"{parameter} does not decrypt: it was changed, or belongs to another task or parameter"
            ) from None
        return plain

    def fingerprint(self, plain: bytes, *, task: str, parameter: str) -> str:
        """The same for the same value, as ciphertext is not; HMAC-SHA256 (RFC 2104) with the first key."""
        key = hashlib.sha256(b"pgqueue fingerprint" + _key_bytes(self._texts[0])).digest()
        return hmac.new(key, _associated(task, parameter) + b"\0" + plain, "sha256").hexdigest()

    def __reduce__(self) -> tuple[type[Keys], tuple[str, ...]]:
        return Keys, self._texts

    def __repr__(self) -> str:
        return f"<Keys {', '.join(self._ciphers)}>"


def key_missing(name: str, parameter: str) -> KeyMissing:
    return KeyMissing(f"{parameter} is encrypted with key {name}, which PGQUEUE_KEYS does not hold")


def key_id(raw: bytes) -> str:
    return hashlib.sha256(b"pgqueue key id" + raw).hexdigest()[:8]


def key_of(value: Any, parameter: str) -> str | None:
    """The id of the key that encrypted a stored value; None if it is not encrypted."""
    return _parts(value, parameter)[0] if is_sealed(value) else None


def is_sealed(value: Any) -> bool:
    """Is this what ``seal`` returns?"""
    return isinstance(value, dict) and value.keys() == {FIELD}


def is_encrypted(kind: Any) -> bool:
    """Does a type hold the mark anywhere: ``Secret[str] | None``, or a field of a dataclass?

    Raises:
        TypeError: it has an annotation that does not resolve, so that nobody can tell.
    """
    pending: list[Any] = [kind]
    seen: dict[int, Any] = {}
    while pending:
        each = pending.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each  # kept, lest another gets its id
        if typing.get_origin(each) is Annotated and any(map(_is_mark, each.__metadata__)):
            return True
        if _is_mark(each):
            return True
        pending += _parts_of(each)
    return False


def _is_mark(each: Any) -> bool:
    return isinstance(each, Encrypted) or (isinstance(each, type) and issubclass(each, Encrypted))


def _parts_of(kind: Any) -> list[Any]:
    """The types that a type is made of."""
    if isinstance(kind, list | tuple):
        return list(kind)
    if isinstance(kind, str | typing.ForwardRef):
        raise TypeError(f"the annotation {kind!r} does not resolve, and may be a Secret")
    origin = typing.get_origin(kind)
    if origin is Literal:
        return []
    if origin is Annotated:
        return [kind.__origin__]
    if isinstance(kind, type) and origin is None:
        return _parts_of_class(kind)
    found = [origin, *typing.get_args(kind)]
    for name in ("__supertype__", "__value__", "__bound__", "__constraints__"):
        found.append(_value(kind, name))
    if isinstance(kind, dataclasses.InitVar):
        found.append(kind.type)
    return [each for each in found if each is not None]


def _value(kind: Any, name: str) -> Any:
    """What an alias, a NewType or a type variable stands for."""
    try:
        return getattr(kind, name, None)
    except NameError as error:  # of ``type X = ...``, which is evaluated when it is asked for
        raise TypeError(f"{kind} does not resolve, and may be a Secret: {error}") from None


def _parts_of_class(kind: type) -> list[Any]:
    found: list[Any] = list(getattr(kind, "__orig_bases__", ()))
    fields = getattr(kind, "model_fields", None)
    if isinstance(fields, dict):  # pydantic keeps types that were local, and marks apart from them
        for each in fields.values():
            found += [getattr(each, "annotation", None), *getattr(each, "metadata", ())]
        return [each for each in found if not isinstance(each, str)]
    if not _has_fields(kind):
        return found
    try:
        return found + list(typing.get_type_hints(kind, include_extras=True).values())
    except NameError as error:
        raise TypeError(
            f"the annotations of {kind.__name__} do not resolve, and one may be a Secret: {error};"
            " define what they name at the top of its module"
        ) from None


def _has_fields(kind: type) -> bool:
    names = ("__struct_fields__", "__attrs_attrs__", "__total__", "_fields", "model_validate")
    return dataclasses.is_dataclass(kind) or any(hasattr(kind, name) for name in names)


def _associated(task: str, parameter: str) -> bytes:
    return f"pgqueue:v1:{task}:{parameter}".encode()


def _parts(sealed: dict[str, Any], parameter: str) -> tuple[str, str]:
    version, _, rest = str(sealed[FIELD]).partition(".")
    name, _, body = rest.partition(".")
    if version != "v1" or not body:
        raise ArgumentsError(f"{parameter} is encrypted in a format this version does not know")
    return name, body


def _key_bytes(text: str) -> bytes:
    try:
        raw = base64.b64decode(
            text, altchars=b"-_" if set(text) & {"-", "_"} else None, validate=True
        )
    except (binascii.Error, ValueError, TypeError):
        raw = b""
    if len(raw) != KEY_BYTES:
        raise ConfigError(
            "a key is 32 random bytes as base64, such as `openssl rand -base64 32` prints; one of"
            " those given is not"
        )
    return raw
