"""Operations on jobs that people and applications ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from pgqueue.checks import MOST_ID, check_id, check_ids, shown, storable_text, whole_number
from pgqueue.codec import argument_text
from pgqueue.durations import Duration, seconds
from pgqueue.errors import ArgumentsError, ConfigError
from pgqueue.job import (
    TOO_LARGE,
    Attempt,
    JobRow,
    Status,
    check_priority,
    check_queue,
    check_run_at,
)
from pgqueue.jsontext import MOST_CLAIMED
from pgqueue.operations import Operation, Row, ids
from pgqueue.operations.steps import check_step
from pgqueue.outcome import MESSAGE_LIMIT

UNFINISHED = (Status.BLOCKED, Status.PENDING, Status.RUNNING)
ENDED = (Status.SUCCEEDED, Status.DEAD, Status.CANCELLED)
# Characters of arguments that a list has, of one job and of all together.
MOST_LISTED = 16_000
MOST_PAGE = 2_000_000
MOST_LISTED_ERROR = 1_000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs: each given field must match.

    Args:
        queue: exact name.
        task: exact name.
        error: text within the last error, whatever its case.
        since: finished (or, if unfinished, created) within this duration.
    """

    queue: str | None = None
    task: str | None = None
    error: str | None = None
    since: Duration | None = None

    def values(self) -> dict[str, object]:
        return {
            "queue": None if self.queue is None else check_queue(self.queue),
            "task": None if self.task is None else storable_text(self.task, "task"),
            "error": None if self.error is None else storable_text(self.error, "error"),
            "since": None if self.since is None else seconds(self.since, name="since"),
        }


def _matched(where: Filter) -> dict[str, object]:
    """The values of a filter.

    Raises:
        ConfigError: one cannot be used, or it is no Filter.
    """
    if not isinstance(where, Filter):
        raise ConfigError(
            f'where must be a Filter, such as Filter(queue="mail"), got {shown(where)}'
        )
    return where.values()


def check_limit(limit: int | None) -> int | None:
    """Return how many jobs at most, None for all; or raise ConfigError."""
    return None if limit is None else whole_number(limit, "limit")


def complete(job_id: int, claim_id: UUID) -> Operation[None]:
    """Complete a running job in the caller's transaction; raises ClaimLost."""
    values = {"id": job_id, "claim_id": str(claim_id)}
    return Operation("complete_job", values, lambda rows: None)


def get(job_id: int) -> Operation[JobRow | None]:
    """One job; its arguments up to the size up to which a worker reads them."""
    values = {
        "id": check_id(job_id),
        "most_args": MOST_CLAIMED - 1,
        "most_error": MESSAGE_LIMIT + 1000,
    }
    return Operation("get_job", values, lambda rows: _job(rows[0]) if rows else None)


@dataclass(frozen=True, slots=True)
class End:
    """Where a job stands, and what it returned (JSON text)."""

    id: int
    status: Status
    result: str | None = field(repr=False)

    @property
    def over(self) -> bool:
        """Has it ended?"""
        return self.status in ENDED


def ends(job_ids: Sequence[int]) -> Operation[dict[int, End]]:
    """Where jobs stand, by id; those that are not there are left out."""
    return Operation(
        "get_ends",
        {"ids": check_ids(job_ids)},
        lambda rows: {row[0]: End(row[0], Status(row[1]), row[2]) for row in rows},
    )


def attempts(job_id: int) -> Operation[list[Attempt]]:
    values = {"id": check_id(job_id)}
    return Operation("get_attempts", values, lambda rows: [_attempt(r) for r in rows])


def find(
    where: Filter,
    *,
    status: Status | str | None = None,
    limit: int = 50,
    before: int | None = None,
    most_args: int = MOST_LISTED,
    most_page: int = MOST_PAGE,
) -> Operation[list[JobRow]]:
    """Jobs that match, newest first, and of a status that has ended the latest to end first.

    Args:
        before: the id of the last one seen, to go on from.
        most_args: arguments of more characters of JSON, or stored in more bytes, are left out.
        most_page: so are those of older jobs once the newest ones have as many characters together.
    """
    values = {
        **_matched(where),
        "limit": whole_number(limit, "limit"),
        "before": None if before is None else whole_number(before, "before", most=MOST_ID),
        "most_args": most_args,
        "most_page": most_page,
        "most_error": MOST_LISTED_ERROR,
    }
    if status is None:
        return Operation("list_jobs", values, decoded)
    values["status"] = check_status(status)
    name = "list_ended" if values["status"] in ENDED else "list_unfinished"
    return Operation(name, values, decoded)


def matching(where: Filter, *statuses: Status | str) -> Operation[list[int]]:
    """The ids of all jobs of these statuses that match, oldest first."""
    return Operation(
        "find_jobs", {**_matched(where), "statuses": [check_status(s) for s in statuses]}, ids
    )


def check_edited(args: Any) -> None:
    """Raise ArgumentsError unless edited arguments are a mapping by parameter."""
    if not isinstance(args, Mapping) or not all(isinstance(name, str) for name in args):
        raise ArgumentsError("edited arguments (args) must be a mapping with one key per parameter")


def check_from_step(name: Any) -> str:
    """Return the name of a step to begin again from, or raise ConfigError."""
    try:
        return check_step(name)
    except ConfigError as error:
        raise ConfigError(f"from_step: {error}") from None


