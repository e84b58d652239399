"""What an app keeps from eyes: the names it masks and the keys it encrypts with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pgqueue.codec import argument_text, opened
from pgqueue.errors import ArgumentsError, ConfigError, KeyMissing
from pgqueue.keys import FIELD, Keys, is_sealed
from pgqueue.redact import MASK, Redaction, concealer, scalars


@dataclass(frozen=True)
class Privacy:
    """The redaction and the keys of an app; goes with a job into a process."""

    redaction: Redaction = field(default_factory=Redaction)
    keys: Keys | None = None

    def concealer(
        self,
        task: str,
        text: str,
        *,
        redact: Iterable[str] = (),
        encrypted: Iterable[str] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> Callable[[str], str]:
        """A function that takes the secret arguments of a job out of error text.

        Args:
            task: the job's task, as its row names it.
            text: its stored arguments.
            redact: names the task masks besides the app's.
            encrypted: parameters whose every value is secret.
            arguments: the same decoded, for values that JSON writes otherwise.
        """
        redaction = self.redaction.plus(redact)

        def secrets() -> Iterator[Any]:
            for values in (self._stored(task, text), arguments or {}):
                yield from redaction.secrets(values)
                yield from scalars([values.get(name) for name in encrypted])

        return concealer(secrets())

    def edited(
        self, task: str, stored: Any, given: Mapping[str, Any], encrypted: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Arguments a person edited, as they are to be stored.

        A value left as the mask keeps what is stored; what was or is to be encrypted is.

        Raises:
            ArgumentsError: a mask stands where nothing is stored, or deeper than at the top.
            ConfigError: a value is to be encrypted and there are no keys.
        """
        old = stored if isinstance(stored, Mapping) else {}
        sealed = {*encrypted, *(name for name, value in old.items() if is_sealed(value))}
        result: dict[str, Any] = {}
        for name, value in given.items():
            if value == MASK and name in old:
                result[name] = old[name]
            elif MASK in scalars(value):
                raise ArgumentsError(f"{name} holds {MASK}: give its real value")
            elif name in sealed and not is_sealed(value):
                if self.keys is None:
                    raise ConfigError(f"{name} is stored encrypted: set PGQUEUE_KEYS to change it")
                result[name] = self.keys.seal(
                    argument_text(value).encode(), task=task, parameter=name
                )
            else:
                result[name] = value
        return result

    def identity(self, task: str, text: str) -> str:
        """Arguments with fingerprints in place of what is encrypted, which differs each time it is."""
        if self.keys is None or FIELD not in text:
            return text
        values = json.loads(text)
        for name, value in values.items():
            if is_sealed(value):
                plain = self.keys.open(value, task=task, parameter=name)
                values[name] = self.keys.fingerprint(plain, task=task, parameter=name)
        return json.dumps(values)

    def _stored(self, task: str, text: str) -> Mapping[str, Any]:
        try:
            values = json.loads(opened(text, task=task, keys=self.keys))
        except (ValueError, RecursionError, ArgumentsError, KeyMissing):
            return {}  # then the handler did not see them either
        return values if isinstance(values, dict) else {}
