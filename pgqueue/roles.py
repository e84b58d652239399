"""The roles that ``pgqueue sql roles`` makes, and which of them may run a statement."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pgqueue.errors import ConfigError

PREFIX = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,39}")

# What each role is for, by its name behind the prefix.
ROLES: Mapping[str, str] = {
    "owner": "owns the schema; nobody logs in as it",
    "migrator": "may act as the owner: pgqueue migrate",
    "producer": "enqueues through the library, or with pgqueue.enqueue()",
    "sql_producer": "enqueues with pgqueue.enqueue() only",
    "emitter": "emits events and sends messages with pgqueue.emit() and pgqueue.send() only",
    "worker": "runs jobs, enqueues, and emits",
    "readonly": "sees statistics, and jobs without arguments and errors",
    "operator": "looks at jobs; retries, cancels, clears, pauses; manages schedules",
}

# The role that is meant for a statement; those not named here are for everybody.
ROLE_OF: Mapping[str, str] = {
    **dict.fromkeys(("enqueue", "enqueue_one", "enqueue_plain", "reserve_ids", "copy_jobs",
                    "enqueue_jobs", "enqueue_workflow", "get_ends", "look_at_queues"), "producer"),
    **dict.fromkeys(
        ("claim", "sweep", "look_ahead", "look_behind", "claim_these", "last_places", "last_id", "complete", "complete_and_delete", "trade", "trade_and_delete", "fail",
         "release", "unstarted", "hold_again", "heartbeat", "queues_at_work", "claim_limited", "look_limited", "prune_buckets", "suspect_due", "claim_suspects", "look_at_suspects", "test_claim", "test_jobs", "end_isolation", "declare_limits", "key_jobs", "jobs_to_key", "limits_by_hand", "complete_with", "add_results", "note_progress",
         "get_steps", "save_step", "fail_step", "add_to_workflow", "start_sleep", "await_event", "await_jobs", "deliver_events", "jobs_to_wake", "mark_delivered", "prune_events", "old_events", "settle", "waiting_jobs", "unsettled", "workflow_results",
         "prune_workflows", "old_members", "expire_workflows", "overdue_members",
         "complete_job", "recorded", "rescue", "lapsed_jobs", "expire", "late_jobs", "prune", "old_jobs", "worker_seen", "worker_gone", "worker_lacks", "schema_id",
         "look_at_schedules", "fire_schedules", "declare_schedules", "changed_schedules", "review_schedules",
         "keep_schedules"),
        "worker",
    ),
    **dict.fromkeys(("queue_stats", "list_paused", "list_limits", "list_queues", "list_workers", "list_schedules", "list_runs", "list_workflows"), "readonly"),
    **dict.fromkeys(
        ("get_job", "get_attempts", "known_names", "list_jobs", "list_unfinished", "list_ended", "find_jobs", "retry_jobs", "cancel_jobs", "count_jobs",
         "clear_jobs", "pause_queue", "resume_queue", "pause_task", "limit_queue", "limit_task", "set_queue", "resume_task", "change_jobs", "encrypted_jobs", "test_due", "test_begins", "test_listed", "replace_args", "encrypted_schedules", "replace_schedule_args",
         "list_workflow_jobs", "list_steps", "step_names", "cancel_workflow", "retry_workflow",
         "add_schedule", "remove_schedule", "pause_schedule", "resume_schedule", "run_schedule"),
        "operator",
    ),
    "emit": "emitter",
    "send": "emitter",
    "migrate": "migrator",
    "any_job": "migrator",
    "test_travel": "migrator",
}  # fmt: skip


def role_for(statement: str | None) -> str:
    """What to do about a missing privilege."""
    role = ROLE_OF.get(statement or "")
    grant = "the one it needs" if role is None else f"pgqueue_{role}"
    return (
        f'grant the database role of this connection {grant}; "pgqueue sql roles" prints the SQL'
        " that makes the roles and must run again after a migration"
    )


def check_prefix(prefix: str) -> str:
    """Return what the names of the roles start with.

    Raises:
        ConfigError: the names would not be plain lower-case identifiers.
    """
    if not PREFIX.fullmatch(prefix):
        raise ConfigError(
            f"prefix {prefix!r} is not usable: lower-case letters, digits and _, at most 40, and not"
            " pg_..."
        )
    return prefix
