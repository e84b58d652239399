"""Takes each guard out of the SQL in turn; some test must fail: ``make mutants``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pgqueue.embedded import embedded_postgres

ROOT = Path(__file__).parents[1]
TESTS = [
    "tests/worker/test_fences.py",
    "tests/worker/test_locks.py",
    "tests/worker/test_outcomes.py",
    "tests/worker/test_locked_rows.py",
    "tests/worker/test_refused_rows.py",
    "tests/worker/test_refused_claims.py",
    "tests/poison/test_quarantine.py",
    "tests/concurrency",
    "tests/worker/test_crowd.py",
    "tests/model",
    "tests/plans",
    "tests/schedules",
    "tests/unique",
    "tests/control",
    "tests/limits/test_limits.py",
    "tests/limits/test_fairness.py",
    "tests/limits/test_every_way.py",
    "tests/workflows",
    "tests/steps",
    "tests/queues",
    "tests/schema/test_names.py",
    "tests/deploys",
    "tests/poison/test_suspects.py",
    "tests/kit/test_others.py",
]
# What is likely to notice a mutant is run first, by its statement or else its file; then all the others.
LIMITS = ["tests/limits"]
STEPS = ["tests/steps"]
WORKFLOWS = ["tests/workflows"]
SCHEDULES = ["tests/schedules"]
PLACING = ["tests/unique", "tests/queues"]
FIRST = {
    "pgqueue/sql/schedules.sql": SCHEDULES,
    "pgqueue/sql/workflows.sql": WORKFLOWS,
    "pgqueue/sql/steps.sql": STEPS,
    "pgqueue/sql/limits.sql": LIMITS,
    "pgqueue/sql/jobs.sql": ["tests/control"],
    "pgqueue/sql/queues.sql": ["tests/queues", "tests/control"],
    "pgqueue/sql/testing.sql": ["tests/kit/test_others.py"],
    "pgqueue/sql/quarantine.sql": ["tests/poison/test_quarantine.py", "tests/poison/test_suspects.py"],
    **dict.fromkeys(("add_schedule", "resume_schedule", "scheduled_jobs"), SCHEDULES),
    **dict.fromkeys(("await_event", "await_jobs", "check_step", "fail_step", "forget_steps", "progressed", "save_step", "wake_waiting"), STEPS),
    **dict.fromkeys(("enqueue_workflow", "put_members", "add_to_workflow", "cancel_workflow", "settle", "retry_members", "retry_workflow", "expire_workflows"), WORKFLOWS),
    **dict.fromkeys(("claim_limited", "held_key", "hold_again", "key_of", "key_text", "own_key", "retry_keyed", "tokens", "worst"), LIMITS),
    **dict.fromkeys(("place_job", "enqueue", "room"), PLACING),
    "refuse_name": ["tests/schema/test_names.py"],
    "with_defaults": ["tests/deploys", "tests/enqueue"],
}  # fmt: skip
SETTINGS = {"fsync": "off", "max_connections": "200", "shared_buffers": "256MB"}
OWN = " and j.claim_id = t.claim_id"
RUNNING = "where j.status = 'running'"
ORDER = "order by j.id\n     for no key update of j"
SKIP = "for no key update of j skip locked"
SCHEMA = "migrations/versions/v0001_baseline.up.sql"


@dataclass(frozen=True)
class Mutant:
    """One guard less: ``old`` becomes ``new`` in a statement, function or table of a file."""

    file: str
    statement: str
    old: str
    new: str

    @property
    def name(self) -> str:
        return f"{self.statement}: {' '.join(self.old.split())!r}"


def _claims(statement: str, *changes: tuple[str, str]) -> list[Mutant]:
    return [Mutant("pgqueue/sql/claims.sql", statement, old, new) for old, new in changes]


MUTANTS = [
    *[Mutant("pgqueue/sql/schedules.sql", "fire_schedules", old, new) for old, new in (
        (" is not distinct from w.seen", " is not null"), ("and s.recent_job_ids[1] is not distinct from w.last_job_id", ""),
        (" or s.next_tick > now() + interval '100 years'", ""), ("'blocked', 'pending', 'running'", "'pending', 'running'"),
        ("s.overlap = 'skip' and (", "("),
        ("case when s.last_tick = pgqueue.readable(s.last_tick) then s.last_tick end", "s.last_tick"), (" and s.paused_at is null", ""),
        ("t.tick > c.seen and ", ""), (" and t.tick <= clock_timestamp()", ""),
        ("greatest(s.last_tick, c.last_tick)", "c.last_tick"), ("where not c.busy", "where true"),
        ("for no key update of s skip locked", ""))],
    *[Mutant("pgqueue/sql/schedules.sql", "review_schedules", old, new) for old, new in (
        ("s.source = 'code'\n       and ", ""), (" where w.live_until > clock_timestamp()", ""), (" or s.kept", ""),
        ("not s.kept and ", ""), ("s.paused_at is null and s.undeclared_at", "s.undeclared_at"),
        (" and s.undeclared_at <= clock_timestamp() - make_interval(secs => :patience::float8)", ""),
        ("when f.declared and f.pause_reason = 'undeclared'", "when f.declared"), ("for no key update of s skip locked", ""),
        ("kept = false", "kept = s.kept"), ("unnest(:own::text[])", "unnest('{}'::text[])"))],
    *[Mutant("pgqueue/sql/schedules.sql", "declare_schedules", old, new) for old, new in (
        ("f.place is null or f.place > f.present_place", "f.place is null"), ("when f.synced then 'older'", ""),
        ("f.declarations[f.place + 1:]", "array[]::text[]"), ("f.declarations[f.present_place:]", "f.declarations[f.place + 1:]"),
        ("where w.live_until > clock_timestamp() and w.declarations && f.declarations[f.present_place:]",
         "where w.declarations && f.declarations[f.present_place:]"),
        ("f.missing_at <= clock_timestamp() - make_interval(secs => :patience::float8)", "true"),
        ("when 'older' then s.missing_at is not null", ""), ("when 'same' then s.missing_at is not null or s.synced", "when 'same' then s.synced"),
        ("synced = s.synced and (j.verdict <> 'same' or :force::boolean)", "synced = s.synced"),
        ("or f.place is distinct from cardinality(f.declarations)", ""))],
    Mutant("pgqueue/sql/schedules.sql", "keep_schedules", "case when s.pause_reason = 'undeclared' then null else s.paused_at end",
           "null"),
    *[Mutant(SCHEMA, "resume_schedule", old, new) for old, new in (
        ("s.kept or s.undeclared_at is not null", "s.kept"), ("s.kept or s.undeclared_at", "s.undeclared_at"))],
    Mutant(SCHEMA, "add_schedule", "s.pause_reason is distinct from 'undeclared' then s.paused_at end", "true then s.paused_at end"),
    Mutant(SCHEMA, "add_schedule", "source = 'hand', updated_at", "updated_at"),
    *_claims("ahead", (" or j.xmax = j.xmin", ""), (" or age(j.xmax) not between -1000 and 1000", ""),
             ("not :skip_touched::boolean", "true"), ("(not :skip_touched::boolean or ", "("),
             (SKIP, "for no key update of j"), ("j.status = 'pending' and ", "")),
    *_claims("fits", ("j.left_until <= now() or ", ""), (" or :worker_id::uuid <> all (j.left_by)", ""),
             ("and (:only::text[] is null or j.task = any (:only::text[]))", "and true"),
             ("and j.id <> all (:not_ids::bigint[])", "and (:not_ids::bigint[] is null or true)")),
    *_claims("claim_these", ("(case when j.status = 'pending' then j.run_at end)", "j.run_at"), (" and q.name in (j.queue, '*')", " and q.name = '*'"),
             ("in (j.queue, '*')", "in (j.queue)"), ("q.paused_at is not null and ", "false and "), ("coalesce(q.max_running, q.rate)", "null::integer"),
             ("j.limit_key is null and ", ""), (" and j.quarantine is null", ""), ("and (j.expires_at is null or j.expires_at > now())", "and true"),
             ("where t.paused_at is not null", "where false"), ("j.id = any (:ids::bigint[]) and ", ""), (SKIP, "for no key update of j")),
    *_claims("fail", ("coalesce(j.left_at, now()) + make_interval(secs => t.delay) <= clock_timestamp()", "false"),
             ("then coalesce(j.left_at, now())\n", "then now()\n"), ("case when cardinality(j.left_by) < 64 then", "case when true then"),
             ("own.outcome = 'leave' and own.status <> 'dead' then own.counts_as - 1", "false then own.counts_as - 1")),
    *_claims("behind", (SKIP, "for no key update of j")),
    *_claims("own", (" = t.claim_id", " is not null"), ("case when j.status = 'running' then j.claim_id end", "j.claim_id")),
    *_claims("ended", (" order by e.id", "")),
    *[Mutant(SCHEMA, "refuse_name", old, new) for old, new in (
        ("insert or update of id, queue, task", "insert"), ("queue, task on", "queue on"), ("new.id < 1 or ", ""), ("insert or update", "update"),
        ("new.queue ~ '[^A-Za-z0-9_.:-]' or ", ""), (" not between 1 and 64", " = 0"),
        ("length(new.queue) not between 1", "length(new.queue) not between 0"),
        (" not between 1 and 200", " = 0"), ("length(new.task) not between 1", "length(new.task) not between 0"))],
    Mutant(SCHEMA, "pgqueue.jobs", "fillfactor = 50", "fillfactor = 85"),
    *_claims("remove", ("gone.attempt > 1 or ", ""), (" or gone.run_seconds is not null", "")),
    *_claims("fail", (" and a.attempt = own.attempt", ""), (" and a.outcome = 'snooze'", "")),
    *_claims("fail", (OWN, ""), (RUNNING, "where true"), (SKIP, "for no key update of j")),
    *[Mutant("pgqueue/sql/leases.sql", "release", old, new) for old, new in (
        ("j.claim_id = :claim_id::uuid and ", ""), (" and j.status = 'running'", ""), (" skip locked", ""),
        ("and (:only_ids::bigint[] is null or j.id = any (:only_ids::bigint[]))", "and (:only_ids::bigint[] is null or true)"))],
    *[Mutant("pgqueue/sql/leases.sql", "heartbeat", old, new) for old, new in (
        (OWN, ""), (RUNNING, "where true"), (" skip locked", ""))],
    *[Mutant("pgqueue/sql/maintenance.sql", "may_be_rescued", old, new) for old, new in (
        (" and j.lease_expires_at < clock_timestamp()", ""), (" and j.status = 'running'", ""))],
    Mutant("pgqueue/sql/maintenance.sql", "rescue", " skip locked", ""),
    *[Mutant(f"pgqueue/sql/{file}.sql", part, old, new) for file, part in (
        ("maintenance", "chosen"), ("workflows", "chosen")) for old, new in (
        ("and j.id not in (select unnest(:not_ids::bigint[]))", ""), ("and (:only_ids::bigint[] is null or j.id = any (:only_ids::bigint[]))", ""))],
    *[Mutant("pgqueue/sql/workers.sql", "worker_seen", old, new) for old, new in ((" skip locked", ""),
        ("w.seen_at < clock_timestamp() - make_interval(secs => :forget::float8)", "true"))],
    *[Mutant("pgqueue/sql/maintenance.sql", "rescue", old, new) for old, new in (
        ("when j.quarantine = 1 and (", "when ("), ("case when j.quarantine = 1 or j.crashes", "case when true or j.crashes"),
        (" or tried.attempt > j.max_retries then :together", " then :together"), ("greatest(j.quarantine / 4, 1)", "j.quarantine"),
        ("when j.max_retries = 0 then 'dead'", ""), ("when j.cancel_requested then 'cancelled'", "when false then 'cancelled'"))],
    *[Mutant("pgqueue/sql/quarantine.sql", "due", old, new) for old, new in (
        ("(case when j.status = 'pending' then j.quarantine end)", "j.quarantine"), (" and j.run_at <= now()", ""),
        ("and (:queues::text[] is null or j.queue = any (:queues::text[]))", "and (:queues::text[] is null or true)"),
        ("and (j.expires_at is null or j.expires_at > now())", ""), (" and q.name in (j.queue, '*')", ""),
        ("in (j.queue, '*')", "in (j.queue)"), ("in (j.queue, '*')", "in ('*')"), ("where t.paused_at is not null", "where false"),
        ("and j.id <> all (:not_ids::bigint[])", "and (:not_ids::bigint[] is null or true)"))],
    Mutant("pgqueue/sql/quarantine.sql", "claim_suspects", "(select count(*) from pick)", "16"),
    *[Mutant("pgqueue/sql/quarantine.sql", "together", old, new) for old, new in (
        ("and (:only_ids::bigint[] is null or j.id = any (:only_ids::bigint[]))", "and (:only_ids::bigint[] is null or true)"),
        (" or :worker_id::uuid <> all (j.left_by)", ""), (" or j.left_until <= now()", ""), ("j.limit_key is null and ", ""), ("where t.keyed", "where false"),
        ("q.name = j.queue and ", ""), ("coalesce(q.max_running, q.rate)", "q.max_running"),
        ("coalesce(q.max_running, q.rate)", "q.rate"), ("and j.quarantine >= (select first.quarantine from first)", ""),
        ("least((select first.quarantine from first), :limit::integer)", ":limit::integer"),
        ("least((select first.quarantine from first), :limit::integer)", "(select first.quarantine from first)"),
        ("for no key update of j skip locked", "for no key update of j nowait"))],
    *[Mutant("pgqueue/sql/quarantine.sql", "end_isolation", old, new) for old, new in (
        (OWN, ""), ("where j.status = 'running' and ", "where "), (" and j.quarantine = 1", ""), (" skip locked", ""))],
    *_claims("fail", ("quarantine = case when own.ended then null else j.quarantine end", "quarantine = j.quarantine"),
             ("quarantine = case when own.ended then null else j.quarantine end", "quarantine = null"),
             ("crashes = case when own.ended then 0 else j.crashes end", "crashes = j.crashes"),
             ("crashes = case when own.ended then 0 else j.crashes end", "crashes = 0")),
    *[Mutant("pgqueue/sql/jobs.sql", "cancel_jobs", old, new) for old, new in (
        (" and j.status in ('blocked', 'pending', 'running')", ""),
        (ORDER, "for no key update of j"))],
    *[Mutant("pgqueue/sql/jobs.sql", "retry_jobs", old, new) for old, new in (
        ("j.status in ('dead', 'cancelled')\n", "true\n"),
        ("(:status::text is null or j.status = :status::text)", "true"))],
    Mutant("pgqueue/sql/jobs.sql", "retry_jobs", "run_seconds = 0", "run_seconds = null"),
    Mutant(SCHEMA, "retry_keyed", "run_seconds = 0", "run_seconds = null"),
    *[Mutant("pgqueue/sql/jobs.sql", "clear_jobs", old, new) for old, new in (
        (" and j.status <> 'running'", ""), ("j.status = :status::text and ", ""))],
    *_claims("claimable", ("and (j.expires_at is null or j.expires_at > now())", "and true"),
             ("and q.paused_at is not null)", "and false)"), (" and j.quarantine is null", ""),
             ("where t.paused_at is not null or t.keyed", "where t.keyed"), ("or t.keyed", ""), ("and j.limit_key is null", "and true"),
             ("coalesce(q.max_running, q.rate)", "null::integer")),
    *[mutant for part in ("ahead", "behind") for mutant in _claims(
        part, ("and j.task <> all (:without::text[])", "and (:without::text[] is null or true)"))],
    Mutant("pgqueue/sql/claims.sql", "test_claim", "j.id = any (:ids::bigint[]) and ", "(:ids::bigint[] is null or true) and "),
    Mutant("pgqueue/sql/testing.sql", "test_due", "j.id = any (:ids::bigint[])\n   and ", "(:ids::bigint[] is null or true) and "),
    *[Mutant("pgqueue/sql/testing.sql", "test_jobs", old, new) for old, new in (
        (" = 'in progress'", " is not null"), ("now() <> :began::timestamptz and ", "(:began::timestamptz is null or true) and "))],
    *[Mutant(SCHEMA, "claim_limited", old, new) for old, new in (
        ("for no key update of q skip locked;", ";"), ("here.max_running - coalesce(sum(r.n), 0)::integer", "room"),
        ("head.max_running - coalesce((busy ->> at_key)::integer, 0)", "room"),
        ("elsif not busy ? at_key then", "else"), ("head.ordered = 'strict' or ", ""),
        ("and (j.expires_at is null or j.expires_at > now())", ""),
        ("head.paused_at is not null or head.task <> all (only_tasks);", "head.task <> all (only_tasks);"),
        (" or head.task <> all (only_tasks);", ";"), ("if head.fits then", "if true then"),
        ("and (only_tasks is null or j.task = any (only_tasks))", ""), (" and (among is null or j.id = any (among)) group by", " group by"),
        (" and (among is null or j.id = any (among))\n         order by", "\n         order by"),
        (" and (among is null or j.id = any (among))\n                                 and", "\n                                 and"),
        (" and (among is null or j.id = any (among))\n                        and", "\n                        and"),
        (" and j.id <> all (not_ids) as fits", " as fits"), ("j.run_at <= now() and j.id <> all (not_ids))", "j.run_at <= now())"),
        ("and j.id <> all (not_ids)\n                               order by", "\n                               order by"),
        ("and j.id <> all (not_ids)\n                        and (only", "\n                        and (only"), ("if only_ids is not null then", "if false then"),
        (" or claim_limited.worker_id <> all (j.left_by)", ""),
        ("set tokens = b.tokens - c.n", "set tokens = b.tokens"), ("and b.tokens < 1 then", "then"))],
    Mutant(SCHEMA, "tokens", "case when b.waiting then rate end", "null::float8"),
    Mutant(SCHEMA, "tokens", "case when b.waiting then rate end", "rate"),
    Mutant(SCHEMA, "key_of", "replace(task, '%', '%25')", "task"),
    Mutant(SCHEMA, "key_of", "replace(replace(task, '%', '%25'), ':', '%3A')", "task"),
    *[Mutant("pgqueue/sql/maintenance.sql", "late", old, new) for old, new in (
        ("(case when j.status = 'pending' then j.expires_at end) < now()", "j.expires_at < now()"),
        (" and (case when j.status = 'pending' then j.expires_at end) < now()", ""))],
    *[Mutant(SCHEMA, "place_job", old, new) for old, new in (
        ("and j.unique_expires_at <= clock_timestamp()", ""), ("exit when id is not null;", ""),
        ("case when on_conflict = 'reschedule' then job.run_at else j.run_at end", "job.run_at"))],
    *[Mutant(SCHEMA, "held_key", old, new) for old, new in (
        (" and claimed_at is null", ""), ("status in ('pending', 'running')", "status = 'pending'"),
        ("status <> 'succeeded'", "status = 'pending'"))],
    Mutant(SCHEMA, "retry_keyed", "exception when unique_violation", "exception when division_by_zero"),
    *[Mutant(SCHEMA, "hold_again", old, new) for old, new in (
        ("exception when unique_violation or lock_not_available", "exception when division_by_zero"),
        ("unique_violation or lock_not_available", "unique_violation"), (" skip locked", ""),
        (" and j.crashes = 0", ""), (" and coalesce(j.run_seconds, 0) = 0", ""))],
    Mutant(SCHEMA, "complete_job", " and j.claim_id = complete_job.claim_id", ""),
    Mutant(SCHEMA, "complete_job", " and j.status = 'running'", ""),
    *[Mutant(SCHEMA, "settle", old, new) for old, new in (
        ("j.finished_at > w.deadline_at", "true"), (" and p.id not in (select late.id from late)", ""),
        ("s.stays is null and (p.id is null or p.status in ('dead', 'cancelled'))", "s.stays is null and p.status is distinct from 'succeeded'"),
        ("s.stays is null and (p.id is null or p.status in ('dead', 'cancelled'))", "(p.id is null or p.status in ('dead', 'cancelled'))"),
        ("filter (where p.status = 'succeeded' or", "filter (where p.status <> 'dead' or"),
        (" or p.id is null and s.stays = 'succeeded'", ""),
        ("(where s.stays = 'skipped')", "(where false)"),
        ("or m.if_failed = 'hold' and not exists (select from pgqueue.jobs p where p.id = e.id)", ""),
        ("and not exists (select from pgqueue.jobs p where p.id = e.id)", ""),
        ("expires_at = j.expires_at + (greatest(j.run_at, t.due) - j.run_at),", ""),
        ("expires_at = j.expires_at + (greatest(j.run_at, p.due) - j.run_at),", ""),
        (" and w.as_what = 'skipped'", ""), ("w.if_failed <> 'continue' and w.as_what", "w.as_what"),
        ("and s.stays = 'skipped'", "and false"), ("d.parent_id <> w.watched", "false"),
        ("and not exists (select from pgqueue.workflow_jobs s where s.job_id = d.parent_id and s.stays is not null)", ""),
        ("stays = case when p.skipped then 'skipped' end", "stays = null"),
        ("w.watched = any (well || skipped || failed)", "w.watched = any (well || failed)"),
        (" and j.status = 'blocked'", ""), ("(e.as_what <> 'failed' or m.if_failed = 'continue')", "true"),
        ("d.parent_id < w.watched", "true"), (" skip locked", ""), ("no key update of m, j", "no key update of m"),
        ("|| array(select distinct p.next from passed p where p.next is not null)", ""),
        ("(m.if_failed = 'continue' or e.id = any (well || skipped))", "true"),
        ("= most then ended", "= -1 then ended"), ("= most then watched_still", "= -1 then watched_still"))],
    *[Mutant(SCHEMA, "settle", old, new) for old, new in (
        ("for share of w skip locked", "for share of w"), ("(where w.id is null or h.id is not null)", "(where true)"))],
    *[Mutant(SCHEMA, "retry_members", old, new) for old, new in (
        ("and starts_with(j.last_error, 'ParentFailed: ')\n", "\n"),
        ("continue when failing and member.if_failed = 'cancel' or", "continue when"),
        ("or not failing and holder is null and member.if_failed = 'only'", ""),
        ("or gone and member.if_failed = 'hold'", ""), ("or gone and member.if_failed = 'hold'", "or gone"),
        ("or not needed and member.if_failed in ('cancel', 'hold')", ""),
        ("or not needed and member.if_failed in ('cancel', 'hold')", "or not needed"),
        ("continue when member.stays = 'skipped';", ""), ("bool_or(s.stays is null and (p.id", "bool_or((p.id"),
        ("bool_or(s.stays is null and p.id", "bool_or(p.id"),
        (" or member.if_failed = 'hold' and s.stays is null and p.status in ('dead', 'cancelled')", ""),
        ("if failing and member.if_failed = 'only' then", "if false then"),
        ("order by m.job_id", "order by m.job_id desc"), ("greatest(w.watched, o.last)", "w.watched"),
        ("set status = null, finished_at = null, watched", "set watched"),
        ("where d.job_id = j.id and (p.id is null or p.status in ('dead', 'cancelled'))", "where false"),
        ("and not exists (select from pgqueue.workflow_jobs s", "and exists (select from pgqueue.workflow_jobs s"))],
    *[Mutant(SCHEMA, "worst", old, new) for old, new in (
        ("j.id is null or ", ""), (" and m.stays is null", ""), ("bool_or(j.status = 'dead')", "bool_and(j.status = 'dead')"))],
    *[Mutant(SCHEMA, "expire_workflows", old, new) for old, new in (
        ("where w.deadline_at < now() and", "where"), (" and w.finished_at is null", ""), (" and m.job_id < o.below", ""),
        ("order by m.job_id desc", "order by m.job_id"), ("for no key update of j skip locked", "for no key update of j"),
        (" and not j.cancel_requested", ""))],
    *[Mutant(SCHEMA, "expire_workflows", old, new) for old, new in (
        ("when c.status = 'running' then j.status else 'cancelled'", "when false then j.status else 'cancelled'"),
        ("and j.id not in (select c.id from chosen c)", ""), ("coalesce(w.expired_at, case when exists (select from chosen c where c.workflow_id = w.id) then clock_timestamp() end)", "clock_timestamp()"))],
    *[Mutant(SCHEMA, statement, "deadline_at = case when w.deadline_at > clock_timestamp() then w.deadline_at end, expired_at = null",
             "expired_at = null") for statement in ("retry_members", "retry_workflow")],
    *[Mutant(SCHEMA, "add_to_workflow", old, new) for old, new in (
        ("perform pgqueue.check_claim(add_to_workflow.job_id, add_to_workflow.claim_id);", ""), ("if adder.cancel_requested then", "if false then"),
        ("while cardinality(look) > 0 loop", "while false loop"))],
    *[Mutant(SCHEMA, "put_members", old, new) for old, new in (
        ("where m.job_id = a and m.workflow_id = into_workflow)) then", "where m.job_id = a)) then"), (", (select max(a) from unnest(g.members) a))", ")"))],
    *[Mutant(SCHEMA, "settle", old, new) for old, new in (("m.job_id > greatest(w.watched, w.last_job_id)", "false"),)],
    *[Mutant(SCHEMA, "cancel_workflow", old, new) for old, new in (("exit when now_cancelled = 0;", "cancelled := now_cancelled; exit;"),)],
    *[Mutant(SCHEMA, "put_members", old, new) for old, new in (
        ("g.if_failed = 'only' and coalesce(cardinality(g.after), 0) = 0", "false"), ("(select count(*) from jsonb_object_keys(r.value)) = 1", "true"),
        ("jsonb_typeof(r.value -> '$result') = 'string'", "true"))],
    Mutant(SCHEMA, "retry_workflow", " and m.stays is null", ""),
    Mutant("pgqueue/sql/maintenance.sql", "rescue", "expires_at = case when l.status = 'pending' then null else j.expires_at end", "expires_at = j.expires_at"),
    *_claims("fail", ("expires_at = case when own.status = 'pending' and own.run_seconds > 0 then null else j.expires_at end", "expires_at = j.expires_at"),
             ("own.status = 'pending' and own.run_seconds > 0", "own.status = 'pending'")),
    *[Mutant("pgqueue/sql/jobs.sql", "clear_jobs", old, new) for old, new in (
        ("and :status::text = 'succeeded' and m.stays is null", "and m.stays is null"), ("and :status::text = 'succeeded' and m.stays", "and false and m.stays"))],
    *[Mutant(SCHEMA, "check_claim", old, new) for old, new in (
        (" and j.claim_id = check_claim.claim_id", ""), (" and j.status = 'running'", ""),
        ("for no key update of j", ""))],
    *[Mutant(SCHEMA, "await_event", old, new) for old, new in (
        ("and e.created_at >= run.created_at", ""), ("and (e.job_id is null and not sent or e.job_id = await_event.job_id and sent)", ""),
        ("e.job_id is null and not sent", "not sent"), ("e.job_id = await_event.job_id and sent", "sent"),
        ("else\n            update pgqueue.steps s set waiting_run = run.claimed_at", "elsif false then\n            update pgqueue.steps s set waiting_run = run.claimed_at"),
        ("and not exists (select from pgqueue.steps o where o.job_id = await_event.job_id and o.event_id = e.id)", ""))],
    *[Mutant(SCHEMA, "await_jobs", old, new) for old, new in (
        ("if open is null and well then", "if well or open is null then"), ("elsif step.wakes_at <= clock_timestamp() then", "elsif false then"),
        ("set watched = open, waiting_run", "set waiting_run"))],
    *[Mutant(SCHEMA, "settle", old, new) for old, new in (
        ("and not exists (select from pgqueue.jobs r where r.id = s.job_id and r.status = 'running')", ""),)],
    *[Mutant(SCHEMA, "wake_waiting", old, new) for old, new in (
        ("j.status = 'pending' and ", ""), (" and j.suspended_run = j.claimed_at", ""), ("s.waiting_run = w.claimed_at and ", ""),
        (" and e.created_at >= w.created_at", ""), (" and (e.job_id is null or e.job_id = s.job_id)", ""),
        ("and s.kind = case when e.job_id is null then 'event' else 'message' end", ""))],
    *[Mutant(SCHEMA, "check_step", old, new) for old, new in (
        ("step.kind <> check_step.kind or ", ""), ("step.events @> check_step.events and ", ""), (" and step.events <@ check_step.events", ""))],
    *[Mutant(SCHEMA, "fail_step", old, new) for old, new in (
        ("perform pgqueue.check_claim(fail_step.job_id, fail_step.claim_id);", ""), ("coalesce(step.failures, 0) >= max_retries or ", ""),
        (" or so_far >= 1000", ""), ("failures = s.failures + 1", "failures = s.failures"))],
    Mutant(SCHEMA, "save_step", "where s.kind = 'step' and s.finished_at is null", "where false"),
    *[Mutant("pgqueue/sql/claims.sql", "progressed", old, new) for old, new in (
        (" and s.finished_at >= j.claimed_at", ""), ("s.job_id = j.id and ", ""), (" < 1000", " < 1000000"), (" and s.kind = 'step'", ""))],
    *_claims("fail", ("counted.attempt > j.max_retries", "j.attempt > j.max_retries"), ("own.counts_as - 1", "j.attempt - 1"),
             ("when own.status = 'pending' then own.counts_as", ""), ("pgqueue.backoff(own.counts_as", "pgqueue.backoff(own.attempt")),
    Mutant("pgqueue/sql/maintenance.sql", "rescue", "case when l.status = 'pending' then l.counts_as else j.attempt end", "j.attempt"),
    *[Mutant(SCHEMA, "forget_steps", old, new) for old, new in (
        (" and s.started_at >= f.started_at", ""), ("s.started_at >= f.started_at", "s.name = f.name"))],
    *[Mutant("pgqueue/sql/jobs.sql", "retry_jobs", old, new) for old, new in (
        (" and s.started_at >= f.started_at", ""), ("s.started_at >= f.started_at", "s.name = f.name"), ("s.job_id = a.id and ", ""))],
    Mutant("pgqueue/sql/claims.sql", "fail", "case when own.outcome = 'suspend' then own.claimed_at end", "own.claimed_at"),
    Mutant("pgqueue/sql/steps.sql", "mark_delivered", "(j.status = 'running'\n                           or ", "(false or "),
    *[Mutant("pgqueue/sql/queues.sql", "look_at_queues", old, new) for old, new in (
        (" and j.status = 'pending'", ""), ("when d.written then t.is_now else w.declared", "when true then t.is_now"),
        ("when d.written then t.is_now else w.declared", "when false then t.is_now else w.declared"))],
    *[Mutant("pgqueue/sql/limits.sql", "declare_limits", old, new) for old, new in (
        ("(w.declared -> s.setting is null", "(false"), (":starting::boolean and (w.settings -> s.setting) is not null", "false"),
        (" and (w.settings -> s.setting) is not null", ""), ("is distinct from (w.declared -> s.setting)", "is not null"),
        ("and l.value = w.declared -> s.setting", ""), ("where w.live_until > clock_timestamp()", ""),
        ("w.declared_at < clock_timestamp() - make_interval(secs => :patience::float8)", "(:patience::float8 is null or true)"),
        ("excluded.declared ? 'max_running' then excluded.max_running else q.max_running", "true then excluded.max_running else q.max_running"),
        ("excluded.declared ? 'keep_dead' then", "true then"), (" or w.kind = 'queue' and w.declared is null", ""))],
    *[Mutant("pgqueue/sql/limits.sql", "key_jobs", old, new) for old, new in (
        ("j.status = 'pending' and j.limit_key is null", "j.limit_key is null"), (" and j.limit_key is null", ""))],
    *[Mutant(SCHEMA, "claim_limited", old, new) for old, new in (
        ("pgqueue.key_of(j.task, pgqueue.own_key(j.task, j.args))", "null"), ("when k.n = 1 then begun_with", "when false then begun_with"),
        ("t.claims % 16 = 15", "false"), ("order by array_position(chosen, t.id)", "order by t.id"),
        ("having count(*) >= weights[o.n] * turns", "having false and count(*) >= weights[o.n] * turns"),
        (" and begun_with >= head.weight", " and false"),
        ("begun_with := 0;\n    end if;", "begun_with := begun_with;\n    end if;"))],
    *[Mutant(SCHEMA, "own_key", old, new) for old, new in ((" and t.keyed", ""), ("t.per is null", "true"), (", t.per_default", ""))],
    Mutant(SCHEMA, "key_text", "!~ '^([\"[{0-9-]|(null|true|false)?$)'", "is not null"),
    *[Mutant(SCHEMA, "scheduled_jobs", old, new) for old, new in (
        ("s.expires, make_interval", "null, make_interval"), ("case when t.keyed then", "case when false then"),
        ("coalesce(s.priority, (t.options ->> 'priority')::smallint", "coalesce(s.priority"))],
    Mutant("pgqueue/sql/maintenance.sql", "old", "when 'dead' then q.keep_dead", ""),
    Mutant(SCHEMA, "room", " and j.status = 'pending'", ""),
    Mutant(SCHEMA, "enqueue", "added.placed = 'inserted' and full_of", "full_of"),
    Mutant(SCHEMA, "with_defaults", "e.job ->> 'priority' is null", "true"),
    *[Mutant(SCHEMA, "with_defaults", old, new) for old, new in (
        ("s.argument is not null or ", ""), (" or t.options ->> 'unique' = 'true' and e.job ->> 'unique_key' is null", ""))],
    Mutant(SCHEMA, "enqueue_jobs", "n.number > pgqueue.room(q.name)", "false"),
    *[Mutant("pgqueue/sql/workflows.sql", "old", old, new) for old, new in (
        ("and j.status in ('blocked', 'pending', 'running')", "and false"), ("w.status = :status::text and ", ""),
        (" for update of w skip locked", " for update of w"))],
    *[Mutant("pgqueue/sql/workflows.sql", "prune_workflows", old, new) for old, new in (
        (" and m.job_id not in (select members.job_id from members)", ""), ("for update of m, j skip locked", "for update of m, j"),
        ("m.job_id not in (select members.job_id from members)", "false"))],
]  # fmt: skip


def place(root: Path, mutant: Mutant) -> tuple[Path, str, str]:
    """The file of a mutant, its text, and the text with the guard taken out.

    Raises:
        LookupError: the guard is not where the list says.
    """
    file = root / mutant.file
    text = file.read_text("utf-8")
    begins = (
        rf"-- (?:name|part): {mutant.statement}\n",
        rf"create function pgqueue\.{mutant.statement}\(",
        rf"create table {re.escape(mutant.statement)} \(",
    )
    start = next((m.end() for begin in begins if (m := re.search(begin, text))), None)
    if start is not None:
        following = re.search(r"\n-- (?:name|part): |\ncreate (?:function|table) ", text[start:])
        end = start + following.start() if following else len(text)
        if mutant.old in text[start:end]:
            changed = text[start:end].replace(mutant.old, mutant.new)
            return file, text, text[:start] + changed + text[end:]
    raise LookupError(f"{mutant.name} is not in {mutant.file}: mend tests/mutants.py")


def mutate(root: Path, mutant: Mutant) -> None:
    """Write the mutant into a copy of the project."""
    file, _, changed = place(root, mutant)
    file.write_text(changed, "utf-8")


def killer_of(mutant: Mutant, dsn: str) -> str | None:
    """Run the tests against the mutant; the name of the one that noticed it, if one did."""
    first = FIRST.get(mutant.statement, FIRST.get(mutant.file, TESTS[:6]))
    others = [name for name in TESTS if name not in first]
    with tempfile.TemporaryDirectory(prefix="pgqueue-mutant-") as folder:
        root = Path(folder) / "project"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".venv", ".git", ".*_cache", "build"))  # fmt: skip
        mutate(root, mutant)
        return failed_of(first, root, dsn) or failed_of(others, root, dsn)


def failed_of(tests: list[str], root: Path, dsn: str) -> str | None:
    """The first of these tests that fails on the code of a folder, if one does."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-rfE", "--timeout", "60", *tests],
        cwd=root, env={**os.environ, "PGQUEUE_DSN": dsn, "PYTHONPATH": str(root), "TESTS_UNSHRUNK": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
    return found[1] if found else f"pytest, which ended with {done.returncode}"


def main() -> int:
    """Print a line per mutant; 1 if one survived. Arguments choose statements."""
    chosen = [m for m in MUTANTS if not sys.argv[1:] or m.statement in sys.argv[1:]]
    survivors = 0
    with embedded_postgres(settings=SETTINGS) as dsn, ThreadPoolExecutor(2) as pool:
        killers = pool.map(lambda m: killer_of(m, dsn), chosen)
        for mutant, killer in zip(chosen, killers, strict=True):
            survivors += killer is None
            print(f"killed by {killer}" if killer else "SURVIVED", f" {mutant.name}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
