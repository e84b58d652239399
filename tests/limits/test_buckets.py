"""Token buckets are kept only as long as they say something."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue import App
from pgqueue.operations import limits

Connection = psycopg.Connection[Any]
TAKING: Any = {"limit": 10, "worker_id": uuid4(), "lease": 60.0}


def claim(app: App) -> int:
    operation = limits.claim("default", claim_id=uuid4(), **TAKING)
    return len(app.client._run(operation, None).jobs)


def prune(app: App) -> list[str]:
    return app.client._run(limits.prune_buckets(), None)


@pytest.fixture
def keys(app: App, conn: Connection) -> list[str]:
    """Two keys of a task of which one job a second may start, two at once after a quiet time."""
    conn.execute(
        "insert into pgqueue.tasks (name, rate, burst) values ('a:b/c', 1, 2), ('a', 1e-9, 1)"
    )
    conn.execute(
        "insert into pgqueue.jobs (task, limit_key) select 'a:b/c', pgqueue.key_of('a:b/c', k)"
        " from unnest(array['x', 'y']) k cross join generate_series(1, 3)"
    )
    assert claim(app) == 4
    rows = conn.execute("select name from pgqueue.buckets order by name").fetchall()
    return [row[0] for row in rows]


def test_one_that_is_full_again_goes(app: App, conn: Connection, keys: list[str]) -> None:
    assert len(keys) == 2
    assert prune(app) == []
    conn.execute("update pgqueue.buckets set at = at - interval '1 hour' where name = %s", keys[:1])
    assert prune(app) == keys[:1]
    conn.execute("update pgqueue.buckets set at = clock_timestamp(), tokens = 0.5")
    assert prune(app) == []
    conn.execute("update pgqueue.tasks set rate = null")
    assert prune(app) == keys[1:]


def test_a_claim_that_takes_at_the_same_moment_keeps_its_bucket(
    app: App, conn: Connection, dsn: str, keys: list[str]
) -> None:
    conn.execute("update pgqueue.buckets set at = at - interval '1 hour'")
    with psycopg.connect(dsn) as other:
        other.execute("select pgqueue.tokens(%s, 1, 2)", keys[:1])
        other.execute("update pgqueue.buckets set tokens = tokens - 2 where name = %s", keys[:1])
        assert prune(app) == keys[1:]
    assert prune(app) == []
    assert claim(app) == 1, "of the key whose bucket is new, not of the one that was emptied"
