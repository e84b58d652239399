"""Databases and rows for the concurrency suite: large analyzed tables, and jobs in any state."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import tuple_row

from pgqueue.drivers._psycopg import PsycopgDriver
from pgqueue.operations import Operation
from pgqueue.sql import Statement, load

Connection = psycopg.Connection[Any]

LONGEST_WAIT = 30.0

# What other jobs there are: enough that no plan is one for small tables.
CROWD = """
    alter table pgqueue.jobs set (autovacuum_enabled = off);
    insert into pgqueue.jobs (task, queue, status, attempt, claimed_at, finished_at, run_seconds)
    select 't', 'crowd', 'succeeded', 1, now(), now(), 0.1 from generate_series(1, 20000);
    insert into pgqueue.jobs (task, queue, run_at)
    select 't', 'crowd', now() + interval '1 day' from generate_series(1, 2000);
    insert into pgqueue.jobs (task, queue, status, attempt, claimed_at, claim_id, worker_id, lease_expires_at)
    select 't', 'crowd', 'running', 1, now(), gen_random_uuid(), gen_random_uuid(), now() + interval '1 day'
      from generate_series(1, 500);
    insert into pgqueue.attempts (job_id, attempt, outcome)
    select j.id, 1, 'retry' from pgqueue.jobs j where j.status = 'succeeded' limit 5000;
    insert into pgqueue.workflows (name, status, finished_at, watched)
    select 'crowd', 'succeeded', now(), null from generate_series(1, 500);
    insert into pgqueue.workflow_jobs (job_id, workflow_id)
    select -i, w.id from pgqueue.workflows w cross join generate_series(1, 10) n
     cross join lateral (select w.id * 100 + n as i) x;
