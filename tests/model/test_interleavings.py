"""Two connections and one running job whose lease has lapsed: every order, also of open transactions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import permutations, product
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from pgqueue.job import NewJob
from pgqueue.operations import claims, enqueue, jobs, maintenance
from pgqueue.operations.claims import Finished
from pgqueue.outcome import SUCCEEDED, Outcome
from tests.model.machine import perform
from tests.support import eventually

Connection = psycopg.Connection[Any]
ENDS = {"complete": "succeeded", "delete": None, "complete_job": "succeeded", "fail": "pending",
        "release": "pending", "rescue": "pending"}  # fmt: skip
STEPS = [*ENDS, "heartbeat", "cancel"]


@pytest.fixture
def pair(dsn: str) -> Iterator[tuple[Connection, Connection]]:
    with (
        psycopg.connect(dsn) as first,
        psycopg.connect(dsn, autocommit=True) as second,
    ):
        yield first, second


def running(conn: Connection) -> tuple[int, UUID]:
    """A job claimed by somebody whose lease has lapsed since."""
    job_id = perform(conn, enqueue.enqueue([NewJob("t", "{}")]))[0].id
    claim = take(conn)
    conn.execute("update pgqueue.jobs set lease_expires_at = clock_timestamp() - interval '1 s'")
    conn.commit()
    return job_id, claim


def take(conn: Connection) -> UUID:
    claim = uuid4()
    conn.execute("update pgqueue.jobs set run_at = now() where status = 'pending'")
    perform(conn, claims.sweep(None, limit=1, claim_id=claim, worker_id=uuid4(), lease=60))
    return claim


def step(conn: Connection, name: str, job_id: int, claim: UUID) -> bool:
    """Do it; True when it had an effect."""
    done = [Finished(job_id, claim, SUCCEEDED, 0.1)]
    failed = [Finished(job_id, claim, Outcome("retry", 0.0, "E", "why"), 0.1)]
    match name:
        case "complete" | "delete":
            return bool(perform(conn, claims.complete(done, delete=name == "delete")))
        case "complete_job":
            try:
                with conn.transaction():
                    perform(conn, jobs.complete(job_id, claim))
            except psycopg.Error as error:
                assert error.sqlstate == "PQ001"
                return False
            return True
        case "fail":
            return bool(perform(conn, claims.fail(failed)))
        case "release":
            return bool(perform(conn, claims.release(claim)))
        case "rescue":
            return bool(perform(conn, maintenance.rescue(max_crashes=3)))
        case "heartbeat":
            return bool(
                perform(conn, claims.heartbeat([(job_id, claim)], worker_id=uuid4(), lease=60))
            )
        case "cancel":
            return bool(perform(conn, jobs.cancel([job_id])))
    raise AssertionError(name)


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("late", STEPS)
@pytest.mark.parametrize("early", STEPS)
def test_one_statement_meets_anothers_open_transaction(
    pair: tuple[Connection, Connection], early: str, late: str, commits: bool
) -> None:
    first, second = pair
    job_id, claim = running(first)
    first.execute("select 1")  # now a transaction is open, and a block in it is a savepoint
    had_effect = {0: step(first, early, job_id, claim) and commits}
    thread = threading.Thread(
        target=lambda: had_effect.update({1: step(second, late, job_id, claim)})
    )
    thread.start()
    eventually(lambda: not thread.is_alive() or waits(first, second))
    first.commit() if commits else first.rollback()
    thread.join()
    ended = [n for n, name in enumerate((early, late)) if name in ENDS and had_effect[n]]
    assert len(ended) <= 1, "the job was taken from one claim twice"
    row = second.execute("select status, claim_id from pgqueue.jobs").fetchone()
    if not ended:
        assert row == ("running", claim)
    else:
        status = ENDS[(early, late)[ended[0]]]
        cancelled = "cancel" in (early, late)[: 1 + ended[0]] and had_effect[1 - ended[0]]
        if status == "pending" and (cancelled or late == "cancel"):
            status = "cancelled"
        assert row == (None if status is None else (status, None))
    # These leave locked rows alone, and do them later.
    if not commits and late not in ("rescue", "heartbeat", "fail", "release"):
        assert had_effect[1]


def waits(looking: Connection, other: Connection) -> bool:
    row = looking.execute(
        "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s",
        (other.info.backend_pid,),
    ).fetchone()
    return bool(row and row[0])


def test_every_order_of_five_statements(pair: tuple[Connection, Connection]) -> None:
    names = ("claim", "complete", "rescue", "heartbeat", "cancel")
    for order, turn in product(permutations(names), (0, 1)):
        pair[0].execute("delete from pgqueue.jobs")
        job_id, claim = running(pair[0])
        new = None
        for n, name in enumerate(order):
            conn = pair[(n + turn) % 2]
            if name == "claim":
                new = take(conn)
            else:
                step(conn, name, job_id, claim)
            conn.commit()
        row = pair[1].execute("select status, claim_id from pgqueue.jobs").fetchone()
        status, holder = expected(order)
        assert row == (status, {"old": claim, "new": new, None: None}[holder]), order


def expected(order: tuple[str, ...]) -> tuple[str, str | None]:
    """The status in the end, and whose claim it is."""
    status, holder, lapsed, cancel = "running", "old", True, False
    for name in order:
        mine = status == "running" and holder == "old"
        if name == "complete" and mine:
            status = "succeeded"
        elif name == "heartbeat" and mine:
            lapsed = False
        elif name == "rescue" and mine and lapsed:
            status = "cancelled" if cancel else "pending"
        elif name == "cancel" and status in ("pending", "running"):
            cancel = True
            status = "cancelled" if status == "pending" else status
        elif name == "claim" and status == "pending":
            status, holder = "running", "new"
    return status, holder if status == "running" else None
