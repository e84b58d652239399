"""Who takes part, each with the settings it is at its best with. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Contestant:
    """One system.

    Args:
        name: its module here, and its file in benchmarks/requirements.
        package: the distribution whose version is shown.
        store: where its jobs are; a fresh database, or an emptied Redis, for each run.
        best: the (worker processes, concurrency) tried for the drain; the fastest counts.
        python: the oldest Python it runs on, when that is newer than the project's own.
        checkout: runs from this checkout, in the environment of the suite.
        supervises: starts its worker processes itself.
        program: the Python program that a user would type for its workers, without ``--concurrency``,
            ``--workers`` and other options; None: its module's ``work``.
    """

    name: str
    package: str
    store: Literal["postgres", "redis"] = "postgres"
    best: tuple[tuple[int, int], ...] = ((1, 100),)
    python: str | None = None
    checkout: bool = False
    supervises: bool = False
    program: tuple[str, ...] | None = None


_ALL = (
    Contestant("pgqueue", "pgqueue-postgres", best=((1, 100), (1, 500), (2, 500)),
               checkout=True, supervises=True, program=(
                   "-m", "pgqueue", "work", "--app", "benchmarks.contestants.pgqueue:app",
                   "--log-level", "warning")),
    Contestant("bare", "asyncpg", best=((1, 100), (1, 500)), checkout=True),
    Contestant("pgqueuer", "pgqueuer", best=((1, 100), (1, 1000), (2, 1000))),
    Contestant("awa", "awa-pg", best=((1, 100), (1, 500))),
    Contestant("oban", "oban", best=((1, 100), (2, 100)), python="3.12"),
    Contestant("chancy", "chancy", best=((1, 100), (2, 100))),
    Contestant("procrastinate", "procrastinate", best=((1, 10), (2, 10))),
    Contestant("saq", "saq", "redis", best=((1, 100), (2, 100))),
    Contestant("arq", "arq", "redis", best=((1, 100), (2, 100))),
    Contestant("celery", "celery", "redis", best=((1, 2),)),
    Contestant("rq", "rq", "redis", best=((1, 1), (2, 1))),
)  # fmt: skip
CONTESTANTS = {contestant.name: contestant for contestant in _ALL}
LIMITS = ("bare",)
PEERS = tuple(c.name for c in _ALL if c.store == "postgres" and not c.checkout)
REFERENCES = tuple(c.name for c in _ALL if c.store == "redis")