"""
ANALYZE = "analyze pgqueue.jobs, pgqueue.attempts, pgqueue.workflows, pgqueue.workflow_jobs, pgqueue.dependencies, pgqueue.steps"

# Columns of a new job in each state, beside its task, queue and place in the queue.
STATES: dict[str, dict[str, str]] = {
    "pending": {},
    "late": {"expires_at": "now() - interval '1 hour'"},
    "waiting": {"run_at": "now() + interval '1 hour'", "attempt": "1"},
    "running": {
        "status": "'running'",
        "attempt": "1",
        "claim_id": "%(claim)s",
        "worker_id": "%(worker)s",
        "claimed_at": "now() - interval '1 minute'",
        "lease_expires_at": "now() + interval '10 minutes'",
    },
    "succeeded": {
        "status": "'succeeded'",
        "attempt": "1",
        "claimed_at": "now() - interval '3 days'",
        "finished_at": "now() - interval '2 days'",
    },
    "blocked": {"status": "'blocked'"},
}
STATES["lapsed"] = STATES["running"] | {"lease_expires_at": "now() - interval '1 minute'"}
STATES["dead"] = STATES["succeeded"] | {"status": "'dead'", "last_error": "'E: why'"}
STATES["cancelled"] = STATES["succeeded"] | {"status": "'cancelled'"}


@dataclass
class Jobs:
    """Jobs of one scenario in the order of their ids; ``theirs`` are those that another writer writes."""

    ids: list[int]
    queue: str
    claim: UUID
    worker: UUID
    theirs: list[int] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


class Stage:
    """A database with four connections: who writes first, the statement under test, and who looks.

    ``under`` maps "plain" and "pinned" to the connections of the statement under test.
    """

    def __init__(self, dsn: str) -> None:
        self.writer = psycopg.connect(dsn)
        self.looker = psycopg.connect(dsn, autocommit=True)
        self.under = {
            name: psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
            for name in ("plain", "pinned")
        }
        pinned = self.under["pinned"]
        values = {"limit": "1min", "local": False, "pid": pinned.info.backend_pid}
        PsycopgDriver(pinned).fetch(load()["pin_session"], values)
        pinned.execute("set lock_timeout = 0")
        self.statements: Mapping[str, Statement] = load()
        self._pool = ThreadPoolExecutor(1)
        self._number = 0
        self.known: dict[Any, dict[str, Any]] = {}
        row = self.looker.execute("select max(id) from pgqueue.jobs").fetchone()
        self._crowd = row[0] if row else 0

    def close(self) -> None:
        for connection in (self.writer, self.looker, *self.under.values()):
            connection.close()
        self._pool.shutdown()

    def make(self, state: str, count: int) -> Jobs:
        """Insert jobs, each due a millisecond after the one before."""
        self._number += 1
        queue = f"q{self._number}"
        claim, worker = uuid4(), uuid4()
        columns = {
            "task": "'t'",
            "queue": "%(queue)s",
            "run_at": "now() - interval '1 day' + i * interval '1 ms'",
            "args": "'{\"old\": 1}'",
            **STATES[state],
        }
        rows = self.looker.execute(
            f"insert into pgqueue.jobs ({', '.join(columns)})"
            f" select {', '.join(columns.values())} from generate_series(1, %(count)s) i"
            " returning id".encode(),
            {"claim": claim, "worker": worker, "queue": queue, "count": count},
        ).fetchall()
        return Jobs(sorted(row[0] for row in rows), queue, claim, worker)

    def clear(self, jobs: Jobs) -> None:
        """Remove what a scenario left."""
        self.looker.execute(
            CLEAR, {"crowd": self._crowd, "queue": jobs.queue, "worker": jobs.worker}
        )

    def run(self, connection: Connection, operation: Operation[Any]) -> Any:
        """The result of an operation; of a refusal by the database its SQLSTATE."""
        statement = self.statements[operation.statement]
        values = [operation.values[name] for name in statement.parameters]
        try:
            with psycopg.RawCursor(connection, row_factory=tuple_row) as cursor:
                cursor.execute(statement.encoded, values)
                return operation.decode(cursor.fetchall())
        except psycopg.Error as error:
            return f"refused: {error.sqlstate}"

    @contextmanager
    def beside(
        self, connection: Connection, operations: Sequence[Operation[Any]]
    ) -> Iterator[Under]:
        """Start operations, each a transaction, on a thread; go on when they wait for a lock or have ended."""
        future = self._pool.submit(lambda: [self.run(connection, each) for each in operations])
        deadline = time.monotonic() + LONGEST_WAIT
        pid = connection.info.backend_pid
        waited = False
        while not future.done():
            row = self.looker.execute(
                "select cardinality(pg_blocking_pids(%s)) > 0", (pid,)
            ).fetchone()
            if row and row[0]:
                waited = True
                break
            assert time.monotonic() < deadline, "neither ended nor waits for a lock"
        yield Under(future, waited)

    def told(self, jobs: Jobs, returned: list[Any]) -> dict[str, Any]:
        """What the tables and the statement say of these jobs, without ids, claims and times of their own."""
        rows = self.looker.execute(
            LOOK,
            {"first": jobs.ids[0], "queue": jobs.queue, "claim": jobs.claim, "worker": jobs.worker},
        ).fetchall()
        found: dict[str, Any] = {"jobs": [], "attached": []}
        for kind, text in rows:
            found[kind].append(text)
        found["attached"].sort()
        return found | {"returned": in_no_order(Telling(jobs).value(returned))}


# One row each, as text: times by how they lie to now, claims and workers by whose they are, ids by their place.
LOOK = """
    with j as materialized (select * from pgqueue.jobs where id >= %(first)s and queue = %(queue)s),
    t as (select clock_timestamp() as now)
    (select 'jobs', concat_ws(' ',
            'job ' || j.id - %(first)s, j.status, 'attempt', j.attempt, 'crashes', j.crashes, 'priority', j.priority,
            case when j.cancel_requested then 'to be cancelled' end, j.args, 'progress ' || j.progress::text,
            'result ' || j.result::text, regexp_replace(j.last_error, '[0-9a-f]{4,}[0-9a-f-]*|[0-9]+', '#', 'g'),
            case when j.run_seconds is not null then 'ran' end, case when j.unique_key is not null then 'unique' end,
            case j.claim_id when %(claim)s then 'first claim' else left(j.claim_id::text, 0) || 'other claim' end,
            case j.worker_id when %(worker)s then 'first worker' else left(j.worker_id::text, 0) || 'other worker' end,
            (select string_agg(w.name || ' ' || case when w.at < now - interval '1 day 1 minute' then 'long ago'
                        when w.at < now - interval '20 s' then 'before' when w.at < now + interval '20 s' then 'now'
                        when w.at < now + interval '15 minutes' then 'soon' else 'later' end, ', ')
               from (values ('run_at', j.run_at), ('claimed_at', j.claimed_at), ('finished_at', j.finished_at),
                            ('lease', j.lease_expires_at), ('expires', j.expires_at)) as w(name, at)
              where w.at is not null))
       from j cross join t order by j.id)
    union all
    select 'attached', x.text from (
        select a.job_id, concat_ws(' ', 'attempt of job', a.job_id - %(first)s, a.attempt, a.outcome, a.error_type, a.log)
          from pgqueue.attempts a where a.job_id >= %(first)s
        union all
        select s.job_id, concat_ws(' ', 'step of job', s.job_id - %(first)s, s.name, s.kind, s.result, s.error, s.event, s.finished_at is null, s.wakes_at is null)
          from pgqueue.steps s where s.job_id >= %(first)s
        union all
        select m.job_id, concat_ws(' ', 'job', m.job_id - %(first)s, 'watches', m.watched - %(first)s, m.if_failed)
          from pgqueue.workflow_jobs m where m.job_id >= %(first)s
        union all
        select w.watched, concat_ws(' ', 'workflow', w.status, w.finished_at is null, w.watched - %(first)s)
          from pgqueue.workflows w
         where w.id in (select m.workflow_id from pgqueue.workflow_jobs m where m.job_id >= %(first)s)) x(job_id, text)
