"""Every role against every statement of the library, on a real server: what may be done, and 42501."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue.roles import ROLE_OF, ROLES
from pgqueue.sql import load
from tests.security.conftest import Roles

ALL = {"admin", "owner", "migrator"}
PRODUCERS = {"producer", "worker"}
WORKER = {"worker"}
READERS = {"readonly", "operator"}
OPERATOR = {"operator"}
EVERYBODY = {*ROLES}

# statement -> the roles that may run it; owner and migrator may all.
ALLOWED: Mapping[str, set[str]] = {
    "enqueue": PRODUCERS, "enqueue_one": PRODUCERS, "enqueue_plain": PRODUCERS, "reserve_ids": PRODUCERS, "copy_jobs": PRODUCERS,
    "enqueue_jobs": PRODUCERS, "expire": WORKER,
    "claim": WORKER, "sweep": WORKER, "last_places": WORKER | OPERATOR, "last_id": EVERYBODY, "complete": WORKER, "complete_and_delete": WORKER,
    "trade": WORKER, "trade_and_delete": WORKER, "look_ahead": WORKER, "look_behind": WORKER, "claim_these": WORKER,
    "look_limited": WORKER, "look_at_suspects": WORKER,
    "fail": WORKER, "release": WORKER, "unstarted": WORKER, "hold_again": WORKER, "heartbeat": WORKER, "complete_job": WORKER,
    "rescue": WORKER, "prune": WORKER | OPERATOR, "worker_seen": WORKER, "worker_gone": WORKER, "schema_id": WORKER,
    "queues_at_work": WORKER, "look_at_queues": PRODUCERS | OPERATOR, "set_queue": WORKER | OPERATOR, "list_queues": PRODUCERS | READERS, "claim_limited": WORKER, "prune_buckets": WORKER,
    "suspect_due": WORKER | OPERATOR, "claim_suspects": WORKER, "end_isolation": WORKER, "declare_limits": WORKER | OPERATOR, "key_jobs": WORKER, "jobs_to_key": WORKER, "limits_by_hand": WORKER | READERS,
    "limit_queue": WORKER | OPERATOR, "limit_task": WORKER | OPERATOR, "list_limits": WORKER | READERS,
    "get_ends": PRODUCERS | OPERATOR, "complete_with": WORKER, "add_results": WORKER, "recorded": WORKER, "note_progress": WORKER,
    "get_attempts": WORKER | OPERATOR, "get_job": WORKER | OPERATOR, "list_jobs": WORKER | OPERATOR,
    "list_unfinished": WORKER | OPERATOR, "list_ended": WORKER | OPERATOR, "known_names": OPERATOR, "find_jobs": WORKER | OPERATOR,
    "count_jobs": WORKER | OPERATOR, "retry_jobs": OPERATOR, "cancel_jobs": OPERATOR,
    "clear_jobs": WORKER | OPERATOR, "pause_queue": OPERATOR, "resume_queue": OPERATOR,
    "pause_task": OPERATOR, "resume_task": OPERATOR, "change_jobs": OPERATOR, "list_paused": WORKER | READERS,
    "look_at_schedules": WORKER, "fire_schedules": WORKER, "declare_schedules": WORKER,
    "review_schedules": WORKER, "changed_schedules": WORKER, "keep_schedules": WORKER,
    "list_schedules": READERS, "list_runs": READERS, "add_schedule": OPERATOR, "remove_schedule": OPERATOR,
    "pause_schedule": OPERATOR, "resume_schedule": OPERATOR, "run_schedule": OPERATOR,
    "get_steps": WORKER | OPERATOR, "list_steps": WORKER | OPERATOR, "step_names": WORKER | OPERATOR, "save_step": WORKER, "fail_step": WORKER, "add_to_workflow": WORKER, "start_sleep": WORKER, "await_jobs": WORKER, "await_event": WORKER,
    "emit": WORKER | {"emitter", "operator"}, "send": WORKER | {"emitter", "operator"}, "deliver_events": WORKER, "mark_delivered": WORKER, "prune_events": WORKER, "old_events": WORKER | OPERATOR,
    "jobs_to_wake": WORKER | OPERATOR, "waiting_jobs": WORKER | OPERATOR, "old_members": WORKER, "lapsed_jobs": WORKER | OPERATOR,
    "late_jobs": WORKER | OPERATOR, "old_jobs": WORKER | OPERATOR,
    "enqueue_workflow": PRODUCERS, "settle": WORKER | OPERATOR, "unsettled": WORKER | OPERATOR,
    "workflow_results": WORKER | OPERATOR, "prune_workflows": WORKER, "expire_workflows": WORKER, "overdue_members": WORKER, "list_workflows": READERS,
    "list_workflow_jobs": WORKER | OPERATOR, "cancel_workflow": OPERATOR, "retry_workflow": OPERATOR,
    "queue_stats": READERS, "list_workers": READERS | WORKER,
    "notify": EVERYBODY, "notify_self": EVERYBODY | {"outsider"},
    "encrypted_jobs": WORKER | OPERATOR, "test_due": WORKER | OPERATOR, "test_begins": PRODUCERS | WORKER | OPERATOR, "test_jobs": WORKER, "test_listed": WORKER | OPERATOR, "test_claim": WORKER, "test_travel": {"migrator"}, "replace_args": OPERATOR, "encrypted_schedules": WORKER | OPERATOR, "replace_schedule_args": WORKER | OPERATOR,
    "read_only": EVERYBODY | {"outsider"}, "same_backend": EVERYBODY | {"outsider"},
    "begin_pinned": EVERYBODY | {"outsider"}, "commit_pinned": EVERYBODY | {"outsider"},
    "channels": EVERYBODY, "pin_session": EVERYBODY | {"outsider"}, "pin_client": EVERYBODY | {"outsider"}, "pin_more": EVERYBODY | {"outsider"},
    "preflight": EVERYBODY | {"outsider"},
    "worker_lacks": EVERYBODY, "schema_version": EVERYBODY | {"outsider"},
    "lock_holders": EVERYBODY | {"outsider"}, "index_exists": EVERYBODY | {"outsider"},
    "unfinished_indexes": EVERYBODY | {"outsider"}, "current_role": EVERYBODY | {"outsider"},
    "session_setting": EVERYBODY | {"outsider"}, "search_path": EVERYBODY | {"outsider"},
    "set_search_path": EVERYBODY | {"outsider"},
    "migrate_inside": EVERYBODY | {"outsider"},
    "migrate_beside": EVERYBODY | {"outsider"}, "any_job": {"migrator"} | WORKER | PRODUCERS | OPERATOR,
}  # fmt: skip

ID = uuid4()
VALUES: dict[str, Any] = {
    "jobs": '[{"task": "t", "args": {}, "queue": "q", "priority": 0, "max_retries": 1}]',
    "notify": True, "channel": "c", "count": 2, "queues": ["q"], "priorities": [0], "after_at": ["2000-01-01"],
    "after_ids": [0], "skip_touched": True, "only": None, "lanes": 9, "limit": 5, "claim_id": ID, "worker_id": ID, "lease": 60.0, "claim_ids": [ID],
    "run_seconds": [0.1], "outcomes": ["retry"], "delays": [None], "error_types": ["E"],
    "errors": ["e"], "tracebacks": ["t"], "max_crashes": 3, "together": 16, "ended": [True], "suspects": False, "quarantine": False, "among": None, "began": "2000-01-01", "newest": 0, "until": 9, "slice_queues": ["q"], "slice_priorities": [0], "until_at": ["2000-01-01"], "until_ids": [0], "age": 1e6, "host": "h", "pid": 1,
    "version": "0", "forget": 300.0, "state": "stopping", "tasks": ["t"], "queue": "q", "task": None, "error": None, "since": None,
    "before": None, "args": None, "backoff": None, "run_at": None, "delay": None, "priority": 0,
    "max_retries": 1, "schema": "pgqueue", "after": 0, "old_args": "{}", "new_args": "{}", "old": ["{}"], "new": ["{}"], "local": True,
    "schedules": '[{"name": "s", "expression": "@daily", "tz": "UTC", "task": "t", "args": {}, "queue": "q",'
                 ' "priority": 0, "max_retries": 1, "catch_up": "all", "overlap": "skip", "declaration": "d"}]',
    "statuses": ["dead"], "without": ["x"], "not_ids": [1], "only_ids": [1], "own": ["x"], "declares": ["x"], "declarations": ["x"], "patience": 10.0,
    "result": "1", "events": ["e"], "awaited": [1], "sent": False, "moment": None, "from_step": None, "timeout": 1.0, "payload": "{}", "parents": 9, "most_args": 9, "most_page": 9, "most_error": 9, "force": True, "role": "none", "search_path": "pg_catalog", "lock_timeout": "0", "statement_timeout": "0", "name": "s", "expression": "@daily", "tz": "UTC", "catch_up": "all", "overlap": "skip",
    "names": ["s"], "seen": ["2000-01-01"], "last_job_ids": [None], "last_ticks": ["2001-01-01"], "next_ticks": ["2000-01-01"], "deadline_at": None, "deadline_in": 60.0,
    "results": ["1"], "logs": ["l"], "progresses": ["{}"], "attempts": [1], "starting": True, "settings": '{"task": {}, "queue": {"q": {"max_pending": 9}}}', "declared": '[{"name": "q", "max_pending": 9}]', "limits": None, "expires": 60.0, "changes": '{"max_pending": 9}', "max_running": 1, "rate": 1.0, "burst": 1, "seconds": 1.0, "to_queue": "q", "to_priority": 1, "tick_names": ["s"], "ticks": ["2001-01-01"],
}  # fmt: skip


def test_the_matrix_names_every_statement() -> None:
    assert set(ALLOWED) == set(load())
    assert set(ROLE_OF) - {"migrate"} <= set(load())


def test_the_page_names_every_role() -> None:
    page = (Path(__file__).parents[2] / "docs/security.md").read_text("utf-8")
    assert set(re.findall(r"^\| `pgqueue_(\w+)` \|", page, re.M)) == set(ROLES)


@pytest.mark.parametrize("statement", sorted(ALLOWED))
def test_the_role_an_error_names_may_run_it(statement: str) -> None:
    role = ROLE_OF.get(statement)
    assert role in ALLOWED[statement] if role else ALLOWED[statement] >= EVERYBODY


@pytest.mark.parametrize("role", [*ROLES, "outsider"])
def test_what_a_role_may_do(roles: Roles, role: str) -> None:
    with roles.connect("admin") as admin:
        job = admin.execute(
            "insert into pgqueue.jobs (task, status, attempt, claim_id, worker_id, claimed_at,"
            " lease_expires_at, queue, unique_key, unique_until, workflow_id)"
            " values ('t', 'running', 1, %s, %s, now(), now(), 'q', gen_random_uuid()::text, 'finished', 1)"
            " returning id", [ID, ID]).fetchone()  # fmt: skip
        admin.execute(
            "insert into pgqueue.jobs (task, queue, unique_key, unique_until)"
            " values ('t', 'q', gen_random_uuid()::text, 'finished')"
        )
        admin.execute("insert into pgqueue.schedules (name, expression, task, source, last_tick)"
                      " values ('s', '@hourly', 't', 'code', '2000-01-01') on conflict do nothing")  # fmt: skip
    assert job is not None
    values = {**VALUES, "id": job[0], "ids": list(job), "status": None}
    with psycopg.connect(roles.dsn(role)) as conn:
        found = {name: attempt(conn, name, values) for name in ALLOWED}
    expected = {
        name: role in allowed or role in ("owner", "migrator") for name, allowed in ALLOWED.items()
    }
    assert found == expected


def attempt(conn: psycopg.Connection, name: str, values: dict[str, Any]) -> bool:
    """Run a statement and roll back; False if its privileges are missing, any other error is one."""
    statement = load()[name]
    given = {
        **values,
        "id": str(ID) if name.startswith("worker_") else values["id"],
        "status": "succeeded" if name in ("prune", "prune_workflows") else None,
        "args": '{"a": 1}'
        if name in ("retry_jobs", "enqueue_one", "enqueue_plain", "add_schedule")
        else None,
        "task": "t"
        if name in ("enqueue_one", "enqueue_plain", "add_schedule") or name.endswith("_task")
        else None,
        "limit": "5s" if name in ("pin_session", "pin_client") else values["limit"],
    }
    try:
        cursor = psycopg.RawCursor(conn)
        if name == "copy_jobs":
            with cursor.copy(statement.numbered.encode()) as copy:
                copy.write("99999999\t{}\tt\tq\t0\t1\t\\N\t2030-01-01\n")
        else:
            cursor.execute(statement.numbered.encode(), [given[p] for p in statement.parameters])
            if cursor.description is not None:
                cursor.fetchall()
    except psycopg.errors.InsufficientPrivilege as error:
        assert error.sqlstate == "42501"
        return False
    finally:
        conn.rollback()
    return True