def retry(
    job_ids: Sequence[int],
    where: Filter = Filter(),
    *,
    status: Status | None = None,
    args: Any = None,
    from_step: str | None = None,
) -> Operation[list[int]]:
    """Put those of these jobs that are dead or cancelled, or of the one status, and match, back as pending.

    Args:
        from_step: only those that have a step of this name, which is forgotten with all that began after it.
    """
    if args is not None and len(job_ids) != 1:
        raise ConfigError("edited arguments can be given for one job id only")
    if args is not None:
        check_edited(args)
    values = {
        **_matched(where),
        "ids": check_ids(job_ids),
        "status": None if status is None else check_status(status),
        "args": None if args is None else argument_text(dict(args)),
        "from_step": None if from_step is None else check_from_step(from_step),
    }
    return Operation("retry_jobs", values, ids)


@dataclass(frozen=True, slots=True)
class EncryptedJob:
    """A job with encrypted arguments, which are JSON text."""

    id: int
    task: str
    running: bool
    args: str = field(repr=False)


def encrypted(*, after: int, limit: int) -> Operation[list[EncryptedJob]]:
    """Jobs that may run again and have encrypted arguments, from an id on."""
    return Operation(
        "encrypted_jobs",
        {
            "after": whole_number(after, "after", most=MOST_ID),
            "limit": whole_number(limit, "limit"),
        },
        lambda rows: [EncryptedJob(*row) for row in rows],
    )


def replace_args(changes: Sequence[tuple[int, str, str]]) -> Operation[list[int]]:
    """Other arguments (id, old JSON text, new) for jobs that do not run and still have the old."""
    values = {
        "ids": [job_id for job_id, _, _ in changes],
        "old": [old for _, old, _ in changes],
        "new": [new for _, _, new in changes],
    }
    return Operation("replace_args", values, ids)


def cancel(job_ids: Sequence[int], where: Filter = Filter()) -> Operation[dict[int, Status]]:
    """Of these jobs, those that match: cancel pending ones, ask running ones to stop."""
    values = {**_matched(where), "ids": check_ids(job_ids)}
    return Operation("cancel_jobs", values, lambda rows: {r[0]: Status(r[1]) for r in rows})


@dataclass(frozen=True, slots=True)
class Change:
    """What pending jobs get: another queue, priority or time; None leaves each as it is.

    Args:
        run_at: with a time zone. delay: from now, by the database's clock.

    Raises:
        ConfigError: one is not usable, there is none, or both times are given.
    """

    queue: str | None = None
    priority: int | None = None
    run_at: datetime | None = None
    delay: Duration | None = None

    def values(self) -> dict[str, object]:
        if self == Change():
            raise ConfigError("change what? give a queue, a priority, a time or a delay")
        if self.run_at is not None and self.delay is not None:
            raise ConfigError("give run_at or delay, not both")
        return {
            "to_queue": None if self.queue is None else check_queue(self.queue),
            "to_priority": None if self.priority is None else check_priority(self.priority),
            "run_at": None if self.run_at is None else check_run_at(self.run_at),
            "delay": None if self.delay is None else seconds(self.delay, name="delay"),
        }


def check_change(change: Change) -> Change:
    """Return a change that can be made, or raise ConfigError."""
    if not isinstance(change, Change):
        raise ConfigError(f'to must be a Change, such as Change(queue="mail"), got {shown(change)}')
    change.values()
    return change


def change(job_ids: Sequence[int], where: Filter, change: Change) -> Operation[list[int]]:
    """Change those of these jobs that are pending, and match; returns their ids."""
    return Operation(
        "change_jobs", {**_matched(where), **change.values(), "ids": check_ids(job_ids)}, ids
    )


def count(where: Filter, *, status: Status | str) -> Operation[int]:
    """How many jobs of a status match."""
    values = {**_matched(where), "status": check_status(status)}
    return Operation("count_jobs", values, lambda rows: int(rows[0][0]))


def clear(
    job_ids: Sequence[int], where: Filter = Filter(), *, status: Status | str = Status.PENDING
) -> Operation[list[int]]:
    """Delete those of these jobs that are of a status, and match; returns their ids."""
    values = {**_matched(where), "ids": check_ids(job_ids), "status": cleared(status)}
    return Operation("clear_jobs", values, ids)


def cleared(status: Status | str) -> Status:
    """A status whose jobs may be cleared.

    Raises:
        ConfigError: it is running: cancel those.
    """
    if (wanted := check_status(status)) == Status.RUNNING:
        raise ConfigError("running jobs cannot be cleared: cancel them")
    return wanted


def check_status(value: Status | str) -> Status:
    """Return a status, or raise ConfigError if there is no such one."""
    try:
        return Status(value)
    except ValueError:
        names = ", ".join(s.value for s in Status)
        raise ConfigError(f"no status {shown(value)}; there are {names}") from None


def _uuid(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)


def decoded(rows: Sequence[Row]) -> list[JobRow]:
    return [_job(row) for row in rows]


def _job(row: Row) -> JobRow:
    fields: list[Any]
    *fields, progress, workflow_id, worker_id, cancel_requested, last_error, waiting, args = row
    fields[3] = Status(fields[3])
    return JobRow(
        *fields,  # type: ignore[call-arg]
        None if progress is None else _args(progress),
        workflow_id,
        _uuid(worker_id),
        cancel_requested,
        last_error,
        waiting,
        TOO_LARGE if args is None else _args(args),
    )


def _args(text: str) -> Any:
    """The arguments; as text when Python cannot read them, so that one row hides no other."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _attempt(row: Row) -> Attempt:
    fields: list[Any]
    *fields, worker_id = row
    return Attempt(*fields, _uuid(worker_id))  # type: ignore[call-arg]
