"""Unique jobs: which calls count as the same, how long a job keeps others out, and what then becomes of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from pgqueue.checks import several, shown
from pgqueue.codec import Signature
from pgqueue.durations import Duration, seconds
from pgqueue.errors import ConfigError, TaskError

Until = Literal["started", "finished", "succeeded", "removed"]
OnConflict = Literal["ignore", "replace", "reschedule", "raise"]
MOST_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Unique:
    """No second job of the same key while the first holds it.

    Args:
        by: names of the arguments that make the key; None for all of them. Left empty, the key is
            the task's: one job of it at a time.
        until: the job holds its key until it has "started", "finished" (in whatever way), "succeeded"
            (so also while it is dead), or was "removed" from the table.
        within: instead of ``until``, it holds its key for this long from its enqueueing on.
        on_conflict: "ignore" leaves the first job as it is; "replace" gives it the new arguments and
            options, but not the new time; "reschedule" the new time as well (a debounce); "raise"
            raises ``JobExists``, and nothing was inserted. "replace" and "reschedule" need
            ``until="started"``: a job that runs cannot be changed any more.

    Raises:
        ConfigError: one of them is not usable, or they do not go together.
    """

    by: Sequence[str] | None = None
    until: Until = "finished"
    within: Duration | None = None
    on_conflict: OnConflict = "ignore"

    def __post_init__(self) -> None:
        if self.by is not None:
            by = several(self.by, "unique: by", "argument names")
            if not all(isinstance(name, str) for name in by):
                raise ConfigError(f"unique: by takes argument names, got {shown(self.by)}")
            object.__setattr__(self, "by", by)
        if not isinstance(self.until, str) or self.until not in get_args(Until):
            raise ConfigError(f"unique: until is one of {_listed(Until)}, got {shown(self.until)}")
        if not isinstance(self.on_conflict, str) or self.on_conflict not in get_args(OnConflict):
            raise ConfigError(
                f"unique: on_conflict is one of {_listed(OnConflict)}, got {shown(self.on_conflict)}"
            )
        if self.within is not None:
            length = seconds(self.within, name="within")
            if length < 0.001:
                raise ConfigError("unique: within must be at least 1 ms")
            object.__setattr__(self, "within", length)
        changes = self.on_conflict in ("replace", "reschedule")
        if changes and (self.until != "started" or self.within is not None):
            raise ConfigError(
                f'unique: on_conflict="{self.on_conflict}" changes the waiting job, so it goes with'
                ' until="started" only: once the first runs, the next call queues another'
            )

    def check(self, signature: Signature, task: str) -> None:
        """Can the key be made of this task's arguments?

        Raises:
            TaskError: an argument is not the task's, or is encrypted.
        """
        names = signature.names if self.by is None else self.by
        unknown = [name for name in names if name not in signature.names]
        if unknown:
            raise TaskError(f"{task}: unique by {unknown[0]!r}, which is no parameter of it")
        secret = [name for name in names if name in signature.encrypted]
        if secret:
            raise TaskError(
                f"{task}: unique by {secret[0]!r}, which is encrypted, would store what can be guessed"
                " of it: name other arguments in by=, or give a key with with_unique(key)"
            )

    def key_of(self, signature: Signature, args: str) -> str:
        """The key of a call, from its arguments as JSON text: a digest, so it tells nothing of them."""
        if self.by == ():
            return "*"
        chosen = signature.canonical(args, signature.names if self.by is None else self.by)
        text = json.dumps(chosen, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


UniqueLike: TypeAlias = bool | str | Sequence[str] | Unique


def unique_from(value: UniqueLike | None) -> Unique | None:
    """True: all arguments; names: those arguments; or a Unique.

    Raises:
        ConfigError: none of these.
    """
    if value is None or value is False:
        return None
    if isinstance(value, Unique):
        return value
    if value is True:
        return Unique()
    if isinstance(value, bytes) or not isinstance(value, Sequence):
        raise ConfigError(
            f"unique must be True, names of arguments or a Unique, got {shown(value)}"
        )
    return Unique(by=(value,) if isinstance(value, str) else value)


def check_key(key: str) -> str:
    """Return the key, or raise ConfigError unless it is text of 1 to 300 characters."""
    if not isinstance(key, str) or not 1 <= len(key) <= MOST_CHARACTERS or "\0" in key:
        raise ConfigError(
            f"a unique key is text of 1 to {MOST_CHARACTERS} characters, got {shown(key)}"
        )
    try:
        key.encode()
    except UnicodeEncodeError:
        raise ConfigError("a unique key with a lone surrogate cannot be stored") from None
    return key


def _listed(kind: object) -> str:
    return ", ".join(get_args(kind))
