"""What becomes of each job of a workflow, by the rules of ``docs/rules/workflows.md``: a Hypothesis state machine.

Graphs, ends, retries, cancels and crashes are random; the statements are those of workers and clients.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pgqueue.job import NewJob, Status
from pgqueue.operations import claims, jobs, maintenance, workflows
from pgqueue.operations.claims import Finished
from pgqueue.outcome import SUCCEEDED, Outcome
from tests.model.machine import LEASE, perform, pick

POLICIES = st.sampled_from(["cancel", "cancel", "continue", "hold", "only"])
GRAPH = st.lists(st.tuples(POLICIES, st.lists(pick, max_size=3)), min_size=2, max_size=7)
ENDS = st.sampled_from(["done", "done", "dead", "dead", "cancelled", "snooze", "crash"])
FAILED = ("dead", "cancelled", "gone")
NOT_ENDED = ("blocked", "pending", "running")


@dataclass
class Member:
    """A job as it should be: its status, or ``gone``, or ``skipped``.

    ``since_failed``: it was cancelled since a job that it waited for failed. ``row``: it has not been cleared.
    """

    flow: int
    if_failed: str
    parents: list[int]
    status: str
    since_failed: bool = False
    row: bool = True
    cancel: bool = False
    claim: UUID | None = None

    @property
    def ended(self) -> bool:
        return self.status not in NOT_ENDED


@dataclass
class Flow:
    """A workflow: its jobs, and its status when they had ended last."""

    ids: list[int] = field(default_factory=list)
    status: str = "running"


def becomes(if_failed: str, ends: list[str]) -> str:
    """The table of what becomes of a job that waits for several."""
    failed, waits = any(e in FAILED for e in ends), any(e in NOT_ENDED for e in ends)
    if if_failed == "only":
        return "pending" if failed else "blocked" if waits else "skipped"
    if (if_failed == "cancel" and failed) or (if_failed == "hold" and "gone" in ends):
        return "cancelled"
    if waits or (if_failed == "hold" and failed):
        return "blocked"
    return "pending" if if_failed == "continue" or "succeeded" in ends else "skipped"


class Flows(RuleBasedStateMachine):
    """Rules are what applications, workers and people do; after some of them the settler comes, after others not yet."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        super().__init__()
        self.conn = conn
        for table in ("jobs", "attempts", "queues", "workflows", "workflow_jobs", "dependencies"):
            conn.execute(f"delete from pgqueue.{table}".encode())
        self.members: dict[int, Member] = {}
        self.flows: dict[int, Flow] = {}

    @initialize(graph=GRAPH)
    def begins(self, graph: list[tuple[str, list[int]]]) -> None:
        self.enqueue(graph)

    @precondition(lambda self: len(self.flows) < 3)
    @rule(graph=GRAPH)
    def enqueue(self, graph: list[tuple[str, list[int]]]) -> None:
        made, places = [], []
        for n, (if_failed, chosen) in enumerate(graph):
            after = sorted({which % n + 1 for which in chosen}) if n else []
            policy = if_failed if after or if_failed != "only" else "cancel"
            places.append(after)
            made.append(workflows.Member(NewJob("t", "{}", max_retries=50), None, after, policy))
        added = perform(self.conn, workflows.enqueue(made, name="", notify=False))
        self.flows[added.id] = Flow(added.job_ids)
        for job_id, member, after in zip(added.job_ids, made, places, strict=True):
            self.members[job_id] = Member(
                added.id,
                member.if_failed,
                [added.job_ids[place - 1] for place in after],
                "blocked" if after else "pending",
            )

    # How jobs run.

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        due = {i for i, m in self.members.items() if m.status == "pending"}
        claim = uuid4()
        got = perform(
            self.conn,
            claims.sweep(None, limit=limit, claim_id=claim, worker_id=uuid4(), lease=LEASE),
        ).jobs
        assert {job.id for job in got} <= due
        assert len(got) == min(limit, len(due))
        for job in got:
            self.members[job.id].status, self.members[job.id].claim = "running", claim

    @rule(ends=st.lists(st.tuples(pick, ENDS), min_size=1, max_size=4), settled=st.booleans())
    def runs_end(self, ends: list[tuple[int, str]], settled: bool) -> None:
        for which, how in ends:
            running = [i for i, m in self.members.items() if m.status == "running"]
            if running:
                self.ends(running[which % len(running)], how)
        if settled:
            self.settle()

    def ends(self, job_id: int, how: Any) -> None:
        member = self.members[job_id]
        assert member.claim is not None
        if how == "done":
            finished = Finished(job_id, member.claim, SUCCEEDED, 0.1)
            assert perform(self.conn, claims.complete([finished], delete=False)) == [job_id]
            member.status = "succeeded"
        elif how == "crash":
            self.conn.execute(
                "update pgqueue.jobs set lease_expires_at = 'epoch' where id = %s", (job_id,)
            )
            perform(self.conn, maintenance.rescue(max_crashes=1000))
            member.status = "cancelled" if member.cancel else "pending"
        else:
            outcome = Outcome(how, 0.0 if how == "snooze" else None, "E", "why")
            perform(self.conn, claims.fail([Finished(job_id, member.claim, outcome, 0.1)]))
            again = "cancelled" if member.cancel else "pending"
            member.status = again if how == "snooze" else how
        member.since_failed = False

    # What people do.

    def one(self, which: int) -> tuple[int, Member]:
        job_id = sorted(self.members)[which % len(self.members)]
        return job_id, self.members[job_id]

    @precondition(lambda self: self.members)
    @rule(which=pick, settled=st.booleans())
    def cancel(self, which: int, settled: bool) -> None:
        job_id, member = self.one(which)
        perform(self.conn, jobs.cancel([job_id]))
        self.is_cancelled(member)
        if settled:
            self.settle()

    def is_cancelled(self, member: Member) -> None:
        member.cancel = member.cancel or not member.ended
        if member.status in ("blocked", "pending"):
            member.status, member.since_failed = "cancelled", False

    @precondition(lambda self: self.flows)
    @rule(which=pick)
    def cancel_workflow(self, which: int) -> None:
        flow = sorted(self.flows)[which % len(self.flows)]
        perform(self.conn, workflows.cancel(flow))
        for job_id in self.flows[flow].ids:
            self.is_cancelled(self.members[job_id])

    @precondition(lambda self: self.members)
    @rule(which=pick)
    def clear(self, which: int) -> None:
        job_id, member = self.one(which)
        status = "cancelled" if member.status == "skipped" else member.status
        if member.row and status in ("pending", "succeeded", "dead", "cancelled"):
            assert perform(self.conn, jobs.clear([job_id], status=status)) == [job_id]
            member.row = False
            if member.status not in ("succeeded", "skipped"):
                member.status = "gone"

    @precondition(lambda self: any(m.status in FAILED for m in self.members.values()))
    @rule(which=pick, settled=st.booleans())
    def retry(self, which: int, settled: bool) -> None:
        ended = sorted(i for i, m in self.members.items() if m.status in (*FAILED, "skipped"))
        job_id = ended[which % len(ended)]
        member = self.members[job_id]
        now = self.retried(member)
        got = perform(self.conn, jobs.retry([job_id]))
        assert got == ([] if now is None else [job_id]), (member, now)
        if now is not None:
            self.is_back(member, now)
            self.those_that_failed_for_it_wait(job_id)
        if settled:
            self.settle()

    def retried(self, member: Member) -> str | None:
        """The table of what a retry makes of a job; None: it is refused."""
        if not member.row or member.status not in ("dead", "cancelled"):
            return None
        ends = [self.members[parent].status for parent in member.parents]
        now = becomes(member.if_failed, ends) if ends else "pending"
        return None if now in ("cancelled", "skipped") else now

    def is_back(self, member: Member, status: str) -> None:
        member.status, member.cancel, member.since_failed = status, False, False
        self.flows[member.flow].status = "running"

    def those_that_failed_for_it_wait(self, job_id: int) -> None:
        for child_id, child in self.members.items():
            if job_id in child.parents and child.since_failed and child.if_failed == "cancel":
                ends = [self.members[parent].status for parent in child.parents]
                if not any(e in FAILED for e in ends):
                    child.status, child.since_failed = "blocked", False
                    self.those_that_failed_for_it_wait(child_id)

    @precondition(lambda self: self.flows)
    @rule(which=pick)
    def retry_workflow(self, which: int) -> None:
        flow = sorted(self.flows)[which % len(self.flows)]
        back = [
            self.members[i]
            for i in self.flows[flow].ids
            if self.members[i].row and self.members[i].status in ("dead", "cancelled")
        ]
        assert perform(self.conn, workflows.retry(flow)) == len(back)
        for member in back:
            self.is_back(member, "blocked" if member.parents else "pending")
        self.settle()

    @rule(status=st.sampled_from(["succeeded", "dead", "cancelled"]))
    def prune(self, status: str) -> None:
        got = perform(self.conn, workflows.prune(Status(status), age=0))
        over = {i for i, flow in self.flows.items() if flow.status == status}
        assert set(got) == over
        for flow in over:
            for job_id in self.flows.pop(flow).ids:
                del self.members[job_id]

    # What the settler does.

    @rule()
    def settle(self) -> None:
        """It is told of every end."""
        self.go_on(i for i, m in self.members.items() if m.ended)
        self.expect_settled()
        self.check()

    def go_on(self, ended: Iterable[int]) -> None:
        told = list(ended)
        for _ in range(200):
            if not told:
                return
            settled = perform(self.conn, workflows.settle(told))
            assert not settled.locked
            told = settled.again
        raise AssertionError("it never ends")

    def expect_settled(self) -> None:
        for _, member in sorted(self.members.items()):  # parents come first
            if member.status == "blocked":
                ends = [self.members[parent].status for parent in member.parents]
                member.status = becomes(member.if_failed, ends)
                member.since_failed = member.status == "cancelled"
        for flow in self.flows.values():
            ends = [self.members[i].status for i in flow.ids]
            if flow.status == "running" and not any(e in NOT_ENDED for e in ends):
                flow.status = (
                    "dead" if "dead" in ends
                    else "cancelled" if {"cancelled", "gone"} & set(ends)
                    else "succeeded"
                )  # fmt: skip

    def check(self) -> None:
        rows = self.conn.execute(
            "select id, case when last_error like 'NotNeeded: %' and status = 'cancelled' then 'skipped' else status end"
            " from pgqueue.jobs"
        )
        assert dict(rows.fetchall()) == {i: m.status for i, m in self.members.items() if m.row}
        found = {flow.id: flow for flow in perform(self.conn, workflows.find())}
        assert {i: flow.status for i, flow in found.items()} == {
            i: flow.status for i, flow in self.flows.items()
        }
        for i, flow in self.flows.items():
            alive = [self.members[each] for each in flow.ids if self.members[each].row]
            for name in ("blocked", "pending", "running", "succeeded", "dead"):
                assert getattr(found[i], name) == sum(m.status == name for m in alive), name

    def teardown(self) -> None:
        """Told of nothing more, by its looks alone it brings all to their end: nothing waits for ever."""
        for _ in range(20):
            for running in [i for i, m in self.members.items() if m.status == "running"]:
                self.ends(running, "done")
            for _ in range(20):
                ended = perform(self.conn, workflows.unsettled(after=0, limit=1000)).ended
                if not ended:
                    break
                before = self.watched()
                self.go_on(ended)
                if self.watched() == before:
                    break
            self.expect_settled()
            if not any(m.status == "pending" for m in self.members.values()):
                break
            self.claim(100)
        self.check()
        for member in self.members.values():
            if member.status == "blocked":  # held, or after one that is held
                ends = [self.members[parent].status for parent in member.parents]
                assert "blocked" in ends or member.if_failed == "hold"

    def watched(self) -> list[Any]:
        return self.conn.execute(
            "select job_id, watched from pgqueue.workflow_jobs where watched is not null order by 1"
        ).fetchall()
