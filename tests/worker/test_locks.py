"""Which rows a statement waits for, and in which order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from pgqueue.drivers._psycopg import PsycopgDriver
from pgqueue.job import NewJob
from pgqueue.operations import Operation, claims, enqueue, jobs, maintenance
from pgqueue.operations.claims import Finished, Lane
from pgqueue.outcome import SUCCEEDED, Outcome
from pgqueue.sql import load
from tests.model.machine import perform
from tests.support import eventually, statuses

Connection = psycopg.Connection[Any]
START = [Lane("default", 0, datetime(2000, 1, 1, tzinfo=UTC), 0)]
FAILED = Outcome("retry", 0.0, "E", "why")
# Rows are then met in the order in which they lie in the table, unless the SQL says otherwise.
NO_INDEX = "set enable_indexscan = off; set enable_bitmapscan = off; set enable_indexonlyscan = off"


def taking(claim: UUID, limit: int = 10) -> claims.Taking:
    return {"limit": limit, "claim_id": claim, "worker_id": uuid4(), "lease": 60}


def backwards(ids: list[int], claim: UUID, outcome: Outcome) -> list[Finished]:
    return [Finished(job_id, claim, outcome, 0.1) for job_id in reversed(ids)]


BATCHES: dict[str, Callable[[list[int], UUID], Operation[Any]]] = {
    "complete": lambda ids, c: claims.complete(backwards(ids, c, SUCCEEDED), delete=False),
    "delete": lambda ids, c: claims.complete(backwards(ids, c, SUCCEEDED), delete=True),
    "trade": lambda ids, c: claims.trade(
        backwards(ids, c, SUCCEEDED), START, delete=False, **taking(uuid4())
    ),
    "cancel": lambda ids, c: jobs.cancel(ids[::-1]),
}
# These keep the order by the plan that the settings of a worker's session leave.
PINNED = ("complete", "delete", "trade")


def pin(worker: Connection) -> None:
    values = {"limit": "1min", "local": False, "pid": worker.info.backend_pid}
    PsycopgDriver(worker).fetch(load()["pin_session"], values)


@pytest.fixture
def three(dsn: str) -> Iterator[tuple[Connection, Connection, Connection]]:
    with (
        psycopg.connect(dsn, autocommit=True) as worker,
        psycopg.connect(dsn) as holder,
        psycopg.connect(dsn, autocommit=True) as looker,
    ):
        yield worker, holder, looker


@pytest.mark.parametrize("name", BATCHES)
def test_batches_lock_in_the_order_of_ids(
    three: tuple[Connection, Connection, Connection], name: str
) -> None:
    worker, holder, looker = three
    ids = [added.id for added in perform(worker, enqueue.enqueue([NewJob("t", "{}")] * 3))]
    claim = uuid4()
    perform(worker, claims.sweep(None, **taking(claim)))
    for job_id in (ids[1], ids[0]):  # an update moves a row behind the others
        worker.execute("update pgqueue.jobs set run_seconds = 0 where id = %s", (job_id,))
    if name in PINNED:
        pin(worker)
    else:
        worker.execute(NO_INDEX)
    holder.execute("select from pgqueue.jobs where id = %s for update", (ids[1],))
    thread = threading.Thread(target=perform, args=(worker, BATCHES[name](ids, claim)))
    thread.start()
    eventually(lambda: waits(looker, worker))
    free = looker.execute("select id from pgqueue.jobs for update skip locked").fetchall()
    holder.rollback()
    thread.join()
    assert free == [(ids[2],)], "the second was to be waited for with the first in hand"


def waits(looking: Connection, other: Connection) -> bool:
    row = looking.execute(
        "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s",
        (other.info.backend_pid,),
    ).fetchone()
    return bool(row and row[0])


@pytest.mark.parametrize("name", ["claim", "trade", "sweep"])
def test_claims_wait_for_nobody(
    three: tuple[Connection, Connection, Connection], name: str
) -> None:
    worker, holder, _ = three
    ids = [added.id for added in perform(worker, enqueue.enqueue([NewJob("t", "{}")] * 2))]
    holder.execute("select from pgqueue.jobs where id = %s for update", (ids[0],))
    worker.execute("set lock_timeout = '1s'")
    if name == "trade":
        _, claimed = perform(worker, claims.trade([], START, delete=False, **taking(uuid4())))
    elif name == "claim":
        claimed = perform(worker, claims.claim(START, **taking(uuid4())))
    else:
        claimed = perform(worker, claims.sweep(None, **taking(uuid4()))).jobs
    assert [job.id for job in claimed] == ids[1:]


@pytest.mark.parametrize("status", ["cancelled", "dead", "succeeded"])
def test_a_status_set_by_hand_stays(conn: Connection, status: str) -> None:
    """Somebody ends a running job by plain SQL, and leaves its claim where it is."""
    job_id = perform(conn, enqueue.enqueue([NewJob("t", "{}")]))[0].id
    claim = uuid4()
    perform(conn, claims.sweep(None, **taking(claim)))
    conn.execute(
        "update pgqueue.jobs set status = %s, lease_expires_at = clock_timestamp() - interval '1 s'",
        (status,),
    )
    assert perform(conn, maintenance.rescue(max_crashes=3)) == []
    assert perform(conn, claims.release(claim)) == []
    assert perform(conn, claims.complete(backwards([job_id], claim, SUCCEEDED), delete=True)) == []
    assert perform(conn, claims.fail(backwards([job_id], claim, FAILED))) == {}
    assert perform(conn, claims.heartbeat([(job_id, claim)], worker_id=uuid4(), lease=60)) == {}
    assert statuses(conn) == {job_id: status}
