drop view
    pgqueue.workflow_list, pgqueue.schedule_runs, pgqueue.schedule_list, pgqueue.jobs_public, pgqueue.dead_jobs,
    pgqueue.task_stats, pgqueue.throughput, pgqueue.queue_stats, pgqueue.queue_names;
drop function pgqueue.check_step, pgqueue.place_job, pgqueue.insert_job, pgqueue.find_jobs, pgqueue.latest_jobs;
drop table
    pgqueue.events, pgqueue.steps, pgqueue.dependencies, pgqueue.workflow_jobs, pgqueue.workflows,
    pgqueue.schedules, pgqueue.turns, pgqueue.buckets, pgqueue.identity, pgqueue.workers, pgqueue.tasks, pgqueue.queues, pgqueue.attempts,
    pgqueue.jobs;
drop function
    pgqueue.schema_version, pgqueue.channel, pgqueue.notify, pgqueue.readable, pgqueue.is_backoff, pgqueue.is_weights, pgqueue.backoff, pgqueue.held_key, pgqueue.key_of, pgqueue.key_text, pgqueue.own_key, pgqueue.scheduled_jobs, pgqueue.refuse_name, pgqueue.schema_id, pgqueue.room,
    pgqueue.with_defaults, pgqueue.wrong_with, pgqueue.add_job, pgqueue.enqueue, pgqueue.add_jobs,
    pgqueue.enqueue_jobs, pgqueue.complete_job, pgqueue.retry_keyed, pgqueue.hold_again, pgqueue.tokens, pgqueue.any_due, pgqueue.lowest_due, pgqueue.claim_limited,
    pgqueue.schedule_changed, pgqueue.add_schedule, pgqueue.remove_schedule, pgqueue.pause_schedule,
    pgqueue.resume_schedule, pgqueue.run_schedule, pgqueue.enqueue_workflow, pgqueue.add_to_workflow, pgqueue.put_members, pgqueue.named_members, pgqueue.expire_workflows,
    pgqueue.worst, pgqueue.settle,
    pgqueue.cancel_workflow, pgqueue.retry_members, pgqueue.retry_workflow, pgqueue.check_claim, pgqueue.save_step, pgqueue.fail_step,
    pgqueue.start_sleep, pgqueue.await_event, pgqueue.await_jobs, pgqueue.wake_waiting, pgqueue.emit, pgqueue.send, pgqueue.put_event,
    pgqueue.deliver_events, pgqueue.step_kind, pgqueue.forget_steps, pgqueue.retry_job;
