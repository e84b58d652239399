"""Asked once, before a worker starts: may it work on this database? Else its services would fail for ever."""

from __future__ import annotations

import logging

from pgqueue import preflight, schema
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


async def admit(database: Database, name: str, *, remark: bool = True) -> None:
    """See whether a worker can work with the schema of this name.

    Args:
        remark: warn of what works, but not as one may expect.

    Raises:
        SchemaError: the schema is missing, too old or too new.
        PrivilegeMissing: the database role may not do what a worker does, or sees no rows.
        DatabaseReadOnly: what makes it read-only does not end by itself.
        ConnectionRefusedError: a wrong password, or no such database.
        DatabaseAway: the database does not answer (yet).
    """
    try:
        schema.check(await database.run(maintenance.schema_stamp(name), logs_refusal=False))
        lacks = await database.run(maintenance.worker_lacks(), logs_refusal=False)
        server = await database.run(preflight.look(name), logs_refusal=False)
    except StatementRefused as refused:
        if denied(refused.state):
            raise ConnectionRefusedError(str(refused)) from None
        raise PrivilegeMissing(str(refused)) from None
    if lacks:
        raise PrivilegeMissing(f"permission denied to {', '.join(lacks)}: {role_for('claim')}")
    preflight.check_worker(server, schema=name)
    for each in preflight.remarks(server, schema=name) if remark else []:
        log.warning("%s", each)
