"""Which of an app's databases the code at hand works for."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

from pgqueue.checks import several
from pgqueue.errors import ConfigError

# Set in a worker of several databases: its services, jobs and log lines each belong to one.
CURRENT: ContextVar[str | None] = ContextVar("pgqueue_database", default=None)


def check_dsns(dsn: str | Sequence[str]) -> tuple[str, ...]:
    """The databases an app was given, one or several.

    Raises:
        ConfigError: there is none, one is no text, or one is given twice.
    """
    dsns = (dsn,) if isinstance(dsn, str) else several(dsn, "dsn", "DSNs")
    if not dsns or not all(isinstance(each, str) for each in dsns):
        raise ConfigError("dsn takes a DSN, or a list of at least one")
    if len(set(dsns)) < len(dsns):
        raise ConfigError("the same DSN is given twice")
    return dsns


def current(dsns: Sequence[str]) -> str:
    """The only database, or in a worker the one whose job runs.

    Raises:
        ConfigError: there are several, and nothing says which.
    """
    if len(dsns) == 1:
        return dsns[0]
    here = CURRENT.get()
    if here not in dsns:
        raise ConfigError(
            f"this app has {len(dsns)} databases, and nothing says which: enqueue on a connection to"
            " one of them, as in task.on(connection).enqueue(...); give a command one --dsn"
        )
    return str(here)
