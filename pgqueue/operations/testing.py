"""Operations of the testing kit."""

from __future__ import annotations

from pgqueue.operations import Operation, ids


def due() -> Operation[list[int]]:
    """Let what has come due since the transaction began be due."""
    return Operation("test_due", {}, ids)


def travel(seconds: float) -> Operation[list[int]]:
    """Let time pass for all jobs."""
    return Operation("test_travel", {"seconds": seconds}, ids)
