"""The version of the schema, and the oldest code it still serves. Decides, reads nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgqueue.errors import SchemaError

EXPECTED = 1
_BODY = re.compile(r"\s*select\s+(\d+)\s*,\s*(\d+)\s*")


@dataclass(frozen=True, slots=True)
class Stamp:
    """``serves`` is the version that the oldest code was made for that still works on this schema."""

    version: int
    serves: int


def parse(body: str | None) -> Stamp | None:
    """Read the body of the schema's function ``schema_version``; None if there is no such function."""
    match = _BODY.fullmatch(body or "")
    return None if match is None else Stamp(int(match[1]), int(match[2]))


def check(found: Stamp | None) -> None:
    """Accept the schema that this code was made for, and newer ones that serve it.

    Raises:
        SchemaError: missing, older or too new; one line that says what to do.
    """
    if found is None:
        raise SchemaError("the database has no pgqueue schema; run: pgqueue migrate")
    if found.version < EXPECTED:
        raise SchemaError(
            f"the database has pgqueue schema {found.version}, this version needs {EXPECTED};"
            " run: pgqueue migrate"
        )
    if found.serves > EXPECTED:
        raise SchemaError(
            f"the database has pgqueue schema {found.version}, which serves versions made for"
            f" {found.serves} or newer, this one is made for {EXPECTED}; install a newer"
            " pgqueue-postgres"
        )
