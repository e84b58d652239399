"""Servers beside the usual one: PgBouncer, and a primary with its standby."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import bouncer
from tests.servers.pair import Pair, pair

POOL = 3


@pytest.fixture(scope="session")
def pgbouncer_program() -> str:
    path = bouncer.program()
    if path is None:
        pytest.skip("no pgbouncer here: apt install pgbouncer, or set TESTS_PGBOUNCER")
    return path


@pytest.fixture
def pooled_dsn(pgbouncer_program: str, dsn: str) -> Iterator[str]:
    """The test's database through PgBouncer; transactions take turns on its 3 server sessions."""
    with bouncer.pgbouncer(
        pgbouncer_program, dsn, default_pool_size=POOL, server_round_robin=1
    ) as through:
        bouncer.sessions(through, POOL, "select 1")  # it opens them when they are needed
        yield through


@pytest.fixture
def servers() -> Iterator[Pair]:
    """A primary and its standby, of the same major version as the usual server."""
    programs = os.environ.get("TESTS_PROGRAMS")
    with pair(Path(programs) if programs else None) as both:
        yield both
