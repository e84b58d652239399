"""What handlers return: to JSON text and back to the type their task declares."""

from __future__ import annotations

from typing import Any

import msgspec

from pgqueue.codec import argument_text, from_pydantic, to_pydantic
from pgqueue.errors import ArgumentsError, JobFailed, ResultMissing
from pgqueue.job import Status
from pgqueue.models import check_same, fields_of, readable
from pgqueue.operations.jobs import End


def result_text(value: Any, kind: Any = Any) -> str:
    """JSON text of what a handler returned.

    Args:
        kind: the type that it says it returns.

    Raises:
        ArgumentsError: as ``argument_text`` does, or it would not come back as it is.
    """
    try:
        plain = msgspec.to_builtins(value, enc_hook=from_pydantic, str_keys=True)
        text = argument_text(plain, "what it returned")
        if fields_of(value) is not None and kind is not Any:
            check_same("the result", value, result_value(text, kind))
    except ArgumentsError:
        raise
    except (TypeError, ValueError, NotImplementedError, RecursionError) as error:
        raise ArgumentsError(f"what it returned cannot be stored as JSON: {error}") from None
    return text


def result_value(text: str, kind: Any) -> Any:
    """What a handler returned, from its JSON text."""
    return msgspec.json.decode(text, type=readable(kind), dec_hook=to_pydantic)


def value_of(end: End, task: str, kind: Any) -> Any:
    """What a job returned.

    Raises:
        JobFailed: it is dead or cancelled.
        ResultMissing: it succeeded, and its result was not kept or does not fit the type.
    """
    if end.status is not Status.SUCCEEDED:
        raise JobFailed(end.id, end.status.value)
    if end.result is None:
        raise ResultMissing(
            f"job {end.id} succeeded, but has no result: {task} needs result=True, and what it returns"
            f" must be JSON of at most 1 MB (pgqueue job {end.id} tells)"
        )
    try:
        return result_value(end.result, kind)
    except (msgspec.MsgspecError, ValueError, NotImplementedError) as error:
        raise ResultMissing(f"the result of job {end.id} does not fit {task}: {error}") from None


def gone(job_id: int) -> ResultMissing:
    return ResultMissing(
        f"job {job_id} is gone: it was pruned, cleared, or deleted on success (keep_succeeded)"
    )
