-- Roles of least privilege for the schema pgqueue. Run it as a superuser, or as a role that may
-- create roles and owns the schema; run it again after a migration. No role here can log in:
--     create user shop_web password ...; grant pgqueue_producer to shop_web;
begin;
-- A new owner takes a lock on each table, once: give up rather than stop the queue.
set local lock_timeout = '2s';
-- Whoever may create functions in public must not get one called here.
set local search_path = pg_catalog, pg_temp;

do $$
declare
    name text;
begin
    if to_regprocedure('pgqueue.room(text)') is null then
        raise exception 'schema pgqueue is missing or older than these grants; run: pgqueue migrate';
    end if;
    foreach name in array array['pgqueue_owner', 'pgqueue_migrator', 'pgqueue_producer', 'pgqueue_sql_producer',
                                'pgqueue_emitter', 'pgqueue_worker', 'pgqueue_readonly',
                                'pgqueue_operator'] loop
        if to_regrole(name) is null then
            execute format('create role %I nologin', name);
        end if;
    end loop;
    -- To give something away one must belong to the role that gets it.
    if not (select rolsuper from pg_roles where rolname = current_user) then
        execute format('grant pgqueue_owner to %I', current_user);
    end if;
end $$;

-- owner: everything in the schema belongs to it. Its functions run with its rights, so nobody logs in as it.
do $$
declare
    command text;
    here oid := (select relnamespace from pg_class where oid = 'pgqueue.jobs'::regclass);
    owner oid := 'pgqueue_owner'::regrole;
begin
    for command in
        select format('alter schema %s owner to pgqueue_owner', here::regnamespace)
          from pg_namespace n where n.oid = here and n.nspowner <> owner
        union all
        select format('alter %s %s owner to pgqueue_owner',
                      case c.relkind when 'v' then 'view' else 'table' end, c.oid::regclass)
          from pg_class c
         where c.relnamespace = here and c.relkind in ('r', 'v', 'p') and c.relowner <> owner
        union all
        select format('alter function %s owner to pgqueue_owner', p.oid::regprocedure)
          from pg_proc p where p.pronamespace = here and p.proowner <> owner
    loop
        execute command;
    end loop;
end $$;

-- Grants of an earlier version that are not repeated below end here.
revoke all on all tables in schema pgqueue
    from public, pgqueue_producer, pgqueue_sql_producer, pgqueue_emitter, pgqueue_worker, pgqueue_readonly, pgqueue_operator;
revoke all on all sequences in schema pgqueue
    from public, pgqueue_producer, pgqueue_sql_producer, pgqueue_emitter, pgqueue_worker, pgqueue_readonly, pgqueue_operator;
revoke all on all functions in schema pgqueue
    from public, pgqueue_producer, pgqueue_sql_producer, pgqueue_emitter, pgqueue_worker, pgqueue_readonly, pgqueue_operator;

grant usage on schema pgqueue
    to pgqueue_producer, pgqueue_sql_producer, pgqueue_emitter, pgqueue_worker, pgqueue_readonly, pgqueue_operator;
grant execute on function pgqueue.schema_version(), pgqueue.channel(text), pgqueue.notify(text), pgqueue.held_key(text, text, text, timestamptz),
    pgqueue.readable(timestamptz)
    to pgqueue_producer, pgqueue_sql_producer, pgqueue_emitter, pgqueue_worker, pgqueue_readonly, pgqueue_operator;

-- migrator: pgqueue migrate becomes the owner for its transaction.
grant pgqueue_owner to pgqueue_migrator;

-- producer: the library's INSERT with RETURNING, its COPY with ids of the sequence, and enqueue().
grant insert (id, task, args, queue, priority, max_retries, backoff, run_at), select (id, queue, run_at, status, result)
    on pgqueue.jobs to pgqueue_producer;
grant usage on sequence pgqueue.jobs_id_seq to pgqueue_producer;
grant execute on function
    pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean, text, text, interval,
                    text, interval, text)
    to pgqueue_producer, pgqueue_sql_producer;
grant execute on function pgqueue.enqueue_jobs(jsonb, boolean), pgqueue.enqueue_workflow(jsonb, text, boolean, timestamptz)
    to pgqueue_producer;
-- The bounds and defaults of the queues that it enqueues to.
grant select on pgqueue.queues to pgqueue_producer;
grant execute on function pgqueue.room(text) to pgqueue_producer, pgqueue_sql_producer, pgqueue_operator;

-- emitter: jobs that wait for an event believe it, so whoever may enqueue may not emit.
grant execute on function pgqueue.emit(text, jsonb), pgqueue.send(bigint, text, jsonb) to pgqueue_emitter, pgqueue_worker, pgqueue_operator;

-- worker: runs jobs but cannot change what a job is to do; its handlers enqueue.
grant pgqueue_producer to pgqueue_worker;
grant select, delete, update (status, run_at, attempt, crashes, quarantine, claim_id, worker_id, claimed_at,
                              lease_expires_at, finished_at, expires_at, run_seconds, last_error, progress, result,
                              left_by, left_at, left_until, left_because, suspended_run)
    on pgqueue.jobs to pgqueue_worker;
grant select, insert, delete on pgqueue.attempts to pgqueue_worker;
grant select, insert, delete, update (tasks, schedules, declarations, seen_at, live_until, state, held_jobs, held_until)
    on pgqueue.workers to pgqueue_worker;
grant select on pgqueue.tasks, pgqueue.queue_names to pgqueue_worker;
grant insert (schedule, tick, expires_at, limit_key), update (limit_key) on pgqueue.jobs to pgqueue_worker;
grant select, insert (name, expression, tz, task, args, queue, priority, max_retries, backoff, expires, catch_up, overlap,
                      declaration, declarations, synced, source, declared_at),
      update (expression, tz, task, args, queue, priority, max_retries, backoff, expires, catch_up, overlap, declaration,
              declarations, missing_at, synced, source, declared_at, updated_at, last_tick, next_tick, error, skipped, recent_job_ids, paused_at,
              pause_reason, undeclared_at, kept)
    on pgqueue.schedules to pgqueue_worker;
