"""How each statement that writes jobs is called: on which rows, and whether it may wait for others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from pgqueue.job import ClaimedJob, NewJob, Status, UniqueKey
from pgqueue.operations import (
    Operation,
    claims,
    enqueue,
    jobs,
    limits,
    maintenance,
    quarantine,
    steps,
    workflows,
)
from pgqueue.operations.claims import Finished, Lane
from pgqueue.operations.jobs import Change, Filter
from pgqueue.outcome import SUCCEEDED, Outcome
from tests.concurrency.database import Jobs, Stage

DAY = 86400.0
START = datetime(2000, 1, 1, tzinfo=UTC)
SIZES = (1, 2, 10, 100)

Make = Callable[[Stage, Jobs], object]


def _nothing(stage: Stage, these: Jobs) -> None: ...


@dataclass(frozen=True)
class Case:
    """One statement on jobs in one state.

    Args:
        operations: what is run, each in a transaction of its own.
        make: what is there beside the jobs.
        waits: may it wait for rows that others have locked? If not, it leaves them for the next call.
        without: names of writers of this state that make no sense here.
        sizes: numbers of contended jobs; as many are free.
        deletes: may a key-share lock hold it up?
        anew: does each call answer for all jobs, so that the last one counts?
    """

    name: str
    statement: str
    state: str
    operations: Callable[[Jobs], Sequence[Operation[Any]]]
    make: Make = _nothing
    waits: bool = False
    without: tuple[str, ...] = ()
    sizes: tuple[int, ...] = SIZES
    deletes: bool = False
    anew: bool = False


def one(make: Callable[[Jobs], Operation[Any]]) -> Callable[[Jobs], Sequence[Operation[Any]]]:
    return lambda these: [make(these)]


def _done(these: Jobs, outcome: Outcome = SUCCEEDED) -> list[Finished]:
    return [Finished(job_id, these.claim, outcome, 0.5) for job_id in these.ids]


OUTCOMES = [
    Outcome("retry", 3600.0, "E", "why"),
    Outcome("snooze", 0.0),
    Outcome("dead", None, "E", "why"),
    Outcome("retry", None, "E", "why"),
    Outcome("cancelled", None, "Cancelled", "why"),
]


def _ended(these: Jobs) -> list[Finished]:
    return [
        Finished(job_id, these.claim, OUTCOMES[place % len(OUTCOMES)], 0.5)
        for place, job_id in enumerate(these.ids)
    ]


def _with_results(these: Jobs) -> list[Finished]:
    return _done(these, Outcome("succeeded", result='{"a": 1}', log="said"))


def _completed(these: Jobs) -> list[Finished]:
    jobs = [
        ClaimedJob(i, "t", "{}", these.queue, 0, 1, 3, 0, START, None, None, 0.0, these.claim)
        for i in these.ids
    ]
    return [
        Finished(job.id, these.claim, Outcome("completed", result='{"a": 1}'), 0.5, False, job)
        for job in jobs
    ]  # fmt: skip


def _held(these: Jobs) -> list[ClaimedJob]:
    return [
        ClaimedJob(i, "t", "{}", these.queue, 0, 1, 3, 0, START, None, None, 0.0, these.claim)
        for i in these.ids
    ]


def _lanes(these: Jobs, priority: int = 0) -> list[Lane]:
    return [Lane(these.queue, priority, START, 0)]


def _taking() -> claims.Taking:
    return {"limit": 1000, "claim_id": uuid4(), "worker_id": uuid4(), "lease": 600}


def _pairs(these: Jobs) -> list[tuple[int, Any]]:
    return [(job_id, these.claim) for job_id in these.ids]


def _pending_beside(stage: Stage, these: Jobs) -> None:
    """As many pending jobs of another lane: for statements that complete and claim."""
    rows = stage.looker.execute(
        "insert into pgqueue.jobs (task, queue, priority, run_at) select 't', %s, 5, now() - interval '1 hour'"
        " from generate_series(1, %s) returning id",
        (these.queue, len(these.ids)),
    )
    these.ids += sorted(row[0] for row in rows.fetchall())
    these.extra["done"] = len(these.ids) // 2


def _first(these: Jobs) -> list[Finished]:
    return _done(these)[: these.extra["done"]]


def _limited(stage: Stage, these: Jobs) -> None:
    stage.looker.execute(
        "insert into pgqueue.queues (name, max_running) values (%s, 1000)", (these.queue,)
    )
    stage.looker.execute(
        "update pgqueue.jobs set limit_key = 't:' || id %% 3 where queue = %s and id %% 2 = 0",
        (these.queue,),
    )


def _without_keys(stage: Stage, these: Jobs) -> None:
    stage.looker.execute("update pgqueue.jobs set task = queue where queue = %s", (these.queue,))
    stage.looker.execute(
        "insert into pgqueue.tasks (name, keyed) values (%s, true)", (these.queue,)
    )


def _suspected(stage: Stage, these: Jobs, together: int = 1000) -> None:
    stage.looker.execute(
        "update pgqueue.jobs set quarantine = %s where queue = %s", (together, these.queue)
    )


def _limited_suspects(stage: Stage, these: Jobs) -> None:
    _limited(stage, these)
    _suspected(stage, these)


def _alone(stage: Stage, these: Jobs) -> None:
    _suspected(stage, these, 1)


def _keyed(stage: Stage, these: Jobs) -> None:
    stage.looker.execute(
        "update pgqueue.jobs set unique_key = 't:' || queue || '.' || id, unique_until = 'finished'"
        " where queue = %s",
        (these.queue,),
    )


def _keyed_until_started(stage: Stage, these: Jobs) -> None:
    stage.looker.execute(
        "update pgqueue.jobs set unique_key = 't:' || queue || '.' || id, unique_until = 'started'"
        " where queue = %s",
        (these.queue,),
    )


def _given_back(stage: Stage, these: Jobs) -> None:
    """Unique until they start, claimed and given back: as if the key had been let go."""
    _keyed_until_started(stage, these)
    stage.looker.execute(
        "update pgqueue.jobs set claimed_at = now() where queue = %s", (these.queue,)
    )


def _enqueued(these: Jobs, until: str, on_conflict: str) -> Operation[Any]:
    return enqueue.enqueue([
        NewJob("t", '{"new": 1}', these.queue, key=UniqueKey(f"{these.queue}.{i}", until, None, on_conflict))  # type: ignore[arg-type]
        for i in these.ids
    ])  # fmt: skip


def _in_workflow(stage: Stage, these: Jobs) -> None:
    """All jobs are one workflow, as its chain of jobs would be: none waits for another."""
    stage.looker.execute(
        """with w as (insert into pgqueue.workflows (name, watched, status, finished_at)
                      values ('w', %(last)s, null, null) returning id),
                m as (insert into pgqueue.workflow_jobs (job_id, workflow_id)
                      select i, w.id from w cross join unnest(%(ids)s::bigint[]) i)
           update pgqueue.jobs j set workflow_id = w.id from w where j.id = any(%(ids)s)""",
        {"ids": these.ids, "last": these.ids[-1]},
    )
    row = stage.looker.execute(
        "select workflow_id from pgqueue.jobs where id = %s", (these.ids[0],)
    ).fetchone()
    these.extra["workflow"] = row and row[0]


def _past_deadline(stage: Stage, these: Jobs) -> None:
    _in_workflow(stage, these)
    stage.looker.execute(
        "update pgqueue.workflows set deadline_at = now() - interval '1 h' where id = %s",
        (these.extra["workflow"],),
    )


def _ended_workflow(stage: Stage, these: Jobs) -> None:
    _in_workflow(stage, these)
    stage.looker.execute(
        "update pgqueue.workflows set status = 'succeeded', watched = null, finished_at = now() - interval '9 days'"
        " where id = %s",
        (these.extra["workflow"],),
    )


def _with_parents(stage: Stage, these: Jobs, one_in: int = 3) -> None:
    """Each of the jobs waits for one parent that has succeeded; ``one_in`` waits for one that is dead."""
    _in_workflow(stage, these)
    rows = stage.looker.execute(
        "insert into pgqueue.jobs (task, queue, status, finished_at)"
        " select 't', 'parents', case when i %% %s = 0 then 'dead' else 'succeeded' end, now()"
        " from generate_series(1, %s) i returning id",
        (one_in, len(these.ids)),
    )
    parents = these.extra["parents"] = sorted(row[0] for row in rows.fetchall())
    stage.looker.execute(
        """with d as (insert into pgqueue.dependencies (job_id, parent_id)
                      select * from unnest(%(ids)s::bigint[], %(parents)s::bigint[]))
           update pgqueue.workflow_jobs m set watched = p.parent
             from unnest(%(ids)s::bigint[], %(parents)s::bigint[]) as p(job, parent) where m.job_id = p.job""",
        {"ids": these.ids, "parents": parents},
    )


def _lost(stage: Stage, these: Jobs) -> None:
    """Each was cancelled since the one it waits for is dead."""
    _with_parents(stage, these, 1)
    stage.looker.execute(
        "update pgqueue.jobs set last_error = 'ParentFailed: job' where id = any(%s)", (these.ids,)
    )
    stage.looker.execute(
        "update pgqueue.workflow_jobs set watched = null where job_id = any(%s)", (these.ids,)
    )
    stage.looker.execute(
        """with p as (update pgqueue.jobs set workflow_id = %(workflow)s where id = any(%(parents)s) returning id)
           insert into pgqueue.workflow_jobs (job_id, workflow_id) select p.id, %(workflow)s from p""",
        these.extra,
    )


def _retried(these: Jobs) -> Sequence[Operation[Any]]:
    return [replace(jobs.retry(these.extra["parents"]), decode=lambda rows: None)]


def _settled(these: Jobs) -> Sequence[Operation[Any]]:
    return [replace(workflows.settle(these.extra["parents"]), decode=lambda rows: None)]


def _waiting_for_event(stage: Stage, these: Jobs, kind: str = "event") -> None:
    stage.looker.execute(
        "with waiting as (update pgqueue.jobs set claimed_at = created_at, suspended_run = created_at"
        " where id = any (%s) returning id, created_at)"
        " insert into pgqueue.steps (job_id, name, kind, events, wakes_at, waiting_run)"
        " select w.id, 'event', %s, array[%s], now() + interval '1 day', w.created_at from waiting w",
        (these.ids, kind, these.queue),
    )


def _waiting_for_message(stage: Stage, these: Jobs) -> None:
    _waiting_for_event(stage, these, "message")


def _waiting_for_jobs(stage: Stage, these: Jobs) -> None:
    """Each is suspended at a wait for one job, which has succeeded."""
    rows = stage.looker.execute(
        "insert into pgqueue.jobs (task, queue, status, finished_at)"
        " select 't', 'parents', 'succeeded', now() from generate_series(1, %s) returning id",
        (len(these.ids),),
    )
    these.extra["parents"] = sorted(row[0] for row in rows.fetchall())
    stage.looker.execute(
        "with waiting as (update pgqueue.jobs set claimed_at = created_at, suspended_run = created_at"
        " where id = any (%(ids)s) returning id, created_at)"
        " insert into pgqueue.steps (job_id, name, kind, events, wakes_at, waiting_run, watched)"
        " select w.id, 'join', 'job', array[p.parent::text], now() + interval '1 day', w.created_at, p.parent from waiting w"
        " join unnest(%(ids)s::bigint[], %(parents)s::bigint[]) as p(job, parent) on p.job = w.id",
        {"ids": these.ids, "parents": these.extra["parents"]},
    )


def _with_event(stage: Stage, these: Jobs) -> None:
    _waiting_for_event(stage, these)
    stage.looker.execute(
        "insert into pgqueue.events (name, payload) values (%s, '1')", (these.queue,)
    )


RECORDING = [
    Case("complete", "complete", "running", one(lambda j: claims.complete(_done(j), delete=False)), waits=True),
    Case("complete and delete", "complete_and_delete", "running",
         one(lambda j: claims.complete(_done(j), delete=True)), waits=True, deletes=True),
    Case("trade", "trade", "running",
         one(lambda j: claims.trade(_first(j), _lanes(j, 5), delete=False, **_taking())),
         make=_pending_beside, waits=True),
    Case("trade and delete", "trade_and_delete", "running",
         one(lambda j: claims.trade(_first(j), _lanes(j, 5), delete=True, **_taking())),
         make=_pending_beside, waits=True, deletes=True),
    Case("fail", "fail", "running", one(lambda j: claims.fail(_ended(j)))),
    Case("complete with results", "complete_with", "running",
         one(lambda j: claims.complete_with(_with_results(j)))),
    Case("add results", "add_results", "succeeded", one(lambda j: claims.add_results(_completed(j)))),
    Case("complete in a transaction", "complete_job", "running",
         lambda j: [jobs.complete(i, j.claim) for i in j.ids], waits=True, sizes=(1,)),
    Case("save a step", "save_step", "running",
         lambda j: [steps.save(held, "s", "1") for held in _held(j)], waits=True, sizes=(1,)),
    Case("fail a step", "fail_step", "running",
         lambda j: [steps.fail(held, "s", "E", max_retries=3, backoff=None) for held in _held(j)], waits=True, sizes=(1,)),
    Case("sleep", "start_sleep", "running",
         lambda j: [steps.sleep(held, "s", 3600) for held in _held(j)], waits=True, sizes=(1,)),
    Case("wait for an event", "await_event", "running",
         lambda j: [steps.wait(held, "s", [j.queue], 3600) for held in _held(j)], waits=True, sizes=(1,)),
    Case("wait for a job", "await_jobs", "running",
         lambda j: [steps.await_jobs(held, "s", [2**62], 3600) for held in _held(j)], waits=True, sizes=(1,)),
]  # fmt: skip
LEASES = [
    Case("heartbeat", "heartbeat", "running", one(lambda j: claims.heartbeat(_pairs(j), worker_id=j.worker, lease=36000)), anew=True),
    Case("progress", "note_progress", "running",
         one(lambda j: claims.note_progress([(i, c, '{"done": 2}') for i, c in _pairs(j)]))),
    Case("end isolation", "end_isolation", "running", one(lambda j: quarantine.end_isolation(_pairs(j))), make=_alone,
         anew=True),
    Case("release", "release", "running", one(lambda j: claims.release(j.claim))),
]  # fmt: skip
CLAIMS = [
    Case("claim", "claim", "pending", one(lambda j: claims.claim(_lanes(j), **_taking()))),
    Case("sweep", "sweep", "pending", one(lambda j: claims.sweep([j.queue], **_taking()))),
    Case("trade nothing and claim", "trade", "pending",
         one(lambda j: claims.trade([], _lanes(j), delete=False, **_taking()))),
    Case("trade nothing, claim and delete", "trade_and_delete", "pending",
         one(lambda j: claims.trade([], _lanes(j), delete=True, **_taking()))),
    Case("claim these", "claim_these", "pending", one(lambda j: claims.claim_these(j.ids, **_taking()))),
    Case("claim under limits", "claim_limited", "pending",
         one(lambda j: limits.claim(j.queue, **_taking())), make=_limited),
    Case("claim suspects", "claim_suspects", "pending",
         one(lambda j: quarantine.claim_suspects([j.queue], **_taking())), make=_suspected),
    Case("claim suspects under limits", "claim_limited", "pending",
         one(lambda j: limits.claim(j.queue, suspects=True, **_taking())), make=_limited_suspects),
]  # fmt: skip
MAINTENANCE = [
    Case("hold keys again", "hold_again", "pending", one(lambda j: claims.hold_again(j.ids)), make=_given_back),
    Case("rescue", "rescue", "lapsed",
         one(lambda j: maintenance.rescue(max_crashes=3, after=j.ids[0] - 1, until=j.ids[-1]))),
    Case("give keys", "key_jobs", "pending", one(lambda j: limits.key_jobs()), make=_without_keys),
    Case("expire", "expire", "late", one(lambda j: maintenance.expire())),
    Case("prune", "prune", "succeeded", one(lambda j: maintenance.prune(Status.SUCCEEDED, age=DAY)), deletes=True),
    Case("prune dead ones", "prune", "dead", one(lambda j: maintenance.prune(Status.DEAD, age=DAY)), deletes=True),
]  # fmt: skip
PEOPLE = [
    *[Case(f"cancel {state} ones", "cancel_jobs", state, one(lambda j: jobs.cancel(j.ids)), waits=True)
      for state in ("pending", "running", "blocked")],
    Case("cancel by a filter", "cancel_jobs", "running", one(lambda j: jobs.cancel(j.ids, Filter(queue=j.queue))), waits=True),
    Case("change", "change_jobs", "pending",
         one(lambda j: jobs.change(j.ids, Filter(), Change(priority=3, delay=60))), waits=True),
    Case("change by a filter", "change_jobs", "pending",
         one(lambda j: jobs.change(j.ids, Filter(queue=j.queue), Change(priority=3))), waits=True),
    Case("retry", "retry_jobs", "dead", one(lambda j: jobs.retry(j.ids, Filter())), waits=True),
    Case("retry by a filter", "retry_jobs", "dead", one(lambda j: jobs.retry(j.ids, Filter(queue=j.queue))), waits=True),
    Case("retry unique ones", "retry_jobs", "cancelled", one(lambda j: jobs.retry(j.ids, Filter())), make=_keyed, waits=True),
    *[Case(f"clear {state} ones", "clear_jobs", state,
           one(lambda j, state=state: jobs.clear(j.ids, Filter(queue=j.queue), status=state)), deletes=True, waits=True)
      for state in ("pending", "dead")],
    *[Case(f"replace arguments of {state} ones", "replace_args", state,
           one(lambda j: jobs.replace_args([(i, '{"old": 1}', '{"new": 1}') for i in j.ids])), waits=True)
      for state in ("dead", "pending")],
]  # fmt: skip
UNIQUE = [
    *[Case(f"enqueue unique ones, {on}", "enqueue_jobs", "pending",
           one(lambda j, on=on, until=until: _enqueued(j, until, on)), make=make, waits=True, sizes=(1, 10))
      for on, until, make in (("ignore", "finished", _keyed), ("replace", "started", _keyed_until_started),
                              ("reschedule", "started", _keyed_until_started))],
    Case("enqueue unique ones, running", "enqueue_jobs", "running",
         one(lambda j: _enqueued(j, "finished", "ignore")), make=_keyed, waits=True, sizes=(1, 10)),
]  # fmt: skip
WORKFLOWS = [
    *[Case(f"stop {state} ones of a workflow past its deadline", "expire_workflows", state,
           one(lambda j: replace(workflows.expire(), decode=lambda rows: None)), make=_past_deadline) for state in ("pending", "running")],
    Case("settle", "settle", "blocked", _settled, make=_with_parents),
    Case("settle what jobs wait for in a handler", "settle", "waiting", _settled, make=_waiting_for_jobs),
    Case("add to a workflow", "add_to_workflow", "running",
         lambda j: [replace(workflows.add([workflows.Member(NewJob("t", "{}", "q"), None, [], "cancel")], job_id=held.id,
                                          claim_id=held.claim_id, notify=False), decode=lambda rows: None) for held in _held(j)],
         make=_in_workflow, waits=True, sizes=(1,)),
    *[Case(f"cancel a workflow of {state} ones", "cancel_workflow", state,
           one(lambda j: workflows.cancel(j.extra["workflow"])), make=_in_workflow, waits=True)
      for state in ("pending", "running")],
    Case("retry members of a workflow", "retry_jobs", "dead", one(lambda j: jobs.retry(j.ids)), make=_in_workflow, waits=True,
         without=("retry",)),
    Case("retry what others were lost with", "retry_jobs", "cancelled", _retried, make=_lost, waits=True),
    Case("retry a workflow", "retry_workflow", "dead", one(lambda j: workflows.retry(j.extra["workflow"])),
         make=_in_workflow, waits=True),
    Case("prune workflows", "prune_workflows", "succeeded",
         one(lambda j: replace(workflows.prune(Status.SUCCEEDED, age=7 * DAY), decode=lambda rows: None)), make=_ended_workflow,
         deletes=True),
    Case("emit", "emit", "waiting", one(lambda j: replace(steps.emit(j.queue, "1"), decode=len)), make=_waiting_for_event,
         without=("emit",)),
    Case("send a message", "send", "waiting", lambda j: [replace(steps.send(i, j.queue, "1"), decode=len) for i in j.ids],
         make=_waiting_for_message, without=("emit",), sizes=(1,)),
    Case("deliver events", "deliver_events", "waiting", one(lambda j: replace(steps.deliver(), decode=lambda rows: None)), make=_with_event),
]  # fmt: skip
CASES = [*RECORDING, *LEASES, *CLAIMS, *MAINTENANCE, *PEOPLE, *UNIQUE, *WORKFLOWS]

# Statements that only insert rows of their own, without a conflict with others: nobody can hold them up.
INSERT = {
    "enqueue",
    "enqueue_one",
    "enqueue_plain",
    "copy_jobs",
    "enqueue_workflow",
    "run_schedule",
    "fire_schedules",
}
# Statements that lock rows to see which another would take, and change none.
LOOKS = {"look_ahead", "look_behind", "look_limited", "look_at_suspects", "overdue_members"}
# Statements of the testing kit, which write jobs that only its own transaction sees.
ALONE = {"test_claim", "test_due", "test_travel"}