"""
CLEAR = """
    with a as (delete from pgqueue.attempts where job_id > %(crowd)s),
         s as (delete from pgqueue.steps where job_id > %(crowd)s),
         d as (delete from pgqueue.dependencies where job_id > %(crowd)s),
         q as (delete from pgqueue.queues where name = %(queue)s),
         e as (delete from pgqueue.events),
         w as (delete from pgqueue.workers where id = %(worker)s),
         f as (delete from pgqueue.workflows w using pgqueue.workflow_jobs m where m.workflow_id = w.id and m.job_id > %(crowd)s),
         m as (delete from pgqueue.workflow_jobs where job_id > %(crowd)s)
    delete from pgqueue.jobs where id > %(crowd)s
"""


def in_no_order(value: Any) -> Any:
    """Lists sorted, also those within."""
    if isinstance(value, dict):
        return {key: in_no_order(each) for key, each in sorted(value.items())}
    if isinstance(value, list):
        return sorted((in_no_order(each) for each in value), key=repr)
    return value


@dataclass
class Under:
    """The statement under test, on its thread."""

    future: Future[list[Any]]
    waited: bool

    def result(self) -> list[Any]:
        return self.future.result(LONGEST_WAIT)


class Telling:
    """In what a statement returned, ids become places in the list of jobs, claims names and times nothing."""

    def __init__(self, jobs: Jobs) -> None:
        self._places = {job_id: f"job {place}" for place, job_id in enumerate(jobs.ids)}
        self._jobs = jobs

    def value(self, value: Any) -> Any:
        match value:
            case bool() | None:
                return value
            case float() | datetime():
                return "..."
            case int():
                new = "new job" if value > self._jobs.ids[-1] else value
                return self._places.get(value, new)
            case UUID():
                return "first claim" if value == self._jobs.claim else "other claim"
            case str():
                return value.replace(self._jobs.queue, "queue")
            case Mapping():
                return {self.value(key): self.value(each) for key, each in value.items()}
            case list() | tuple():
                return [self.value(each) for each in value]
        return self.value([getattr(value, name) for name in value.__dataclass_fields__])
