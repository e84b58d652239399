"""Arguments to JSON and back, by a function's own signature (msgspec does the conversion)."""

from __future__ import annotations

import inspect
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from keyword import iskeyword
from typing import Any

import msgspec

from pgqueue.annotations import CANNOT_RESOLVE, hints_of, parameters_of
from pgqueue.collisions import check_collisions, hashes
from pgqueue.errors import ArgumentsError, ConfigError, TaskError, UnknownArguments
from pgqueue.jsontext import check_stored, check_text, json_of
from pgqueue.keys import FIELD, Keys, is_encrypted, is_sealed, key_missing, key_of
from pgqueue.models import (
    TAKEN,
    UNKNOWN_FIELD,
    canonical,
    check_readable,
    check_same,
    dump,
    is_limited,
    is_pydantic,
    is_readable,
    readable,
    validate,
)
from pgqueue.redact import concealer, scalars
from pgqueue.reference import ResultOf, may_refer, referring, refuse, written
from pgqueue.text import nearest

_SIMPLE = frozenset({str, int, float, bool, type(None)})
_UNTYPED = (Any, object, dict, list, tuple)
_SEALED = f'"{FIELD}"'


class _Refers(Exception):
    """An argument is, or holds, the result of another job."""


def from_pydantic(value: Any) -> Any:
    if type(value) is ResultOf:
        raise _Refers
    if is_pydantic(type(value)):
        return dump(value)
    if hasattr(value, "model_dump"):  # written like one
        return value.model_dump(mode="json")
    name = type(value).__name__
    if hasattr(value, "get_secret_value"):
        raise NotImplementedError(
            f"a {name} cannot be stored: declare a plain type and mark it pgqueue.Secret[...], which stores it"
            " encrypted"
        )
    raise NotImplementedError(f"objects of type {name} cannot be stored as JSON")


def to_pydantic(kind: type, value: Any) -> Any:
    if is_readable(kind):
        return validate(kind, value)
    if isinstance(value, kind):
        return value
    raise NotImplementedError(f"arguments of type {kind.__name__} cannot be read from JSON")


class Unresolved(TaskError):
    """An annotation names what is not there, or not yet."""


