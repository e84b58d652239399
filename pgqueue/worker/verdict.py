"""What an error of the database means for the statement and for its connection. Pure."""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """How the worker goes on after an error."""

    LOST = "drop the connection; the statement may have been carried out"
    UNUSABLE = "drop the connection; the statement was not carried out"
    AGAIN = "not carried out, the same statement may succeed at once"
    REFUSED = "not carried out, and the connection is sound"


_AGAIN = ("40001", "40P01", "55P03")
# Read-only (a standby), out of resources, or prepared statements that a pooler mixed up.
_UNUSABLE = ("25006", "53", "26000", "42P05")
# 57P01 may come after the commit: the server then waited for a synchronous standby.
_LOST = ("08", "57P")
# The server is there, but not for us: wrong password, not in pg_hba.conf, no such database.
_DENIED = ("28", "3D")


def denied(state: str | None) -> bool:
    """Does the server refuse the connection for good, not for want of something it may have later?"""
    return state is not None and state.startswith(_DENIED)


def verdict(state: str | None) -> Verdict:
    """Judge a SQLSTATE; None stands for an error without one: time-out, reset, end of file.

    Codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    if state is None or state.startswith(_LOST):
        return Verdict.LOST
    if state.startswith(_UNUSABLE):
        return Verdict.UNUSABLE
    return Verdict.AGAIN if state in _AGAIN else Verdict.REFUSED
