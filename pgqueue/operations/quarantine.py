"""Operations on suspects: jobs whose next crash may be their last, which run apart from others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack
from uuid import UUID

from pgqueue.job import ClaimedJob
from pgqueue.operations import Operation, ids
from pgqueue.operations.claims import Candidate, Taking, candidates

TOGETHER = 16  # suspects; after a crash a quarter of them, then each alone


def suspect_due(
    queues: Sequence[str] | None, *, not_ids: Sequence[int] = ()
) -> Operation[int | None]:
    """How often the suspect that is due longest has run; None if no suspect of these queues is due."""
    return Operation(
        "suspect_due",
        {"queues": None if queues is None else list(queues), "not_ids": list(not_ids)},
        lambda rows: int(rows[0][0]) if rows else None,
    )


def claim_suspects(
    queues: Sequence[str] | None,
    *,
    only_ids: Sequence[int] | None = None,
    **taking: Unpack[Taking],
) -> Operation[list[ClaimedJob]]:
    """Claim suspects that may run together, of queues that are under no limit.

    Args:
        only_ids: only some of these.
    """
    values = _together(queues) | taking
    values["only_ids"] = None if only_ids is None else list(only_ids)
    return Operation(
        "claim_suspects",
        values,
        lambda rows: [ClaimedJob._make((*row, taking["claim_id"])) for row in rows],
    )


def look(queues: Sequence[str] | None, **taking: Unpack[Taking]) -> Operation[list[Candidate]]:
    """Which suspects would be claimed together."""
    return Operation("look_at_suspects", _together(queues) | taking, candidates)


def _together(queues: Sequence[str] | None) -> dict[str, object]:
    return {"queues": None if queues is None else list(queues), "not_ids": [], "only_ids": None}


def end_isolation(held: Sequence[tuple[int, UUID]]) -> Operation[list[int]]:
    """Running suspects, by id and claim, have others beside them from now on.

    Returns those that are alone still, as others have locked their rows.
    """
    values = {
        "ids": [job_id for job_id, _ in held],
        "claim_ids": [claim_id for _, claim_id in held],
    }
    return Operation("end_isolation", values, ids)
