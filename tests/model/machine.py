"""What the queue should hold, as a dict, beside what it does hold: a Hypothesis state machine.

Every statement is the worker's own, on a real PostgreSQL. Time is moved by aging the rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgqueue.drivers._psycopg import PsycopgDriver
from pgqueue.job import NewJob, Status
from pgqueue.operations import Operation, claims, enqueue, jobs, maintenance, quarantine
from pgqueue.operations.claims import Finished
from pgqueue.outcome import SUCCEEDED, Outcome
from pgqueue.sql import load

T = TypeVar("T")
LEASE = 1000.0  # every wait is 1,000 s and every clock step 1,100 s, so no two ever tie
STEP = 1100
MAX_CRASHES = 3
BACKOFF = json.loads('{"base": 1000, "factor": 1, "cap": 1000, "jitter": 0}')
FINISHED = ("succeeded", "dead", "cancelled")
pick = st.integers(0, 1_000_000)


def perform(conn: psycopg.Connection[Any], operation: Operation[T]) -> T:
    """Run an operation on a connection."""
    statement = load()[operation.statement]
    return operation.decode(PsycopgDriver(conn).fetch(statement, operation.values))


@dataclass
class Expected:
    """A job as it should be."""

    max_retries: int
    status: str = "pending"
    attempt: int = 0
    crashes: int = 0
    claim: UUID | None = None
    cancel: bool = False
    quarantine: int | None = None

    def end(self, status: str) -> None:
        self.status, self.claim = status, None


def kept(job: Expected) -> int | None:
    """What a job that has ended keeps of it does not matter: it begins anew."""
    return job.quarantine if job.status in ("pending", "running") else None


class Queue(RuleBasedStateMachine):
    """Rules are what workers, rescuers, people and clocks do; stale claims are used as well."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        super().__init__()
        self.conn = conn
        conn.execute("delete from pgqueue.jobs")
        conn.execute("delete from pgqueue.attempts")
        conn.execute("delete from pgqueue.queues")
        self.jobs: dict[int, Expected] = {}
        self.claims: list[tuple[int, UUID]] = []
        self.paused = False

    def ids(self, condition: str) -> set[int]:
        rows = self.conn.execute(f"select id from pgqueue.jobs where {condition}".encode())
        return {row[0] for row in rows}

    def holder(self, which: int) -> tuple[int, UUID, Expected | None]:
        """A claim of any time, and its job if the claim still holds it."""
        job_id, claim = self.claims[which % len(self.claims)]
        job = self.jobs.get(job_id)
        held = job is not None and job.status == "running" and job.claim == claim
        return job_id, claim, job if held else None

    @rule(count=st.integers(1, 3), max_retries=st.integers(0, 2), delayed=st.booleans())
    def enqueue(self, count: int, max_retries: int, delayed: bool) -> None:
        new = NewJob(
            "t", "{}", max_retries=max_retries, backoff=BACKOFF, delay=1000.0 if delayed else None
        )
        for job_id, _ in perform(self.conn, enqueue.enqueue([new] * count)):
            self.jobs[job_id] = Expected(max_retries)

    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        due = self.ids("status = 'pending' and run_at <= clock_timestamp() and quarantine is null")
        claim = uuid4()
        operation = claims.sweep(None, limit=limit, claim_id=claim, worker_id=uuid4(), lease=LEASE)
        got = perform(self.conn, operation).jobs
        assert {job.id for job in got} <= due
        assert len(got) == (0 if self.paused else min(limit, len(due)))
        for job in got:
            expected = self.jobs[job.id]
            assert expected.status == "pending"
            expected.status, expected.claim = "running", claim
            expected.attempt += 1
            assert job.attempt == expected.attempt
            self.claims.append((job.id, claim))

    @rule(limit=st.integers(1, 3))
    def claim_suspects(self, limit: int) -> None:
        due = self.ids("status = 'pending' and run_at <= clock_timestamp() and quarantine > 0")
        claim = uuid4()
        got = perform(
            self.conn,
            quarantine.claim_suspects(
                None, limit=limit, claim_id=claim, worker_id=uuid4(), lease=LEASE
            ),
        )
        assert {job.id for job in got} <= due
        assert bool(got) == (bool(due) and not self.paused)
        for job in got:
            expected = self.jobs[job.id]
            assert len(got) <= (expected.quarantine or 0)
            expected.status, expected.claim, expected.quarantine = "running", claim, len(got)
            expected.attempt += 1
            self.claims.append((job.id, claim))

    @precondition(lambda self: self.claims)
    @rule(which=pick, delete=st.booleans())
    def complete(self, which: int, delete: bool) -> None:
        job_id, claim, held = self.holder(which)
        done = [Finished(job_id, claim, SUCCEEDED, 0.1)]
        assert perform(self.conn, claims.complete(done, delete=delete)) == [job_id] * bool(held)
        if held and delete:
            del self.jobs[job_id]
        elif held:
            held.end("succeeded")

    @precondition(lambda self: self.claims)
    @rule(which=pick)
    def complete_in_own_transaction(self, which: int) -> None:
        job_id, claim, held = self.holder(which)
        try:
            self.conn.execute("select pgqueue.complete_job(%s, %s)", (job_id, claim))
        except psycopg.Error as error:
            assert error.sqlstate == "PQ001"
            assert not held
        else:
            assert held
            held.end("succeeded")

    @precondition(lambda self: self.claims)
    @rule(
        which=pick,
        kind=st.sampled_from(["retry", "snooze", "dead", "cancelled"]),
        by_itself=st.booleans(),
    )
    def fail(self, which: int, kind: Any, by_itself: bool) -> None:
        job_id, claim, held = self.holder(which)
        outcome = Outcome(kind, 1000.0 if kind == "snooze" else None, "E", "why")
        finished = Finished(job_id, claim, outcome, 0.1, by_itself=by_itself)
        got = perform(self.conn, claims.fail([finished]))
        if not held:
            assert got == {}
            return
        status = kind
        if kind in ("retry", "snooze"):
            status = "cancelled" if held.cancel else "pending"
            if kind == "retry" and not held.cancel and held.attempt > held.max_retries:
                status = "dead"
        assert {i: r.status for i, r in got.items()} == {job_id: Status(status)}
        held.end(status)
        held.attempt -= kind == "snooze"
        if by_itself:
            held.crashes, held.quarantine = 0, None

    @precondition(lambda self: self.claims)
    @rule(which=pick)
    def release(self, which: int) -> None:
        _, claim, _ = self.holder(which)
        mine = {i for i, j in self.jobs.items() if j.status == "running" and j.claim == claim}
        assert set(perform(self.conn, claims.release(claim))) == mine
        for job_id in mine:
            job = self.jobs[job_id]
            job.end("cancelled" if job.cancel else "pending")
            job.attempt -= 1

    @precondition(lambda self: self.claims)
    @rule(which=pick)
    def heartbeat(self, which: int) -> None:
        job_id, claim, held = self.holder(which)
        got = perform(
            self.conn, claims.heartbeat([(job_id, claim)], worker_id=uuid4(), lease=LEASE)
        )
        assert got == ({job_id: (held.cancel, False, True)} if held else {})
        if held:
            assert job_id not in self.ids("lease_expires_at < clock_timestamp()")

    @rule()
    def rescue(self) -> None:
        lapsed = self.ids("status = 'running' and lease_expires_at < clock_timestamp()")
        got = perform(self.conn, maintenance.rescue(max_crashes=MAX_CRASHES))
        assert {rescued.id for rescued in got} == lapsed
        for rescued in got:
            job = self.jobs[rescued.id]
            alone = job.quarantine == 1
            spent = job.attempt > job.max_retries
            if alone or job.crashes < MAX_CRASHES - 1:
                job.crashes += 1
            dead = job.max_retries == 0 or (alone and (spent or job.crashes >= MAX_CRASHES))
            if job.quarantine is not None:
                job.quarantine = max(job.quarantine // 4, 1)
            elif spent or job.crashes >= MAX_CRASHES - 1:
                job.quarantine = quarantine.TOGETHER
            job.end("cancelled" if job.cancel else "dead" if dead else "pending")
            if job.status != "pending":
                job.quarantine = None
            assert (rescued.status, rescued.quarantine) == (job.status, job.quarantine)

    @precondition(lambda self: self.jobs)
    @rule(which=pick)
    def cancel(self, which: int) -> None:
        job_id = sorted(self.jobs)[which % len(self.jobs)]
        job = self.jobs[job_id]
        live = job.status not in FINISHED
        if live:
            job.cancel = True
            job.status = "cancelled" if job.status == "pending" else job.status
        expected = {job_id: Status(job.status)} if live else {}
        assert perform(self.conn, jobs.cancel([job_id])) == expected

    @precondition(lambda self: self.jobs)
    @rule(which=pick)
    def retry(self, which: int) -> None:
        job_id = sorted(self.jobs)[which % len(self.jobs)]
        job = self.jobs[job_id]
        again = job.status in ("dead", "cancelled")
        assert perform(self.conn, jobs.retry([job_id], jobs.Filter())) == [job_id] * again
        if again:
            self.jobs[job_id] = Expected(job.max_retries)

    @rule(status=st.sampled_from(FINISHED))
    def prune(self, status: str) -> None:
        old = self.ids(
            f"status = '{status}' and finished_at < clock_timestamp() - interval '500 s'"
        )
        assert set(perform(self.conn, maintenance.prune(Status(status), age=500))) == old
        for job_id in old:
            del self.jobs[job_id]

    @rule(forward=st.booleans())
    def clock_steps(self, forward: bool) -> None:
        sign = "-" if forward else "+"
        moved = ", ".join(
            f"{column} = {column} {sign} interval '{STEP} s'"
            for column in ("run_at", "lease_expires_at", "finished_at")
        )
        self.conn.execute(f"update pgqueue.jobs set {moved}".encode())

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        change = maintenance.pause if paused else maintenance.resume
        perform(self.conn, change("default"))  # type: ignore[operator]
        self.paused = paused

    @invariant()
    def the_table_is_as_expected(self) -> None:
        rows = self.conn.execute(
            "select id, status, attempt, crashes, claim_id, cancel_requested,"
            " case when status in ('pending', 'running') then quarantine end from pgqueue.jobs"
        )
        found = {row[0]: tuple(row[1:]) for row in rows}
        assert found == {
            i: (j.status, j.attempt, j.crashes, j.claim, j.cancel, kept(j))
            for i, j in self.jobs.items()
        }

    @invariant()
    def what_belongs_together_is_together(self) -> None:
        assert not self.ids(
            "(status = 'running') <> (claim_id is not null)"
            " or (status = 'running') <> (worker_id is not null)"
            " or (status = 'running') <> (lease_expires_at is not null)"
            " or (status in ('succeeded', 'dead', 'cancelled')) <> (finished_at is not null)"
            " or attempt > max_retries + 1 or attempt < 0"
        )

    @invariant()
    def every_failed_attempt_is_logged_once_per_claim(self) -> None:
        row = self.conn.execute(
            "select count(*) from (select claim_id, job_id from pgqueue.attempts"
            " group by 1, 2 having count(*) > 1) twice"
        ).fetchone()
        assert row == (0,)