grant insert (name, max_running, rate, burst, max_pending, keep_succeeded, keep_dead, keep_cancelled, priority,
              max_retries, backoff, expires, timeout, declared, declared_at),
      update (max_running, rate, burst, max_pending, keep_succeeded, keep_dead, keep_cancelled, priority,
              max_retries, backoff, expires, timeout, declared, declared_at)
    on pgqueue.queues to pgqueue_worker;
-- Checks of the tables queues and tasks call them.
grant execute on function pgqueue.is_backoff(jsonb), pgqueue.is_weights(jsonb) to pgqueue_worker, pgqueue_operator;
grant insert (name, max_running, rate, burst, ordered, weights, keyed, per, per_default, options, declared, declared_at),
      update (max_running, rate, burst, ordered, weights, keyed, per, per_default, options, declared, declared_at) on pgqueue.tasks to pgqueue_worker;
grant select, delete on pgqueue.workflows, pgqueue.workflow_jobs, pgqueue.dependencies to pgqueue_worker;
grant update (watched) on pgqueue.workflows, pgqueue.workflow_jobs to pgqueue_worker;
grant select, delete on pgqueue.steps, pgqueue.events to pgqueue_worker;
grant select, delete, update (waiting) on pgqueue.buckets to pgqueue_worker;
grant execute on function pgqueue.key_of(text, text) to pgqueue_worker;
grant update (delivered_at) on pgqueue.events to pgqueue_worker;
grant execute on function pgqueue.settle(bigint[], bigint[], bigint[]), pgqueue.save_step(bigint, uuid, text, jsonb, text, float8),
    pgqueue.fail_step(bigint, uuid, text, integer, jsonb, text, float8), pgqueue.add_to_workflow(bigint, uuid, jsonb, boolean),
    pgqueue.expire_workflows(integer, bigint[], bigint[]),
    pgqueue.start_sleep(bigint, uuid, text, float8, timestamptz), pgqueue.await_event(bigint, uuid, text, text[], float8, boolean),
    pgqueue.await_jobs(bigint, uuid, text, bigint[], float8),
    pgqueue.deliver_events(integer, bigint[], bigint[]) to pgqueue_worker;
grant execute on function pgqueue.claim_limited(text, integer, uuid, uuid, float8, boolean, text[], bigint[], bigint[], bigint[], boolean), pgqueue.own_key(text, jsonb),
    pgqueue.scheduled_jobs(text[]) to pgqueue_worker;
grant execute on function pgqueue.backoff(integer, jsonb), pgqueue.complete_job(bigint, uuid), pgqueue.schema_id(),
    pgqueue.hold_again(bigint[]) to pgqueue_worker;
grant execute on function pgqueue.find_jobs(text[], text, text, text, float8),
    pgqueue.latest_jobs(text, text, text, text, float8, bigint, integer) to pgqueue_worker, pgqueue_operator;

-- readonly: no arguments, no error texts, no claims.
grant select on pgqueue.jobs_public, pgqueue.queues, pgqueue.tasks, pgqueue.queue_names, pgqueue.queue_stats, pgqueue.throughput,
    pgqueue.task_stats, pgqueue.workers, pgqueue.schedule_list, pgqueue.schedule_runs, pgqueue.workflow_list,
    pgqueue.workflows, pgqueue.workflow_jobs, pgqueue.dependencies to pgqueue_readonly;

-- operator: sees arguments and errors, but no claim of a running job.
grant pgqueue_readonly to pgqueue_operator;
grant select (id, task, args, queue, status, priority, attempt, max_retries, crashes, quarantine, run_at, created_at, claimed_at,
              finished_at, lease_expires_at, run_seconds, worker_id, cancel_requested, backoff, last_error,
              unique_key, unique_until, expires_at, progress, result, workflow_id, left_at, left_because, suspended_run),
      update (status, args, attempt, crashes, quarantine, run_at, claimed_at, finished_at, run_seconds, cancel_requested,
              expires_at, queue, priority, progress, left_by, left_at),
      delete on pgqueue.jobs to pgqueue_operator;
grant select (id, job_id, attempt, worker_id, outcome, error_type, error, traceback, started_at, ended_at, run_seconds, log),
      delete on pgqueue.attempts to pgqueue_operator;
grant select, insert, update on pgqueue.queues, pgqueue.tasks to pgqueue_operator;
grant select on pgqueue.dead_jobs to pgqueue_operator;
-- For a new key of encrypted arguments.
grant select (name, task, args), update (args) on pgqueue.schedules to pgqueue_operator;
grant select, delete on pgqueue.steps, pgqueue.events to pgqueue_operator;
-- To clear jobs that have succeeded.
grant update (stays) on pgqueue.workflow_jobs to pgqueue_worker, pgqueue_operator;
grant execute on function
    pgqueue.add_schedule(text, text, text, jsonb, text, text, integer, integer, jsonb, text, text, interval),
    pgqueue.remove_schedule(text), pgqueue.pause_schedule(text), pgqueue.resume_schedule(text),
    pgqueue.run_schedule(text), pgqueue.retry_keyed(bigint, jsonb), pgqueue.retry_members(bigint[], jsonb),
    pgqueue.retry_job(bigint, jsonb, text), pgqueue.cancel_workflow(bigint),
    pgqueue.retry_workflow(bigint), pgqueue.settle(bigint[], bigint[], bigint[]) to pgqueue_operator;

commit;
