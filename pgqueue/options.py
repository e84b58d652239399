"""What can be said of a job besides its arguments, and the chained verbs that say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Generic, TypeVar

from pgqueue.codec import Signature
from pgqueue.durations import Duration, seconds
from pgqueue.errors import ConfigError
from pgqueue.job import (
    NewJob,
    UniqueKey,
    check_max_retries,
    check_priority,
    check_queue,
    check_run_at,
)
from pgqueue.limits import Gate
from pgqueue.retry import Backoff, BackoffLike, backoff_from
from pgqueue.unique import OnConflict, Unique, UniqueLike, Until, check_key, unique_from

T = TypeVar("T")
UNCHOSEN = ""  # the queue of a job by name: the one that its task declares


@dataclass(frozen=True, slots=True)
class Options:
    """A job's queue, priority, retries, time and uniqueness; None was not chosen. Times in seconds."""

    queue: str = "default"
    priority: int | None = None
    max_retries: int | None = None
    backoff: Backoff | None = None
    delay: float | None = None
    run_at: datetime | None = None
    expires: float | None = None
    unique: Unique | None = None
    key: str | None = None
    gate: Gate | None = None

    def new_job(
        self, task: str, args: str, signature: Signature | None = None, *, by_name: bool = False
    ) -> NewJob:
        """The job of a call, whose arguments are JSON text already.

        Args:
            by_name: what was not chosen is what workers have declared of the task.

        Raises:
            TaskError: its unique key cannot be made of its arguments.
        """
        backoff = None if self.backoff is None else self.backoff.as_json()
        return NewJob(
            task,
            args,
            self.queue,
            self.priority,
            self.max_retries,
            backoff,
            self.run_at,
            self.delay,
            self.expires,
            None if self.unique is None else self._key(self.unique, task, args, signature),
            None if self.gate is None else _limit_key(self.gate, task, args, signature),
            by_name,
        )

    def over(self, declared: Options) -> Options:
        """What was chosen here, and else what is declared."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(
            declared, **{n: value for n, value in chosen.items() if value not in (None, UNCHOSEN)}
        )

    def declared(self) -> dict[str, Any]:
        """What holds for jobs that do not say otherwise; ``expires`` in seconds."""
        chosen = {
            "queue": None if self.queue == "default" else self.queue,
            "priority": self.priority,
            "max_retries": self.max_retries,
            "backoff": None if self.backoff is None else self.backoff.as_json(),
            "expires": self.expires,
            # That its key is made by its code, which who enqueues by name has not.
            "unique": None if self.unique is None else True,
        }
        return {name: value for name, value in chosen.items() if value is not None}

    def _key(self, unique: Unique, task: str, args: str, signature: Signature | None) -> UniqueKey:
        key = self.key
        if key is None:
            if signature is None:
                raise ConfigError(f"{task}: without its signature it needs with_unique(key)")
            unique.check(signature, task)
            key = unique.key_of(signature, args)
        within = None if unique.within is None else seconds(unique.within)
        return UniqueKey(key, unique.until, within, unique.on_conflict)


def _limit_key(gate: Gate, task: str, args: str, signature: Signature | None) -> str:
    if signature is None:
        raise ConfigError(f"{task} has limits: without its signature there is no key of a job")
    gate.check(signature, task)
    return gate.key_of(signature, args)


def options_of(
    *,
    queue: str = "default",
    priority: int | None = None,
    max_retries: int | None = None,
    backoff: BackoffLike | None = None,
    unique: UniqueLike | None = None,
    expires: Duration | None = None,
    gate: Gate | None = None,
) -> Options:
    """Checked options of a task.

    Raises:
        ConfigError: one of them is out of range.
    """
    return Options(
        check_queue(queue),
        None if priority is None else check_priority(priority),
        None if max_retries is None else check_max_retries(max_retries),
        None if backoff is None else backoff_from(backoff),
        expires=None if expires is None else seconds(expires, name="expires"),
        unique=unique_from(unique),
        gate=gate,
    )


class Verbs(Generic[T]):
    """The ``with_*`` verbs. Each returns a changed copy, a ``T``; the order does not matter."""

    options: Options

    def _changed(self, options: Options) -> T:
        raise NotImplementedError

    def _with(self, **changes: Any) -> T:
        return self._changed(replace(self.options, **changes))

    def with_queue(self, queue: str) -> T:
        """Enqueue to this queue."""
        return self._with(queue=check_queue(queue))

    def with_priority(self, priority: int) -> T:
        """Higher runs first; -32768 to 32767."""
        return self._with(priority=check_priority(priority))

    def with_max_retries(self, max_retries: int) -> T:
        """Run at most ``max_retries`` times after the first."""
        return self._with(max_retries=check_max_retries(max_retries))

    def with_backoff(self, backoff: BackoffLike) -> T:
        """Wait this long after the first failure, twice as long after each further; or a Backoff."""
        return self._with(backoff=backoff_from(backoff))

    def with_delay(self, delay: Duration) -> T:
        """Do not run before this time has passed, by the database's clock."""
        return self._with(delay=seconds(delay, name="delay"), run_at=None)

    def with_run_at(self, run_at: datetime) -> T:
        """Do not run before this time; it must have a time zone."""
        return self._with(run_at=check_run_at(run_at), delay=None)

    def with_expires(self, expires: Duration) -> T:
        """Do not start it later than this after it was due: then it is cancelled instead."""
        return self._with(expires=seconds(expires, name="expires"))

    def with_unique(
        self,
        key: str | None = None,
        *,
        by: Sequence[str] | None = None,
        until: Until = "finished",
        within: Duration | None = None,
        on_conflict: OnConflict = "ignore",
    ) -> T:
        """No second job of the same key while the first holds it; ``Unique`` explains the rest.

        Args:
            key: 1 to 300 characters, within this task; default a digest of the arguments ``by``.
            by: names of arguments; default those that the task declares, or all.

        Raises:
            ConfigError: an argument is not usable, or they do not go together.
        """
        if key is not None and by is not None:
            raise ConfigError("with_unique takes a key, or by= to make one of arguments, not both")
        if by is None and self.options.unique is not None:
            by = self.options.unique.by
        unique = Unique(by, until, within, on_conflict)
        return self._with(unique=unique, key=None if key is None else check_key(key))
