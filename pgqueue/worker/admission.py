"""Asked once, before a worker starts: may it work on this database? Else its services would fail for ever."""

from __future__ import annotations

import logging

from pgqueue import schema
from pgqueue.errors import PrivilegeMissing
from pgqueue.operations import maintenance
from pgqueue.roles import role_for
from pgqueue.worker.database import Database, StatementRefused
from pgqueue.worker.verdict import denied

log = logging.getLogger("pgqueue.worker")

POOLED = (
    "a pooler such as PgBouncer is between this worker and PostgreSQL: it cannot be woken and looks"
    " for new jobs every %g s; give workers a DSN that leads to PostgreSQL itself"
)


async def admit(database: Database, name: str) -> None:
    """See whether a worker can work with the schema of this name.

    Raises:
        SchemaError: the schema is missing, too old or too new.
        PrivilegeMissing: the database role may not do what a worker does, or sees no rows.
        ConnectionRefusedError: a wrong password, or no such database.
        DatabaseAway: the database does not answer (yet).
    """
    try:
        schema.check(await database.run(maintenance.schema_stamp(name)))
        lacks = await database.run(maintenance.worker_lacks())
        hidden = await database.run(maintenance.row_security(name))
    except StatementRefused as refused:
        if denied(refused.state):
            raise ConnectionRefusedError(str(refused)) from None
        raise PrivilegeMissing(str(refused)) from None
    if lacks:
        raise PrivilegeMissing(f"permission denied to {', '.join(lacks)}: {role_for('claim')}")
    if unseen := [table for table, some in hidden.items() if not some]:
        raise PrivilegeMissing(
            f"row-level security hides every row of {', '.join(unseen)} in schema {name} from this role, so a"
            " worker would find no job: give the role a policy that shows them, or disable it there"
        )
    if hidden:
        log.warning(
            "row-level security applies to %s in schema %s: this worker runs only jobs that its policies show",
            ", ".join(hidden), name,
        )  # fmt: skip