class Signature:
    """The parameters of a task: binds, checks, encodes and decodes its arguments."""

    def __init__(
        self,
        parameters: Mapping[str, inspect.Parameter],
        hints: Mapping[str, Any],
        encrypted: frozenset[str] = frozenset(),
    ) -> None:
        hints = {name: readable(kind) for name, kind in hints.items()}
        self._signature = inspect.Signature(list(parameters.values()))
        self.encrypted = encrypted
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        for name, parameter in parameters.items():
            kind = hints.get(name, Any)
            if parameter.default is inspect.Parameter.empty:
                fields.append((name, kind))
            else:
                fields.append((name, kind, msgspec.field(default_factory=_constant(parameter))))
        self.names = tuple(parameters)
        self._known = frozenset(parameters)
        self._positional = [
            name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        self._nameless = any(p.kind is p.POSITIONAL_ONLY for p in parameters.values())
        self.defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
        self._required = parameters.keys() - self.defaults.keys()
        self._struct = msgspec.defstruct(
            "Arguments",
            [(f"p{i}", *field[1:]) for i, field in enumerate(fields)],
            rename={f"p{i}": field[0] for i, field in enumerate(fields)},
            kw_only=True,
            forbid_unknown_fields=True,
        )
        self._decoder = msgspec.json.Decoder(self._struct, dec_hook=to_pydantic)
        self._fields = {name: f"p{i}" for i, name in enumerate(parameters)}
        self._kinds = {name: hints.get(name, Any) for name in parameters}
        self._hashes = any(map(hashes, self._kinds.values()))

    def encode(
        self, task: str, args: tuple[Any, ...], kwargs: dict[str, Any], keys: Keys | None = None
    ) -> str:
        """Return the arguments as JSON text, chosen ones encrypted.

        Raises:
            ArgumentsError: they do not fit the signature, are not JSON, or are too large or deep; the
                message does not hold their values.
            ConfigError: some are to be encrypted, and there are no keys.
        """
        try:
            bound = self._bind(args, kwargs)
            plain = msgspec.to_builtins(bound, enc_hook=from_pydantic, str_keys=True)
            text = json_of(plain)
            check_text(text)
            self._check_same(bound, self._decoder.decode(text))
            if _SEALED in text:
                _refuse_sealed(plain)
            if may_refer(text):
                refuse(plain)
        except _Refers:
            return self._referring(task, self._bind(args, kwargs), keys)
        except Exception as error:  # also of the caller's own classes
            raise _refused(task, error, [args, kwargs]) from None
        return self._sealed(task, plain, keys) if self.encrypted else text

    def _check_same(self, bound: Mapping[str, Any], struct: Any) -> None:
        for name, value in bound.items():
            if type(value) not in _SIMPLE:
                back = getattr(struct, self._fields[name])
                check_same(name, value, back, untyped=self._kinds[name] in _UNTYPED)

    def canonical(self, text: str, names: Sequence[str]) -> dict[str, Any]:
        """These arguments of a call, from its JSON text: plain values that are the same for equal arguments."""
        given = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        found = {}
        for name in names:
            if name not in given:
                found[name] = canonical(self.defaults.get(name))
                continue
            try:
                value = msgspec.json.decode(
                    given[name], type=self._kinds[name], dec_hook=to_pydantic
                )
            except (msgspec.MsgspecError, ValueError, NotImplementedError):
                value = msgspec.json.decode(
                    given[name]
                )  # of SQL, or a result that is not known yet
            found[name] = canonical(value)
        return found

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if not kwargs and len(args) == len(self.names) == len(self._positional):
            return dict(zip(self.names, args, strict=True))
        if len(args) <= len(self._positional) and not self._nameless:
            bound = dict(zip(self._positional, args, strict=False)) | kwargs
            each_once = len(bound) == len(args) + len(kwargs)
            if each_once and self._required <= bound.keys() <= self._known:
                return bound
        return self._signature.bind(*args, **kwargs).arguments  # slower, and says what is wrong

    def _referring(self, task: str, bound: dict[str, Any], keys: Keys | None) -> str:
        """As ``encode``; arguments with results of other jobs are checked when those are known."""
        plain: dict[str, Any] = {}
        results: list[ResultOf] = []
        try:
            for name, value in bound.items():
                marks: dict[str, ResultOf] = {}
                one = msgspec.to_builtins(value, enc_hook=_marking(marks), str_keys=True)
                refuse(one)
                if not marks:
                    kind = self._kinds[name]
                    back = msgspec.json.decode(json_of(one), type=kind, dec_hook=to_pydantic)
                    check_same(name, value, back, untyped=kind in _UNTYPED)
                elif name in self.encrypted:
                    raise ArgumentsError(f"{name} is encrypted, so no result can be put into it")
                plain[name] = written(one, marks)
                results += marks.values()
            text = json_of(plain)
            check_text(text)
            _refuse_sealed(plain)
        except Exception as error:
            raise _refused(task, error, bound) from None
        return referring(self._sealed(task, plain, keys) if self.encrypted else text, results)

    def _sealed(self, task: str, plain: dict[str, Any], keys: Keys | None) -> str:
        if keys is None:
            raise ConfigError(
                f"{task} has encrypted parameters ({', '.join(sorted(self.encrypted))}) and there are"
                " no keys: set PGQUEUE_KEYS, or App(keys=Keys(...)); Keys.generate() makes one"
            )
        sealed = {
            name: keys.seal(json_of(value).encode(), task=task, parameter=name)
            if name in self.encrypted
            else value
            for name, value in plain.items()
        }
        text = json_of(sealed)
        check_text(text)
        return text

    def decode(self, text: str, *, task: str = "", keys: Keys | None = None) -> dict[str, Any]:
        """Return keyword arguments from JSON text.

        Args:
            task: the name in the job's row, which may be an alias; encrypted arguments are bound to it.

        Raises:
            UnknownArguments: they fit, but for some that this version of the task does not know.
            ArgumentsError: the stored arguments do not fit the signature or do not decrypt.
            KeyMissing: they are encrypted with a key that is not among ``keys``.
        """
        check_stored(text)
        try:
            text = opened(text, task=task, keys=keys)
            if self._hashes:
                check_collisions(text)
            values = self._decoder.decode(text)
        except ArgumentsError:
            raise
        except (msgspec.MsgspecError, ValueError, NotImplementedError, RecursionError) as error:
            reason = concealer(_scalars_of(text, task, keys))(str(error))
            if (surplus := self._surplus(text, reason)) is not None:
                raise UnknownArguments(surplus) from None
            raise ArgumentsError(f"the stored arguments do not fit: {reason}") from None
        return dict(zip(self.names, msgspec.structs.astuple(values), strict=True))

    def _surplus(self, text: str, reason: str) -> str | None:
        """What there is more than this version of the task knows, if all else fits; None if it does not."""
        try:
            given = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
            unknown = sorted(given.keys() - self._known)
            if not self._required <= given.keys():  # misspelt, or meant for another task
                return None
            if not unknown:
                return reason if UNKNOWN_FIELD in reason else None
            for name in unknown:
                del given[name]
            self._decoder.decode(msgspec.json.encode(given))
        except (msgspec.MsgspecError, ValueError, NotImplementedError, RecursionError) as error:
            if UNKNOWN_FIELD not in str(error):
                return None
        shown = ", ".join(map(_short, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        takes = ", ".join(self.names) or "none"
        meant = nearest(unknown[0], self.names) if len(unknown[0]) <= 100 else ""
        return f"this version of the task has no argument {shown}, it takes {takes}{meant}"


def _short(name: str) -> str:
    return repr(name) if len(name) <= 60 else f"{name[:60]!r}..."


def _refused(task: str, error: Exception, values: Any) -> ArgumentsError:
    """Why arguments cannot be stored, without their values."""
    if isinstance(error, ArgumentsError):
        return ArgumentsError(f"arguments of {task}: {error}")
    if isinstance(error, RecursionError):
        return ArgumentsError(f"arguments of {task}: nested deeper than 64, or in a circle")
    if isinstance(error, UnicodeEncodeError):
        return ArgumentsError(f"arguments of {task}: text with a lone surrogate cannot be stored")
    reason = concealer(scalars(values))(str(error)).replace("`", "'")
    if isinstance(error, OverflowError) or "integer string conversion" in reason:
        reason = "a number of so many digits cannot be stored"
    elif not isinstance(error, TypeError | ValueError | NotImplementedError):
        reason = f"{type(error).__name__}: {reason}"
    return ArgumentsError(f"arguments of {task}: {reason}")


def _marking(marks: dict[str, ResultOf]) -> Callable[[Any], Any]:
    """References as text that no argument can hold by chance; collects what each stands for."""

    def mark(value: Any) -> Any:
        if type(value) is not ResultOf:
            return from_pydantic(value)
        text = secrets.token_hex(16)
        marks[text] = value
        return text

    return mark


def opened(text: str, *, task: str, keys: Keys | None) -> str:
    """Arguments as JSON text with encrypted ones decrypted; raises as ``Signature.decode`` does."""
    if _SEALED not in text:
        return text
    values = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    for name, raw in values.items():
        if FIELD.encode() not in bytes(raw):
            continue
        value = msgspec.json.decode(raw)
        used = key_of(value, name)
        if used is None:
            continue
        if keys is None:
            raise key_missing(used, name)
        values[name] = msgspec.Raw(keys.open(value, task=task, parameter=name))
    return msgspec.json.encode(values).decode()


def _scalars_of(text: str, task: str, keys: Keys | None) -> list[Any]:
    try:
        return list(scalars(json.loads(opened(text, task=task, keys=keys))))
    except (ValueError, RecursionError):  # then the message holds none of it
        return []


def _refuse_sealed(plain: dict[str, Any]) -> None:
    for name, value in plain.items():
        if is_sealed(value):
            raise ArgumentsError(
                f"{name}: a dict of only {FIELD!r} is how encrypted values are stored"
            )


def encode_untyped(task: str, arguments: Mapping[str, Any]) -> str:
    """JSON text of arguments of a task whose code is not here; they may refer to results of other jobs.

    Raises:
        ArgumentsError: they cannot be stored; whether they fit the task, its worker will find out.
    """
    marks: dict[str, ResultOf] = {}
    try:
        for name in arguments:
            if not name.isidentifier() or iskeyword(name):
                raise ArgumentsError(f"{name[:60]!r} cannot be the name of a parameter")
        plain = msgspec.to_builtins(dict(arguments), enc_hook=_marking(marks), str_keys=True)
        refuse(plain)
        _refuse_sealed(plain)
        text = json_of(written(plain, marks) if marks else plain)
        check_text(text)
    except Exception as error:  # also of the caller's own classes
        raise _refused(task, error, arguments) from None
    return referring(text, list(marks.values())) if marks else text


def argument_text(value: Any, what: str = "edited arguments") -> str:
    """JSON text of a value somebody edited, or of another.

    Raises:
        ArgumentsError: it is not JSON, or PostgreSQL could not store it.
    """
    try:
        text = json_of(value)
        check_text(text)
    except UnicodeEncodeError:
        raise ArgumentsError("text with a lone surrogate cannot be stored") from None
    except Exception as error:  # a number of too many digits among them
        raise ArgumentsError(f"{what}: {error}") from None
    return text


def _constant(parameter: inspect.Parameter) -> Callable[[], Any]:
    return lambda: parameter.default


class _Given:
    def __repr__(self) -> str:
        return "given()"


GIVEN: Any = _Given()


def given() -> Any:
    """The default of a parameter that the worker fills with a resource of the parameter's type."""
    return GIVEN


def signature_of(function: Callable[..., Any], *, skip: int = 0) -> Signature:
    """Read a function's parameters; the first ``skip`` are not arguments of the job.

    Raises:
        TaskError: it has ``*args``, ``**kwargs`` or a type that JSON cannot carry.
    """
    name = getattr(function, "__qualname__", repr(function))
    parameters = dict(list(parameters_of(function).items())[skip:])
    parameters = {name: p for name, p in parameters.items() if p.default is not GIVEN}
    for each in parameters.values():
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            raise TaskError(
                f"{name} takes {each}: a job's arguments are stored by name, so give each"
                " one a parameter of its own (a list or a dict is fine)"
            )
    hints: dict[str, Any] = {}
    marked: dict[str, Any] = {}
    for parameter in parameters:
        try:
            hints |= hints_of(function, [parameter])
            marked |= hints_of(function, [parameter], extras=True)
        except CANNOT_RESOLVE as error:
            raise Unresolved(
                f"{name}: the annotation of {parameter} does not resolve: {error}; a worker needs the type"
                " of each argument, so import it outside `if TYPE_CHECKING:`"
            ) from None
    hints |= {name: kind for name, kind in marked.items() if is_limited(kind)}
    try:
        for parameter, kind in hints.items():
            _check_readable(name, parameter, kind)
        encrypted = frozenset(p for p in parameters if is_encrypted(marked.get(p)))
        return Signature(parameters, hints, encrypted)
    except TaskError:
        raise
    except TypeError as error:
        way = ""
        if "union" in str(error).replace(TAKEN, ""):
            way = (
                "; what can be told apart are pydantic models, and msgspec Structs with a tag (class A(Struct,"
                " tag=True)); else give each class a task or a parameter of its own"
            )
        raise TaskError(f"{name}: {error}{way}") from None


def _check_readable(name: str, parameter: str, kind: Any) -> None:
    """Raise TaskError for an annotation that would not be enforced."""
    try:
        check_readable(readable(kind))
    except ImportError:
        raise TaskError(
            f"{name}: the parameter {parameter} has a constraint that pydantic applies, which is not installed:"
            " install it, or use msgspec.Meta"
        ) from None
    except Exception as error:  # msgspec's and pydantic's own too
        if "union" in str(error).replace(TAKEN, ""):
            raise
        raise TaskError(f"{name}: the parameter {parameter}: {error}") from None
