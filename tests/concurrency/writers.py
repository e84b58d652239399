"""What else writes the rows of a statement: each within a transaction that is still open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

from pgqueue.operations import claims, jobs, maintenance, steps
from pgqueue.operations.claims import Finished, Lane
from pgqueue.operations.jobs import Change
from pgqueue.outcome import SUCCEEDED, Outcome
from tests.concurrency.database import Jobs, Stage
from tests.plans.test_plans import START

RUNNING = ("running", "lapsed")
DUE = ("pending", "late")
ENDED = ("succeeded", "dead", "cancelled")
ANY = (*RUNNING, *DUE, *ENDED, "waiting", "blocked")


@dataclass(frozen=True)
class Writer:
    """``act`` writes the jobs ``theirs`` on the stage's first connection and does not commit.

    ``alone``: it cannot keep to these jobs.
    """

    name: str
    states: tuple[str, ...]
    act: Callable[[Stage, Jobs], object]
    alone: bool = False


def _sql(text: str) -> Callable[[Stage, Jobs], object]:
    return lambda stage, these: stage.writer.execute(text.encode(), {"ids": these.theirs})


def _heartbeat(stage: Stage, these: Jobs) -> object:
    pairs = [(job_id, these.claim) for job_id in these.theirs]
    return stage.run(stage.writer, claims.heartbeat(pairs, worker_id=these.worker, lease=600))


def _progress(stage: Stage, these: Jobs) -> object:
    said = [(job_id, these.claim, '{"done": 1}') for job_id in these.theirs]
    return stage.run(stage.writer, claims.note_progress(said))


def _cancel(stage: Stage, these: Jobs) -> object:
    return stage.run(stage.writer, jobs.cancel(these.theirs))


def _change(stage: Stage, these: Jobs) -> object:
    operation = jobs.change(these.theirs, jobs.Filter(), Change(priority=7, delay=3600))
    return stage.run(stage.writer, operation)


def _complete(stage: Stage, these: Jobs) -> object:
    done = [Finished(job_id, these.claim, SUCCEEDED, 0.5) for job_id in these.theirs]
    return stage.run(stage.writer, claims.complete(done, delete=False))


def _fail(stage: Stage, these: Jobs) -> object:
    outcome = Outcome("retry", 0.0, "E", "why")
    done = [Finished(job_id, these.claim, outcome, 0.5) for job_id in these.theirs]
    return stage.run(stage.writer, claims.fail(done))


def _rescue(stage: Stage, these: Jobs) -> object:
    stage.writer.execute(
        "update pgqueue.jobs set lease_expires_at = now() - interval '1 hour' where id = any(%s)",
        (these.theirs,),
    )
    first, last = these.theirs[0], these.theirs[-1]
    return stage.run(stage.writer, maintenance.rescue(max_crashes=3, after=first - 1, until=last))


def _claim(stage: Stage, these: Jobs) -> object:
    lanes = [Lane(these.queue, 0, START, 0)]
    return stage.run(
        stage.writer,
        claims.claim(
            lanes, limit=len(these.theirs), claim_id=uuid4(), worker_id=uuid4(), lease=600
        ),
    )


def _reclaim(stage: Stage, these: Jobs) -> object:
    _rescue(stage, these)
    return _claim(stage, these)


def _retry(stage: Stage, these: Jobs) -> object:
    return stage.run(stage.writer, jobs.retry(these.theirs, jobs.Filter()))


def _emit(stage: Stage, these: Jobs) -> object:
    return stage.run(stage.writer, steps.emit(these.queue, "1"))


# Those that claim come first: they take the first of the queue.
WRITERS = [
    Writer("claim", ("pending",), _claim),
    Writer("rescue and claim", RUNNING, _reclaim),
    Writer("touch", ANY, _sql("update pgqueue.jobs set run_at = run_at where id = any(%(ids)s)")),
    Writer("lock", ANY, _sql("select from pgqueue.jobs where id = any(%(ids)s) for update")),
    Writer("delete", ANY, _sql("delete from pgqueue.jobs where id = any(%(ids)s)")),
    Writer("heartbeat", RUNNING, _heartbeat),
    Writer("progress", RUNNING, _progress),
    Writer("cancel", (*RUNNING, *DUE, "waiting", "blocked"), _cancel),
    Writer("change", (*DUE, "waiting"), _change),
    Writer("complete", RUNNING, _complete),
    Writer("fail", RUNNING, _fail),
    Writer("rescue", RUNNING, _rescue),
    Writer("retry", ("dead", "cancelled"), _retry),
    Writer("emit", ("waiting",), _emit, alone=True),
]
TOUCH = next(writer for writer in WRITERS if writer.name == "touch")
KEY_SHARE = Writer(
    "key share", ANY, _sql("select from pgqueue.jobs where id = any(%(ids)s) for key share")
)
