-- The whole schema of pgqueue, from top to bottom: small functions that tables use, jobs, settings, workers, enqueueing,
-- limits, schedules, workflows, steps and events, statistics, rights.
-- Functions that applications call run as the owner of the schema, so a role can be given one of them and no table.

-- Workers and `pgqueue migrate` read this version in the catalog. It is no comment, since a dump may leave those out.
create function pgqueue.schema_version(out version integer, out serves integer)
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$ select 1, 1 $$;
comment on function pgqueue.schema_version is 'The version of this schema, and the oldest code that it serves';

-- Small functions that tables, indexes and statements use.

create function pgqueue.channel(queue text) returns text
    language sql immutable parallel safe
    set search_path = pg_catalog, pg_temp
as $$ select case when length('pgqueue:' || queue) > 63 then 'pgqueue:' || md5(queue) else 'pgqueue:' || queue end $$;
comment on function pgqueue.channel is 'The NOTIFY channel of a queue; PostgreSQL allows 63 bytes';

-- A notification is a hint: workers also poll. PostgreSQL's queue of notifications is one for all databases, and one
-- session that listens and never reads fills it. What then notifies fails as a whole, and only at its commit, where
-- nothing can be caught any more: so nothing is notified from half of it on.
create function pgqueue.notify(queue text) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    if pg_notification_queue_usage() < 0.5 then
        perform pg_notify(pgqueue.channel(queue), '');
    end if;
end $$;
comment on function pgqueue.notify is 'Wakes the workers of a queue, unless the server has no room for notifications';

create function pgqueue.readable(instant timestamptz) returns timestamptz
    language sql immutable parallel safe
    -- least() and greatest() pass nulls by.
    return case when instant is not null
                then least(greatest(instant, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 00:00:00+00') end;
comment on function pgqueue.readable is
    'The time itself, or the nearest that clients can read: rows from SQL may hold infinity and years without a date in Python';

create function pgqueue.is_backoff(policy jsonb) returns boolean
    language sql immutable parallel safe
    set search_path = pg_catalog, pg_temp
as $$
    select policy is null or jsonb_typeof(policy) = 'object' and not exists (
        select from jsonb_each(case when jsonb_typeof(policy) = 'object' then policy end) as part
         where not case
            when jsonb_typeof(part.value) <> 'number' then false
            when part.key in ('base', 'cap') then part.value::numeric between 0 and 31536000
            when part.key = 'factor' then part.value::numeric between 1 and 100
            when part.key = 'jitter' then part.value::numeric between 0 and 1
            else false end)
$$;
comment on function pgqueue.is_backoff is 'Whether a backoff is one that enqueue() takes; null is';

create function pgqueue.is_weights(weights jsonb) returns boolean
    language sql immutable parallel safe
    set search_path = pg_catalog, pg_temp
as $$
    select weights is null or jsonb_typeof(weights) = 'object' and not exists (
        select from jsonb_each(case when jsonb_typeof(weights) = 'object' then weights end) as part
         where not case when jsonb_typeof(part.value) = 'number'
                        then part.value::numeric between 1 and 1000 and part.value::numeric = trunc(part.value::numeric)
                        else false end)
$$;
comment on function pgqueue.is_weights is 'Whether these are weights of keys: whole numbers from 1 to 1000; null is';

-- A job inserted without enqueue() may carry any JSON here: what is no number counts as not given,
-- and clamping comes before the conversion. An error would make failures impossible to record.
create function pgqueue.backoff(attempt integer, policy jsonb default null) returns interval
    language sql volatile parallel safe
    set search_path = pg_catalog, pg_temp
as $$
    select make_interval(secs =>
        least(cap, base * power(factor, least(greatest(attempt, 1) - 1, 64)::float8)) * (1 - jitter * random()))
    from (select max(value) filter (where key = 'base') as base, max(value) filter (where key = 'factor') as factor,
                 max(value) filter (where key = 'cap') as cap, max(value) filter (where key = 'jitter') as jitter
            from (select d.key, round(least(greatest(coalesce(
                             case when jsonb_typeof(policy -> d.key) = 'number' then (policy -> d.key)::numeric end,
                             d.value), d.low), d.high), 9)::float8 as value
                    from (values ('base', 10.0, 0, 31536000), ('factor', 2, 1, 100),
                                 ('cap', 3600, 0, 31536000), ('jitter', 0.5, 0, 1)) as d(key, value, low, high)) v) p
$$;
comment on function pgqueue.backoff is 'Wait before the next run: min(cap, base * factor^(attempt-1)), less up to jitter of it';

-- Closed under all moves between statuses but two, dead or cancelled to pending (retry_keyed), and back to a job
-- that was never started (hold_again): so no
-- move of a worker can ever meet a key that another job holds.
create function pgqueue.held_key(unique_key text, unique_until text, status text, claimed_at timestamptz) returns text
    language sql immutable parallel safe
    set search_path = pg_catalog, pg_temp
as $$
    select case unique_until
               when 'started' then case when status = 'pending' and claimed_at is null then 'started:' || unique_key end
               when 'finished' then case when status in ('pending', 'running') then 'finished:' || unique_key end
               when 'succeeded' then case when status <> 'succeeded' then 'succeeded:' || unique_key end
               else unique_until || ':' || unique_key
           end
$$;
comment on function pgqueue.held_key is 'The key that a job holds as it is, so that no other may hold it; null if it holds none';

create function pgqueue.key_of(task text, key text) returns text
    language sql immutable parallel safe
    set search_path = pg_catalog, pg_temp
as $$ select replace(replace(task, '%', '%25'), ':', '%3A') || ':' || key $$;
comment on function pgqueue.key_of is 'A key among those of all tasks: the first colon ends the name of the task';

-- The same as key_text() in pgqueue/limits.py.
create function pgqueue.key_text(value jsonb) returns text
    language sql immutable parallel safe
    set search_path = pg_catalog, pg_temp
as $$
    select case when length(v.text) <= 200 then v.text
                else left(v.text, 200) || '~' || encode(sha256(convert_to(v.text, 'UTF8')), 'hex') end
      from (select case
                when jsonb_typeof(value) = 'number' then trim_scale(value::numeric)::text
                when jsonb_typeof(value) = 'string' and value #>> '{}' !~ '^(["[{0-9-]|(null|true|false)?$)' then value #>> '{}'
                else coalesce(value, 'null')::text end as text) v
$$;
comment on function pgqueue.key_text is
    'A value as a key, another one for each value: text as it is, unless it reads like other JSON; long ones by their digest';

-- Jobs. One wide table: every transition is one statement on one row.
create table pgqueue.jobs (
    -- The rounds of the workers begin at 1: a job below would never be rescued.
    id                bigint generated always as identity primary key,
    run_at            timestamptz not null default clock_timestamp(),
    created_at        timestamptz not null default clock_timestamp(),
    claimed_at        timestamptz,
    lease_expires_at  timestamptz,
    finished_at       timestamptz,
    claim_id          uuid,
    worker_id         uuid,
    attempt           integer  not null default 0,
    max_retries       integer  not null default 10,
    crashes           integer  not null default 0,
    run_seconds       real,
    priority          smallint not null default 0,
    cancel_requested  boolean  not null default false,
    status            text     not null default 'pending'
        constraint jobs_status check (status in ('blocked', 'pending', 'running', 'succeeded', 'dead', 'cancelled')),
    queue             text     not null default 'default',
    task              text     not null,
    args              jsonb    not null default '{}',
    backoff           jsonb,
    last_error        text,
    schedule          text,
    tick              timestamptz,
    unique_key        text,
    unique_until      text,
    unique_expires_at timestamptz,
    expires_at        timestamptz,
    limit_key         text,
    left_by           uuid[],
    left_at           timestamptz,
    left_until        timestamptz,
    left_because      text,
    progress          jsonb,
    result            jsonb,
    workflow_id       bigint,
    quarantine        smallint,
    suspended_run     timestamptz
) with (
    -- A claim and a completion each write a new version of the row: half of a page is room for them beside it.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0, vacuum_index_cleanup = on, vacuum_truncate = off
);
comment on table pgqueue.jobs is 'One row per job. Status dead is the dead-letter queue.';
comment on column pgqueue.jobs.claim_id is 'Fencing token made by the client per claim; null unless running';
comment on column pgqueue.jobs.worker_id is 'Who runs it: information, and the predicate of jobs_running; null unless running';
comment on column pgqueue.jobs.attempt is 'Claims so far, counted at the claim; a snooze gives its attempt back. A run that stored a step and fails counts as the first';
comment on column pgqueue.jobs.max_retries is 'Runs allowed after the first';
comment on column pgqueue.jobs.crashes is
    'Leases that ran out since a run last ended by itself: the worker died or lost its database';
comment on column pgqueue.jobs.run_seconds is 'Run time of the last attempt, by the worker''s monotonic clock';
comment on column pgqueue.jobs.backoff is '{"base": s, "factor": x, "cap": s, "jitter": 0..1}; null means the default';
comment on column pgqueue.jobs.schedule is 'The schedule that this is a run of';
comment on column pgqueue.jobs.tick is 'The tick of the schedule; null when run by hand';
comment on column pgqueue.jobs.unique_key is 'No other job that holds its key has the same key and until';
comment on column pgqueue.jobs.unique_until is
    'How long it holds its key: until it started, finished, succeeded, was removed, or for a time (expired)';
comment on column pgqueue.jobs.unique_expires_at is 'With until expired: when a new job may take the key';
comment on column pgqueue.jobs.expires_at is 'It is not started after this';
comment on column pgqueue.jobs.limit_key is 'Jobs with one are claimed under the limits of their task, key by key in turn';
comment on column pgqueue.jobs.left_by is 'Workers that could not run it as they are, and left it for others; null: none, or another has run it since';
comment on column pgqueue.jobs.suspended_run is
    'claimed_at of a run that ended at a sleep or a wait; while that is its last run, events wake it';
comment on column pgqueue.jobs.left_at is 'When the first of them left it';
comment on column pgqueue.jobs.left_until is 'When they look at it again';
comment on column pgqueue.jobs.left_because is 'What the last of them lacked';
comment on column pgqueue.jobs.progress is '{"done": n, "total": n, "message": text} as the handler last said';
comment on column pgqueue.jobs.result is 'What the handler returned, for tasks that keep it';
comment on column pgqueue.jobs.workflow_id is 'The workflow that it belongs to';
comment on column pgqueue.jobs.quarantine is
    'Of a suspect: how many run together at most, it included; 1: it runs alone. Null: it is no suspect';

create index jobs_ready on pgqueue.jobs (queue, priority desc, run_at, id) where status = 'pending';
-- The predicate names no column that a completion names: else the planner takes this index for
-- completions, and walks its dead entries while another session holds a snapshot.
create index jobs_running on pgqueue.jobs (id) where worker_id is not null;
create index jobs_finished on pgqueue.jobs (queue, status, finished_at)
    where status in ('succeeded', 'dead', 'cancelled');
create unique index jobs_unique on pgqueue.jobs (pgqueue.held_key(unique_key, unique_until, status, claimed_at))
    where unique_key is not null;
-- By an expression, so that no statistics can lead a search for it to jobs_ready.
create index jobs_expiring on pgqueue.jobs ((case when status = 'pending' then expires_at end))
    where expires_at is not null;
-- By an expression, so that a search for suspects cannot take jobs_ready, nor any other search this one.
create index jobs_suspect on pgqueue.jobs (run_at, id) where (case when status = 'pending' then quarantine end) is not null;
-- For claims under limits: the keys of a queue by a loose index scan, then the first jobs of each. By
-- expressions, so that no statistics can lead these searches to jobs_ready, or one of them to the other.
create index jobs_keyed on pgqueue.jobs
    (queue, (case when status = 'pending' then limit_key end), priority desc, run_at, id)
    where limit_key is not null and (case when status = 'pending' then limit_key end) is not null;
create index jobs_ordered on pgqueue.jobs (queue, (case when status = 'pending' then limit_key || '' end), id)
    where limit_key is not null and (case when status = 'pending' then limit_key end) is not null;
-- For overlap="skip": the runs of a schedule that have not ended. By an expression, as the indexes above.
create index jobs_of_schedules on pgqueue.jobs ((case when status in ('blocked', 'pending', 'running') then schedule end))
    where schedule is not null;

-- Each statement that writes a row parses all check constraints of its table anew, and asks them for each row; claims and
-- completions do not write these columns. A trigger is asked only where they are written.
create function pgqueue.refuse_name() returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    broken constant text := case when new.id < 1 then 'jobs_id'
                                 when length(new.task) between 1 and 200 then 'jobs_queue'
                                 else 'jobs_task' end;
begin
    raise exception 'new row for relation "jobs" violates check constraint "%"', broken
        using errcode = 'check_violation', schema = tg_table_schema, table = tg_table_name, constraint = broken,
              hint = case broken when 'jobs_id' then 'An id is 1 or more; leave it out, the sequence gives one.'
                                 when 'jobs_task' then 'The name of a task has 1 to 200 characters.'
                                 else 'The name of a queue has 1 to 64 characters: letters, digits, and _ . : -' end;
end $$;
comment on function pgqueue.refuse_name is 'Refuses a job whose queue or task has no proper name, or with an id below 1';
create trigger names after insert or update of id, queue, task on pgqueue.jobs
    for each row when (new.id < 1 or new.queue ~ '[^A-Za-z0-9_.:-]' or octet_length(new.queue) not between 1 and 64
                       or length(new.task) not between 1 and 200)
    execute function pgqueue.refuse_name();

create table pgqueue.attempts (
    id          bigint generated always as identity,
    job_id      bigint not null,
    attempt     integer not null,
    claim_id    uuid,
    worker_id   uuid,
    outcome     text not null,
    error_type  text,
    error       text,
    traceback   text,
    started_at  timestamptz,
    ended_at    timestamptz not null default clock_timestamp(),
    run_seconds real,
    log         text,
    primary key (job_id, id)
);
comment on table pgqueue.attempts is 'Attempts that did not succeed, and those that logged; append-only; pruned with their job';
comment on column pgqueue.attempts.log is 'What the handler logged with ctx.log';

-- Settings of queues and tasks. A queue named * stands for all, and can only be paused.
create table pgqueue.queues (
    name           text primary key constraint queues_name check (name ~ '^([A-Za-z0-9_.:-]{1,64}|[*])$'),
    paused_at      timestamptz,
    max_running    integer constraint queues_max_running check (max_running >= 0),
    rate           float8 constraint queues_rate check (rate between 1e-9 and 1e6),
    burst          integer constraint queues_burst check (burst >= 1),
    declared       jsonb,
    declared_at    timestamptz,
    max_pending    integer constraint queues_max_pending check (max_pending >= 1),
    keep_succeeded interval
        constraint queues_keep_succeeded check (keep_succeeded between interval '0' and interval '1000 years'),
    keep_dead      interval constraint queues_keep_dead check (keep_dead between interval '0' and interval '1000 years'),
    keep_cancelled interval
        constraint queues_keep_cancelled check (keep_cancelled between interval '0' and interval '1000 years'),
    priority       smallint,
    max_retries    integer constraint queues_max_retries check (max_retries between 0 and 1000),
    backoff        jsonb constraint queues_backoff check (pgqueue.is_backoff(backoff)),
    expires        interval constraint queues_expires check (expires between interval '0' and interval '365 days'),
    timeout        interval
        constraint queues_timeout check (timeout between interval '1 millisecond' and interval '365 days'),
    constraint queues_all check (
        name <> '*' or coalesce(max_pending, max_retries, priority, extract(epoch from keep_succeeded),
                                extract(epoch from keep_dead), extract(epoch from keep_cancelled),
                                extract(epoch from expires), extract(epoch from timeout)) is null and backoff is null)
);
comment on table pgqueue.queues is 'Settings of a queue; a queue needs no row here to be used';
comment on column pgqueue.queues.max_running is 'Jobs of it that may run at once, over all workers; null: any number';
comment on column pgqueue.queues.rate is 'Jobs of it that may be started per second, over all workers; null: any number';
comment on column pgqueue.queues.burst is 'How many may be started at once after a quiet time; default 1';
comment on column pgqueue.queues.declared is 'What the code declares; a change of a setting is written, what was set by hand stays';
comment on column pgqueue.queues.declared_at is 'When that was last written';
comment on column pgqueue.queues.max_pending is 'Pending jobs at which enqueuing is refused or waits; null: any number';
comment on column pgqueue.queues.keep_succeeded is 'Retention of succeeded jobs, 0 deletes them at once; null: as the workers are set';
comment on column pgqueue.queues.keep_dead is 'Retention of dead jobs; null: as the workers are set';
comment on column pgqueue.queues.keep_cancelled is 'Retention of cancelled jobs; null: as the workers are set';
comment on column pgqueue.queues.priority is 'Of jobs that are enqueued without one';
comment on column pgqueue.queues.max_retries is 'Of jobs that are enqueued without';
comment on column pgqueue.queues.backoff is 'Of jobs that are enqueued without';
comment on column pgqueue.queues.expires is 'Of jobs that are enqueued without: not started later than this after they were due';
comment on column pgqueue.queues.timeout is 'Longest run of a job whose task sets none';

create table pgqueue.tasks (
    name        text primary key constraint tasks_name check (length(name) between 1 and 200),
    paused_at   timestamptz,
    max_running integer constraint tasks_max_running check (max_running >= 0),
    rate        float8 constraint tasks_rate check (rate between 1e-9 and 1e6),
    burst       integer constraint tasks_burst check (burst >= 1),
    ordered     text constraint tasks_ordered check (ordered in ('strict', 'skip')),
    weights     jsonb constraint tasks_weights check (pgqueue.is_weights(weights)),
    keyed       boolean not null default false,
    per         text,
    per_default jsonb,
    options     jsonb,
    declared    jsonb,
    declared_at timestamptz
);
comment on table pgqueue.tasks is 'Settings of a task; a task needs no row here to be used';
comment on column pgqueue.tasks.max_running is 'Jobs of one limit_key that may run at once, over all workers; null: any number';
comment on column pgqueue.tasks.rate is 'Jobs of one limit_key that may be started per second; null: any number';
comment on column pgqueue.tasks.burst is 'How many may be started at once after a quiet time; default 1';
comment on column pgqueue.tasks.ordered is
    'Jobs of one limit_key run one by one in the order of their ids; strict: one that waits for its time holds up the rest';
comment on column pgqueue.tasks.weights is '{"key": n}: n jobs a turn instead of 1';
comment on column pgqueue.tasks.keyed is 'Its jobs run under limits, so each has a limit_key; workers give one to those without';
comment on column pgqueue.tasks.per is 'The argument whose value is the key; null: all its jobs have the key *';
comment on column pgqueue.tasks.per_default is 'The value where a job does not give that argument';
comment on column pgqueue.tasks.options is
    'What its code declares for jobs that do not say: queue, priority, max_retries, backoff, expires in seconds; and for those enqueued by name whether it is unique, and which arguments are encrypted';
comment on column pgqueue.tasks.declared is 'The limits that the code declares; a change of one is written, what was set by hand stays';
create index tasks_apart on pgqueue.tasks (name) where paused_at is not null or keyed;

create function pgqueue.own_key(task text, args jsonb) returns text
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select case when t.per is null then '*' else pgqueue.key_text(coalesce(own_key.args -> t.per, t.per_default)) end
      from pgqueue.tasks t
     where t.name = own_key.task and t.keyed
$$;
comment on function pgqueue.own_key is 'The key of a job under the limits of its task; null if it has none';

-- Workers.
create table pgqueue.workers (
    id         uuid primary key,
    host       text not null,
    pid        integer not null,
    version    text not null,
    queues     text[],
    state      text not null default 'running' check (state in ('running', 'stopping')),
    tasks      text[],
    schedules  text[]      not null default '{}',
    declarations text[]    not null default '{}',
    quarantine boolean     not null default false,
    limits     jsonb,
    started_at timestamptz not null default clock_timestamp(),
    seen_at    timestamptz not null default clock_timestamp(),
    live_until timestamptz not null default clock_timestamp(),
    held_jobs  bigint[]    not null default '{}',
    held_until timestamptz
);
comment on table pgqueue.workers is 'Who is alive; held_jobs decide what is rescued, schedules what ticks';
comment on column pgqueue.workers.live_until is 'A lease after seen_at: one that was not seen again by then is taken for dead';
comment on column pgqueue.workers.quarantine is 'It runs suspects, and no other jobs';
comment on column pgqueue.workers.state is 'stopping: it claims no more, and ends when the jobs that it runs have';
comment on column pgqueue.workers.held_jobs is
    'Jobs it holds whose rows others have locked, so that their leases cannot be renewed there: they are held until held_until';
comment on column pgqueue.workers.queues is 'Those it works on; null: all';
comment on column pgqueue.workers.tasks is 'Those it knows';
comment on column pgqueue.workers.schedules is 'Those its code declares';
comment on column pgqueue.workers.declarations is 'Digests of how it declares them';
comment on column pgqueue.workers.limits is 'What its code declares of queues and tasks: {"queue": {"name": {...}}, "task": {...}}';

-- What tells the jobs of this schema from those of any other. A copy of the database has the same.
create table pgqueue.identity (
    id      uuid primary key default gen_random_uuid(),
    made_at timestamptz not null default clock_timestamp(),
    one     boolean not null default true constraint identity_one check (one) unique
);
comment on table pgqueue.identity is 'One row: with a job''s id and time of enqueueing it makes the idempotency key of the job';
insert into pgqueue.identity default values;

-- Made anew where the row is gone, as after a dump without data.
create function pgqueue.schema_id() returns uuid
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    found_id uuid;
begin
    select i.id into found_id from pgqueue.identity i;
    if found_id is null then
        insert into pgqueue.identity default values on conflict do nothing;
        select i.id into found_id from pgqueue.identity i;
    end if;
    return found_id;
end $$;
comment on function pgqueue.schema_id is 'The identity of this schema';

-- Enqueueing.

create function pgqueue.room(queue text) returns bigint
    language sql stable security definer
    set search_path = pg_catalog, pg_temp
as $$
    select q.max_pending - (select count(*)
                              from (select from pgqueue.jobs j
                                     where j.queue = q.name and j.status = 'pending' limit q.max_pending) p)
      from pgqueue.queues q
     where q.name = room.queue and q.max_pending is not null
$$;
comment on function pgqueue.room is 'How many more jobs fit into a queue; null if any number does';

create function pgqueue.with_defaults(jobs jsonb) returns jsonb
    language plpgsql stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    wrong text;
begin
    if jsonb_path_exists(jobs, '$[*] ? (@.by_name == true)') then
        select case when s.argument is null then
                   format('%s is declared unique, and its key is made by its code: give a key, with_unique(key)', t.name)
               else format('%s encrypts its argument %s, which only code that has the task can do: enqueue it where the task is imported',
                           t.name, s.argument) end
          into wrong
          from jsonb_array_elements(jobs) with ordinality as e(job, ordinality)
          join pgqueue.tasks t on t.name = e.job ->> 'task'
          left join lateral (
               select a.argument from jsonb_array_elements_text(t.options -> 'encrypted') a(argument)
                where e.job #> array['args', a.argument] is not null order by a.argument limit 1) s on true
         where e.job ->> 'by_name' = 'true'
           and (s.argument is not null or t.options ->> 'unique' = 'true' and e.job ->> 'unique_key' is null)
         order by e.ordinality
         limit 1;
        if wrong is not null then
            raise exception using message = wrong, errcode = 'PQ006';
        end if;
    end if;
    if jsonb_typeof(jobs) is distinct from 'array'
       or not exists (select from pgqueue.tasks t where t.options - array['unique', 'encrypted'] <> '{}' or t.keyed)
          and not exists (select from pgqueue.queues q
                           where q.priority is not null or q.max_retries is not null or q.backoff is not null or q.expires is not null) then
        return jobs;
    end if;
    return coalesce((
        select jsonb_agg(
                   case when jsonb_typeof(e.job) <> 'object' then e.job else e.job || jsonb_strip_nulls(jsonb_build_object(
                       'queue', case when e.job ->> 'queue' is null then t.options -> 'queue' end,
                       'priority', case when e.job ->> 'priority' is null
                                        then coalesce(t.options -> 'priority', to_jsonb(q.priority)) end,
                       'max_retries', case when e.job ->> 'max_retries' is null
                                           then coalesce(t.options -> 'max_retries', to_jsonb(q.max_retries)) end,
                       'backoff', case when e.job ->> 'backoff' is null then coalesce(t.options -> 'backoff', q.backoff) end,
                       'expires', case when e.job ->> 'expires' is null
                                       then coalesce(t.options -> 'expires', to_jsonb(extract(epoch from q.expires))) end,
                       'limit_key', case when e.job ->> 'limit_key' is null and t.keyed
                                         then pgqueue.own_key(t.name, e.job -> 'args') end)) end
                   order by e.ordinality)
          from jsonb_array_elements(jobs) with ordinality as e(job, ordinality)
          left join pgqueue.tasks t on t.name = e.job ->> 'task'
          left join pgqueue.queues q on q.name = coalesce(e.job ->> 'queue', t.options ->> 'queue', 'default')), jobs);
end $$;
comment on function pgqueue.with_defaults is
    'Jobs to be enqueued, with what their tasks declare in place of what was left out, or else the defaults of their queues';

create function pgqueue.wrong_with(
    task text, args jsonb, queue text, priority integer, run_at timestamptz, delay interval, max_retries integer,
    backoff jsonb, unique_key text, unique_until text, unique_for interval, on_conflict text, expires interval, limit_key text
) returns text
    language plpgsql immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    size integer := octet_length(args::text);
begin
    -- Checked here, not by constraints, whose errors print the row with its arguments.
    return case
        when task is null or length(task) not between 1 and 200 then
            'task must have 1 to 200 characters, got ' || coalesce(length(task)::text, 'null')
        when jsonb_typeof(args) is distinct from 'object' then
            'args must be a JSON object with one key per parameter of the task, got '
            || coalesce(jsonb_typeof(args), 'null')
        when size > 1048576 then
            format('args of task %s are over 1 MB: store the document and pass its id', task)
        when size > 128 and jsonb_path_exists(args,
                'strict $.**{64} ? (@.type() == "object" || @.type() == "array")') then
            format('args of task %s are nested deeper than 64', task)
        when queue is null or queue !~ '^[A-Za-z0-9_.:-]{1,64}$' then
            format('queue %L is not usable: 1 to 64 characters of A-Z a-z 0-9 _ . : -', left(queue, 80))
        when priority is null or priority not between -32768 and 32767 then
            'priority must be from -32768 to 32767, got ' || coalesce(priority::text, 'null')
        when max_retries is null or max_retries not between 0 and 1000 then
            'max_retries must be from 0 to 1000, got ' || coalesce(max_retries::text, 'null')
        when not isfinite(run_at) then 'run_at must be a time, got ' || run_at::text
        when run_at not between timestamptz '1900-01-01 00:00:00+00' and timestamptz '9000-01-01 00:00:00+00' then
            'run_at must be from 1900-01-01 to 9000-01-01, got ' || run_at::text
        when delay not between interval '0' and interval '365 days' then
            'delay must be from 0 to 365 days, got ' || delay::text
        when not pgqueue.is_backoff(backoff) then
            'backoff must be a JSON object of numbers: base and cap from 0 to 31536000 (seconds),'
            || ' factor from 1 to 100, jitter from 0 to 1'
        when length(limit_key) not between 1 and 300 then
            'limit_key must have 1 to 300 characters, got ' || length(limit_key)
        when expires not between interval '0' and interval '365 days' then
            'expires must be from 0 to 365 days, got ' || expires::text
        when length(unique_key) not between 1 and 300 then
            'unique_key must have 1 to 300 characters, got ' || length(unique_key)
        when unique_key is null and unique_for is not null then 'unique_for needs a unique_key'
        when unique_for not between interval '1 millisecond' and interval '365 days' then
            'unique_for must be from 1 ms to 365 days, got ' || unique_for::text
        when unique_until is null or unique_until not in ('started', 'finished', 'succeeded', 'removed') then
            format('unique_until must be started, finished, succeeded or removed, got %L', unique_until)
        when on_conflict is null or on_conflict not in ('ignore', 'replace', 'reschedule', 'raise') then
            format('on_conflict must be ignore, replace, reschedule or raise, got %L', on_conflict)
        when on_conflict in ('replace', 'reschedule') and (unique_until <> 'started' or unique_for is not null) then
            format('on_conflict %s changes the waiting job, so it needs unique_until started', on_conflict)
    end;
end $$;
comment on function pgqueue.wrong_with is 'What is wrong with a job to be enqueued; null if nothing is';

create function pgqueue.insert_job(job pgqueue.jobs) returns bigint
    language sql volatile
    set search_path = pg_catalog, pg_temp
as $$
    insert into pgqueue.jobs (task, args, queue, priority, run_at, max_retries, backoff, expires_at,
                              limit_key, unique_key, unique_until, unique_expires_at)
    values (job.task, job.args, job.queue, job.priority, job.run_at, job.max_retries, job.backoff, job.expires_at,
            job.limit_key, job.unique_key, job.unique_until, job.unique_expires_at)
    on conflict do nothing
    returning id
$$;
comment on function pgqueue.insert_job is 'Inserts a job; null if another holds its key';

-- Each statement in the loop has a snapshot of its own, so the job that a conflict was with is found by
-- the next one, unless it has let its key go meanwhile: then the key is free.
create function pgqueue.place_job(job pgqueue.jobs, on_conflict text, out id bigint, out placed text)
    language plpgsql volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    held constant text := job.unique_until || ':' || job.unique_key;
begin
    for try in 1 .. 1000 loop
        if job.unique_until = 'expired' then
            update pgqueue.jobs as j set unique_key = null
             where j.unique_key is not null
               and pgqueue.held_key(j.unique_key, j.unique_until, j.status, j.claimed_at) = held
               and j.unique_expires_at <= clock_timestamp();
        end if;
        placed := 'inserted';
        if current_setting('transaction_isolation') = 'read committed' then
            id := pgqueue.insert_job(job);
        else
            begin
                id := pgqueue.insert_job(job);
            exception when serialization_failure then
                -- The other job is newer than this transaction's snapshot, so its id cannot be read.
                placed := 'existing';
                return;
            end;
        end if;
        exit when id is not null;
        if on_conflict in ('replace', 'reschedule') then
            placed := on_conflict || 'd';
            update pgqueue.jobs as j
               set args = job.args, queue = job.queue, priority = job.priority, max_retries = job.max_retries,
                   backoff = job.backoff, expires_at = job.expires_at, limit_key = job.limit_key,
                   left_by = null, left_at = null,
                   run_at = case when on_conflict = 'reschedule' then job.run_at else j.run_at end
             where j.unique_key is not null
               and pgqueue.held_key(j.unique_key, j.unique_until, j.status, j.claimed_at) = held
            returning j.id into id;
        else
            placed := 'existing';
            select j.id into id from pgqueue.jobs j
             where j.unique_key is not null
               and pgqueue.held_key(j.unique_key, j.unique_until, j.status, j.claimed_at) = held;
        end if;
        exit when id is not null;
    end loop;
    if id is null then
        raise exception 'could not take the unique key of task %: others took and left it 1000 times', job.task
            using errcode = '55P03';
    end if;
end $$;
comment on function pgqueue.place_job is 'Inserts a job that holds a key, or finds or changes the one that holds it';

create function pgqueue.add_job(
    task text, args jsonb, queue text, priority integer, run_at timestamptz, delay interval, max_retries integer,
    backoff jsonb, unique_key text, unique_until text, unique_for interval, on_conflict text, expires interval, limit_key text,
    out id bigint, out placed text, out due boolean
)
    language plpgsql volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    job pgqueue.jobs;
begin
    job.task := task;
    job.args := args;
    job.queue := queue;
    job.priority := priority;
    job.run_at := coalesce(run_at, clock_timestamp() + coalesce(delay, interval '0'));
    job.max_retries := max_retries;
    job.backoff := backoff;
    job.expires_at := job.run_at + expires;
    job.limit_key := pgqueue.key_of(task, limit_key);
    if unique_key is null then
        placed := 'inserted';
        id := pgqueue.insert_job(job);
    else
        job.unique_key := pgqueue.key_of(task, unique_key);
        job.unique_until := case when unique_for is null then unique_until else 'expired' end;
        job.unique_expires_at := clock_timestamp() + unique_for;
        select p.id, p.placed into id, placed from pgqueue.place_job(job, on_conflict) p;
    end if;
    due := placed <> 'existing' and job.run_at <= clock_timestamp();
end $$;
comment on function pgqueue.add_job is 'Inserts a checked job, or finds the one that holds its key; wakes nobody';

create function pgqueue.enqueue(
    task text, args jsonb default '{}', queue text default null, priority integer default null,
    run_at timestamptz default null, delay interval default null, max_retries integer default null,
    backoff jsonb default null, notify boolean default true, unique_key text default null,
    unique_until text default 'finished', unique_for interval default null, on_conflict text default 'ignore',
    expires interval default null, limit_key text default null
) returns bigint
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    added record;
    wrong text;
    declared jsonb;
    settings pgqueue.queues;
    full_of integer;
begin
    select t.options into declared from pgqueue.tasks t where t.name = task;
    queue := coalesce(queue, declared ->> 'queue', 'default');
    select q.* into settings from pgqueue.queues q where q.name = queue;
    priority := coalesce(priority, (declared ->> 'priority')::integer, settings.priority, 0);
    max_retries := coalesce(max_retries, (declared ->> 'max_retries')::integer, settings.max_retries, 10);
    backoff := coalesce(backoff, declared -> 'backoff', settings.backoff);
    expires := coalesce(expires, make_interval(secs => (declared ->> 'expires')::float8), settings.expires);
    limit_key := coalesce(limit_key, pgqueue.own_key(task, args));
    wrong := pgqueue.wrong_with(task, args, queue, priority, run_at, delay, max_retries, backoff, unique_key,
                                unique_until, unique_for, on_conflict, expires, limit_key);
    if wrong is not null then
        raise exception using message = wrong, errcode = '22023';
    end if;
    if settings.max_pending is not null and pgqueue.room(queue) < 1 then
        full_of := settings.max_pending;
    end if;
    added := pgqueue.add_job(task, args, queue, priority, run_at, delay, max_retries, backoff, unique_key,
                             unique_until, unique_for, on_conflict, expires, limit_key);
    if added.placed = 'existing' and on_conflict = 'raise' then
        raise exception 'job % has the unique key of this one', coalesce(added.id::text, 'of another transaction')
            using errcode = 'PQ002';
    end if;
    if added.placed = 'inserted' and full_of is not null then
        raise exception 'queue % is full: % jobs wait in it', queue, full_of
            using errcode = 'PQ003', hint = 'try again later, or raise max_pending of the queue';
    end if;
    if notify and added.due then
        perform pgqueue.notify(queue);
    end if;
    return added.id;
end $$;
comment on function pgqueue.enqueue is
    'Enqueue a job in the caller''s transaction; returns its id, or that of the job that holds its unique key';

-- Keys are taken in one order by everybody.
create function pgqueue.add_jobs(jobs jsonb, notify boolean) returns table (ordinal bigint, id bigint, placed text)
    language plpgsql volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    each record;
    added record;
    wrong text;
    queues text[] := '{}';
begin
    for each in
        select e.ordinality, r.task, coalesce(r.args, '{}') as args, coalesce(r.queue, 'default') as queue,
               coalesce(r.priority, 0) as priority, coalesce(r.max_retries, 10) as max_retries, r.backoff, r.run_at, r.delay,
               r.unique_key, coalesce(r.unique_until, 'finished') as unique_until, r.unique_for,
               coalesce(r.on_conflict, 'ignore') as on_conflict, r.expires, r.limit_key
          from jsonb_array_elements(jobs) with ordinality as e(job, ordinality)
         cross join lateral jsonb_to_record(e.job) as r(
               task text, args jsonb, queue text, priority integer, max_retries integer, backoff jsonb,
               run_at timestamptz, delay float8, unique_key text, unique_until text, unique_for float8,
               on_conflict text, expires float8, limit_key text)
         order by r.task, r.unique_key nulls first, e.ordinality
    loop
        wrong := pgqueue.wrong_with(
            each.task, each.args, each.queue, each.priority, each.run_at, make_interval(secs => each.delay),
            each.max_retries, each.backoff, each.unique_key, each.unique_until,
            make_interval(secs => each.unique_for), each.on_conflict, make_interval(secs => each.expires), each.limit_key);
        if wrong is not null then
            raise exception using message = wrong, errcode = '22023';
        end if;
        added := pgqueue.add_job(
            each.task, each.args, each.queue, each.priority, each.run_at, make_interval(secs => each.delay),
            each.max_retries, each.backoff, each.unique_key, each.unique_until,
            make_interval(secs => each.unique_for), each.on_conflict, make_interval(secs => each.expires), each.limit_key);
        ordinal := each.ordinality;
        id := added.id;
        placed := added.placed;
        if placed = 'existing' and each.on_conflict = 'raise' then
            raise exception 'taken' using errcode = 'PQ002', detail = coalesce(id::text, '');
        end if;
        if added.due then
            queues := queues || each.queue;
        end if;
        return next;
    end loop;
    if notify then
        perform pgqueue.notify(q.queue) from (select distinct unnest(queues) as queue) q;
    end if;
end $$;
comment on function pgqueue.add_jobs is 'Adds jobs; raises PQ002 at a conflict that is to raise';

create function pgqueue.enqueue_jobs(jobs jsonb, notify boolean default true)
    returns table (ordinal bigint, id bigint, placed text)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    holder text;
begin
    jobs := pgqueue.with_defaults(jobs);
    if jsonb_path_exists(jobs, '$[*] ? (@.by_name == true)') then
        -- Who enqueues by name cannot know the queue, and so not look for room in it before.
        return query
            select n.number, q.max_pending::bigint, 'full ' || q.name
              from (select coalesce(e.job ->> 'queue', 'default') as queue, count(*) as number
                      from jsonb_array_elements(jobs) e(job) where e.job ->> 'by_name' = 'true' group by 1) n
              join pgqueue.queues q on q.name = n.queue
             where q.max_pending is not null and n.number > pgqueue.room(q.name)
             order by q.name
             limit 1;
        if found then
            return;
        end if;
    end if;
    if jsonb_path_exists(jobs, '$[*] ? (@.on_conflict == "raise")') then
        begin
            return query select a.ordinal, a.id, a.placed from pgqueue.add_jobs(jobs, notify) a;
        exception when sqlstate 'PQ002' then
            -- Nothing was inserted, and the caller's transaction can go on.
            get stacked diagnostics holder = pg_exception_detail;
            return query select 0::bigint, nullif(holder, '')::bigint, 'refused';
            return;
        end;
    else
        return query select a.ordinal, a.id, a.placed from pgqueue.add_jobs(jobs, notify) a;
    end if;
end $$;
comment on function pgqueue.enqueue_jobs is
    'Enqueue jobs, all or none; a conflict that is to raise gives one row, refused, with the id of the job that holds the key; jobs by name without room one row, full and the queue, with their number and max_pending';

-- What is done to single jobs.

create function pgqueue.complete_job(id bigint, claim_id uuid) returns void
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    update pgqueue.jobs as j
       set status = 'succeeded', finished_at = clock_timestamp(), claim_id = null, worker_id = null,
           lease_expires_at = null, last_error = null,
           run_seconds = extract(epoch from clock_timestamp() - j.claimed_at)
     where j.id = complete_job.id and j.claim_id = complete_job.claim_id and j.status = 'running';
    if not found then
        raise exception 'job % is no longer held by claim %', complete_job.id, complete_job.claim_id
            using errcode = 'PQ001',
                  hint = 'Its lease ran out or it was taken back; this transaction must roll back.';
    end if;
end $$;
comment on function pgqueue.complete_job is
    'Complete a running job in the caller''s transaction; raises PQ001 when the claim is lost';

create function pgqueue.retry_keyed(job_id bigint, args jsonb default null) returns boolean
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    update pgqueue.jobs as j
       set status = 'pending', attempt = 0, crashes = 0, quarantine = null, run_at = clock_timestamp(),
           finished_at = null, cancel_requested = false, run_seconds = 0, expires_at = null, progress = null,
           left_by = null, left_at = null, args = coalesce(retry_keyed.args, j.args)
     where j.id = job_id and j.status in ('dead', 'cancelled');
    return found;
exception when unique_violation then
    return false;
end $$;
comment on function pgqueue.retry_keyed is
    'Puts a dead or cancelled job with a unique key back; false if another job holds the key now';

create function pgqueue.hold_again(job_ids bigint[]) returns void
    language plpgsql volatile
    set search_path = pg_catalog, pg_temp
    -- The key may be that of a job whose transaction is open.
    set lock_timeout = '100ms'
as $$
declare
    job_id bigint;
begin
    for job_id in
        select j.id from pgqueue.jobs j
         where j.id = any (job_ids) and j.status = 'pending' and j.unique_until = 'started' and j.claimed_at is not null
           and j.attempt = 0 and j.crashes = 0 and coalesce(j.run_seconds, 0) = 0
         order by j.id
           for no key update skip locked
    loop
        begin
            update pgqueue.jobs j set claimed_at = null where j.id = job_id;
        exception when unique_violation or lock_not_available then
            null;
        end;
    end loop;
end $$;
comment on function pgqueue.hold_again is
    'Lets jobs that were claimed, and given back before they started, hold their keys until they start; not those whose keys others hold now';

-- Limits: how many jobs of a queue or a key run at once, or start per second.
create table pgqueue.buckets (
    name    text primary key,
    tokens  float8 not null,
    at      timestamptz not null,
    waiting boolean not null default false
) with (fillfactor = 50);
comment on column pgqueue.buckets.waiting is 'Due jobs were left when it was last taken from: the time since is no quiet time';
comment on table pgqueue.buckets is 'Token buckets of rates: a queue, or queue/limit_key';

-- What a bucket holds now. https://en.wikipedia.org/wiki/Token_bucket
create function pgqueue.tokens(name text, rate float8, burst integer) returns float8
    language sql volatile
    set search_path = pg_catalog, pg_temp
as $$
    insert into pgqueue.buckets as b (name, tokens, at) values (name, greatest(burst, 1), clock_timestamp())
    on conflict on constraint buckets_pkey do update
       set tokens = least(greatest(burst, 1, case when b.waiting then rate end),
                          b.tokens + rate * extract(epoch from clock_timestamp() - greatest(least(b.at, clock_timestamp()), timestamptz 'epoch'))),
           at = clock_timestamp()
    returning tokens
$$;
comment on function pgqueue.tokens is
    'Jobs that a rate lets start now, as a fraction, growing by rate a second: at most burst, or those of a second while jobs wait';

create function pgqueue.any_due(queue text, besides bigint[]) returns boolean
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    with recursive lane(priority) as (
        (select j.priority from pgqueue.jobs j
          where j.status = 'pending' and j.queue = any_due.queue order by j.priority desc limit 1)
        union all
        select (select j.priority from pgqueue.jobs j
                 where j.status = 'pending' and j.queue = any_due.queue and j.priority < l.priority
                 order by j.priority desc limit 1)
          from lane l where l.priority is not null
    )
    select exists (
        select from lane l
         where exists (select from pgqueue.jobs j
                        where j.status = 'pending' and j.queue = any_due.queue and j.priority = l.priority
                          and j.run_at <= now() and j.id <> all (besides)))
$$;
comment on function pgqueue.any_due is 'Whether jobs of a queue are due, besides these';

-- Whose turn it is. Only claims of the queue read and write it, so that nobody else goes over its old versions.
create table pgqueue.turns (
    queue  text primary key,
    key    text not null default '',
    used   integer not null default 0,
    claims integer not null default 0
) with (fillfactor = 50);
comment on table pgqueue.turns is 'Where the turns of the keys of a queue go on';
comment on column pgqueue.turns.key is 'The key that had the last turn';
comment on column pgqueue.turns.used is 'How many jobs of this turn it has had, when more are left; 0: the next key is next';
comment on column pgqueue.turns.claims is 'Claims that found jobs: each sixteenth begins with the lowest priority';

create function pgqueue.lowest_due(queue text, key text) returns smallint
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    with recursive keyed(priority) as (
        (select j.priority from pgqueue.jobs j
          where j.limit_key is not null and j.queue = lowest_due.queue
            and (case when j.status = 'pending' then j.limit_key end) = lowest_due.key
          order by j.priority limit 1)
        union all
        select (select j.priority from pgqueue.jobs j
                 where j.limit_key is not null and j.queue = lowest_due.queue
                   and (case when j.status = 'pending' then j.limit_key end) = lowest_due.key and j.priority > k.priority
                 order by j.priority limit 1)
          from keyed k where k.priority is not null
    ), plain(priority) as (
        (select j.priority from pgqueue.jobs j
          where lowest_due.key is null and j.status = 'pending' and j.queue = lowest_due.queue order by j.priority limit 1)
        union all
        select (select j.priority from pgqueue.jobs j
                 where j.status = 'pending' and j.queue = lowest_due.queue and j.priority > p.priority
                 order by j.priority limit 1)
          from plain p where p.priority is not null
    )
    (select k.priority from keyed k
      where exists (select from pgqueue.jobs j
                     where j.limit_key is not null and j.queue = lowest_due.queue
                       and (case when j.status = 'pending' then j.limit_key end) = lowest_due.key
                       and j.priority = k.priority and j.run_at <= now())
      limit 1)
    union all
    (select p.priority from plain p
      where exists (select from pgqueue.jobs j
                     where j.status = 'pending' and j.queue = lowest_due.queue and j.priority = p.priority
                       and j.limit_key is null and j.run_at <= now())
      limit 1)
$$;
comment on function pgqueue.lowest_due is
    'The lowest priority of which a job of a key is due, or of a queue''s jobs without one; null if none is';

-- One claim of a queue at a time, and each statement after the lock has a snapshot of its own, so the
-- counts see every claim before this one: in one statement with the lock they would be older than it.
create function pgqueue.claim_limited(
    of_queue text, most integer, claim_id uuid, worker_id uuid, lease float8,
    suspects boolean default false, only_tasks text[] default null, among bigint[] default null,
    not_ids bigint[] default '{}', only_ids bigint[] default null, just_look boolean default false
)
    returns table (wait float8, id bigint, task text, args text, priority smallint, attempt integer,
                   max_retries integer, crashes integer, run_at timestamptz)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan set lock_timeout = '50ms'
as $$
#variable_conflict use_column
declare
    here pgqueue.queues;
    head record;
    busy jsonb;
    there float8;
    allowed integer;
    room integer := most;
    visited integer := 0;
    around boolean := false;
    whole boolean := false;
    begun_at text;
    begun_with integer;
    lowest boolean;
    at_key text;
    next_key text;
    keys text[] := '{}';
    allows integer[] := '{}';
    weights integer[] := '{}';
    lows smallint[] := '{}';
    firsts bigint[] := '{}';
    buckets text[] := '{}';
    rates float8[] := '{}';
    chosen bigint[];
    of_key integer[];
    turn integer[];
    used integer[];
    turns integer;
    plain bigint[] := '{}';
    had integer;
begin
    if not exists (select from pgqueue.queues q where q.name = of_queue) then
        begin
            insert into pgqueue.queues (name) values (of_queue) on conflict do nothing;
        exception when lock_not_available then
            null; -- another transaction inserts it, and is open
        end;
    end if;
    select q.* into here from pgqueue.queues q where q.name = of_queue for no key update of q skip locked;
    if here.name is null or here.paused_at is not null
       or exists (select from pgqueue.queues q where q.name = '*' and q.paused_at is not null) then
        -- Another is claiming from it, and may leave some: a moment later it is this one's turn.
        return query select case when here.name is null then 0.02::float8 end, null::bigint, null::text, null::text, null::smallint,
                            null::integer, null::integer, null::integer, null::timestamptz;
        return;
    end if;
    select coalesce(jsonb_object_agg(r.key, r.n), '{}'), least(room, here.max_running - coalesce(sum(r.n), 0)::integer)
      into busy, room
      from (select coalesce(j.limit_key, pgqueue.key_of(j.task, pgqueue.own_key(j.task, j.args)), '') as key, count(*)::integer as n
              from pgqueue.jobs j
             where j.worker_id is not null and j.queue = of_queue and (among is null or j.id = any (among)) group by 1) r;
    if here.rate is not null then
        there := pgqueue.tokens(of_queue, here.rate, here.burst);
        buckets := array[of_queue];
        rates := array[here.rate];
        room := least(room, floor(least(there, 1e9) + 1e-9)::integer);
    end if;
    select t.key, t.used, t.claims % 16 = 15 into begun_at, begun_with, lowest from pgqueue.turns t where t.queue = of_queue;
    begun_at := coalesce(begun_at, '');
    begun_with := coalesce(begun_with, 0);
    lowest := coalesce(lowest, false);
    at_key := begun_at;
    while room > 0 and visited < 500 and cardinality(keys) < room loop
        if suspects then
            select min(j.limit_key) into next_key from pgqueue.jobs j
             where (case when j.status = 'pending' then j.quarantine end) is not null and j.queue = of_queue
               and (j.limit_key > at_key or visited = 0 and begun_with > 0 and j.limit_key = begun_at)
               and (among is null or j.id = any (among));
        else
            next_key := null;
            if visited = 0 and begun_with > 0 and not around then
                select (case when j.status = 'pending' then j.limit_key end) into next_key from pgqueue.jobs j
                 where j.limit_key is not null and j.queue = of_queue and (case when j.status = 'pending' then j.limit_key end) = begun_at
                   and (among is null or j.id = any (among))
                 limit 1;
            end if;
            if next_key is null then
                select (case when j.status = 'pending' then j.limit_key end) into next_key from pgqueue.jobs j
                 where j.limit_key is not null and j.queue = of_queue and (case when j.status = 'pending' then j.limit_key end) > at_key
                   and (among is null or j.id = any (among))
                 order by (case when j.status = 'pending' then j.limit_key end) limit 1;
            end if;
        end if;
        if next_key is null or around and next_key >= begun_at and (begun_with > 0 or next_key > begun_at) then
            if around then
                whole := true;
                exit;
            end if;
            around := true;
            at_key := '';
            continue;
        end if;
        at_key := next_key;
        visited := visited + 1;
        select j.id, j.task, t.max_running, t.rate, t.burst, t.ordered, t.paused_at,
               greatest(coalesce((t.weights ->> substr(j.limit_key, strpos(j.limit_key, ':') + 1))::numeric::integer, 1), 1) as weight
          into head
          from pgqueue.jobs j left join pgqueue.tasks t on t.name = j.task
         where j.limit_key is not null and j.queue = of_queue and (case when j.status = 'pending' then j.limit_key end) = at_key
           and j.run_at <= now() and (among is null or j.id = any (among))
         order by j.priority desc, j.run_at, j.id limit 1;
        continue when head.id is null or head.paused_at is not null or head.task <> all (only_tasks);
        if visited = 1 and at_key = begun_at and begun_with >= head.weight then
            begun_with := 0; -- its weight is less than when its turn began: that is over, and it comes last
            continue;
        end if;
        allowed := least(room, head.max_running - coalesce((busy ->> at_key)::integer, 0));
        if head.rate is not null then
            there := pgqueue.tokens(of_queue || '/' || at_key, head.rate, head.burst);
            allowed := least(allowed, floor(least(there, 1e9) + 1e-9)::integer);
            buckets := buckets || (of_queue || '/' || at_key);
            rates := rates || head.rate;
        end if;
        continue when allowed <= 0;
        if head.ordered is null then
            keys := keys || at_key;
            allows := allows || allowed;
            weights := weights || head.weight;
            firsts := firsts || null::bigint;
            lows := lows || case when lowest then pgqueue.lowest_due(of_queue, at_key) end;
        elsif not busy ? at_key then
            select j.id, j.run_at <= now() and suspects = (j.quarantine is not null)
                   and (j.left_by is null or j.left_until <= now() or claim_limited.worker_id <> all (j.left_by)) and j.id <> all (not_ids) as fits
              into head from pgqueue.jobs j
             where j.queue = of_queue and (case when j.status = 'pending' then j.limit_key || '' end) = at_key
               and j.limit_key is not null and (case when j.status = 'pending' then j.limit_key end) is not null
               and (head.ordered = 'strict' or j.run_at <= now() and j.id <> all (not_ids))
               and (j.expires_at is null or j.expires_at > now()) and (among is null or j.id = any (among))
             order by j.id limit 1;
            if head.fits then
                keys := keys || at_key;
                allows := allows || 0;
                weights := weights || 1;
                firsts := firsts || head.id;
                lows := lows || null::smallint;
            end if;
        end if;
    end loop;
    if begun_with > 0 and keys[1] is distinct from begun_at then
        begun_with := 0;
    end if;
    -- A turn is as many jobs of a key as its weight; the first key may have had a part of its turn before. At first twice
    -- as many turns as fill the room if all have enough for them; if they have not, as many as it takes.
    turns := 2 * room / greatest((select sum(w) from unnest(weights) as w), 1) + 1;
    for try in 1 .. 2 loop
        select array_agg(c.id order by c.turn, c.n, c.nth), array_agg(c.n order by c.turn, c.n, c.nth),
               array_agg(c.turn order by c.turn, c.n, c.nth), array_agg(c.used order by c.turn, c.n, c.nth)
          into chosen, of_key, turn, used
          from (select found.id, k.n::integer as n, found.nth,
                       ((found.nth - 1 + case when k.n = 1 then begun_with else 0 end) / k.weight)::integer as turn,
                       ((found.nth - 1 + case when k.n = 1 then begun_with else 0 end) % k.weight + 1)::integer as used
                  from unnest(keys, allows, weights, lows, firsts) with ordinality as k(key, allowed, weight, low, first, n)
                 cross join lateral (
                     select x.id, row_number() over (order by x.priority is distinct from k.low, x.priority desc, x.run_at, x.id) as nth
                       from ((select j.id, j.priority, j.run_at from pgqueue.jobs j
                               where j.limit_key is not null and j.queue = of_queue and (case when j.status = 'pending' then j.limit_key end) = k.key
                                 and j.run_at <= now() and suspects = (j.quarantine is not null)
                                 and (j.expires_at is null or j.expires_at > now()) and (among is null or j.id = any (among))
                                 and (j.left_by is null or j.left_until <= now() or claim_limited.worker_id <> all (j.left_by)) and j.id <> all (not_ids)
                               order by j.priority desc, j.run_at, j.id
                               limit least(k.allowed, case when try = 1 then k.weight * turns else room end))
                             union
                             (select j.id, j.priority, j.run_at from pgqueue.jobs j
                               where j.limit_key is not null and j.queue = of_queue and (case when j.status = 'pending' then j.limit_key end) = k.key
                                 and j.priority = k.low and j.run_at <= now() and suspects = (j.quarantine is not null)
                                 and (j.expires_at is null or j.expires_at > now()) and (among is null or j.id = any (among))
                                 and (j.left_by is null or j.left_until <= now() or claim_limited.worker_id <> all (j.left_by)) and j.id <> all (not_ids)
                               order by j.run_at, j.id
                               limit k.weight)) x
                     union all
                     select k.first, 1 where k.first is not null) found
                 where found.nth <= greatest(k.allowed, 1)) c;
        exit when turn[room] < turns
                  or not exists (select from unnest(of_key) as o(n) group by o.n
                                 having count(*) >= weights[o.n] * turns and count(*) < least(allows[o.n], room));
    end loop;
    chosen := coalesce(chosen, '{}');
    if here.max_running is not null or here.rate is not null then
        -- Those without a key are nobody's but ours; half of the time they come first.
        plain := array(
            select x.id
              from ((select j.id, j.priority, j.run_at from pgqueue.jobs j
                      where j.status = 'pending' and j.queue = of_queue and j.limit_key is null and j.run_at <= now()
                        and suspects = (j.quarantine is not null)
                        and (j.expires_at is null or j.expires_at > now()) and (among is null or j.id = any (among))
                        and (j.left_by is null or j.left_until <= now() or claim_limited.worker_id <> all (j.left_by)) and j.id <> all (not_ids)
                        and (only_tasks is null or j.task = any (only_tasks))
                        and j.task <> all (array(select t.name from pgqueue.tasks t where t.paused_at is not null or t.keyed))
                      order by j.priority desc, j.run_at, j.id
                      limit greatest(room, 0))
                    union
                    (select j.id, j.priority, j.run_at from pgqueue.jobs j
                      where j.status = 'pending' and j.queue = of_queue and j.limit_key is null and j.run_at <= now()
                        and j.priority = (select pgqueue.lowest_due(of_queue, null) where lowest and room > 0)
                        and suspects = (j.quarantine is not null)
                        and (j.expires_at is null or j.expires_at > now()) and (among is null or j.id = any (among))
                        and (j.left_by is null or j.left_until <= now() or claim_limited.worker_id <> all (j.left_by)) and j.id <> all (not_ids)
                        and (only_tasks is null or j.task = any (only_tasks))
                        and j.task <> all (array(select t.name from pgqueue.tasks t where t.paused_at is not null or t.keyed))
                      order by j.run_at, j.id
                      limit 1)) x
             order by lowest and x.priority > min(x.priority) over (), x.priority desc, x.run_at, x.id
             limit greatest(room, 0));
    end if;
    had := least(cardinality(chosen), greatest(room, 0));
    if cardinality(plain) > 0 and random() < 0.5 then
        had := least(had, greatest(room - cardinality(plain), 0));
        chosen := plain || chosen;
    else
        chosen := chosen || plain;
    end if;
    chosen := chosen[1:greatest(room, 0)];
    if not suspects and only_ids is null and not just_look and (cardinality(chosen) > 0 or visited >= 500) then
        insert into pgqueue.turns as t (queue, key, used, claims)
        select of_queue, p.key, p.used, 1
          from (select case when had > 0 and (whole or turn[had] = 0) then keys[of_key[had]]
                            when had > 0 or visited >= 500 then at_key else begun_at end as key,
                       case when had > 0 and (whole or turn[had] = 0) and used[had] < weights[of_key[had]] then used[had]
                            when had > 0 or visited >= 500 then 0 else begun_with end as used) p
        on conflict on constraint turns_pkey do update
           set key = excluded.key, used = excluded.used, claims = t.claims + case when cardinality(chosen) > 0 then 1 else 0 end;
    end if;
    if only_ids is not null then
        chosen := array(select c.id from unnest(chosen) with ordinality as c(id, nth) where c.id = any (only_ids) order by c.nth);
    end if;
    if suspects then
        -- No more than the first may have beside it, and only those that may have as many.
        select array_agg(s.id order by s.nth), min(s.n) into chosen, room
          from (select j.id, first_value(j.quarantine) over (order by c.nth) as n, j.quarantine, c.nth
                  from unnest(chosen) with ordinality as c(id, nth)
                  join pgqueue.jobs j on j.id = c.id) s
         where s.quarantine >= s.n;
    end if;
    if just_look then
        return query select null::float8, j.id, j.task, null::text, null::smallint, null::integer, null::integer,
                            null::integer, null::timestamptz
                       from pgqueue.jobs j where j.id = any (chosen[1:greatest(room, 0)]) and j.status = 'pending';
        return;
    end if;
    return query
    with pick as materialized (
        select j.id from pgqueue.jobs j
         where j.id = any (chosen[1:greatest(room, 0)]) and j.status = 'pending'
         order by j.id
         for no key update of j skip locked
    ), taken as (
        update pgqueue.jobs j
           set quarantine = case when suspects then (select count(*) from pick) end, status = 'running', attempt = least(j.attempt, 2147483646) + 1, claim_id = claim_limited.claim_id,
               worker_id = claim_limited.worker_id, claimed_at = clock_timestamp(),
               lease_expires_at = clock_timestamp() + make_interval(secs => lease)
          from pick
         where j.id = pick.id
        returning j.*
    ), costs as materialized (
        select u.name, u.rate, coalesce(t.n, 0) as n
          from unnest(buckets, rates) as u(name, rate)
          left join (select of_queue as name, count(*) as n from taken
                     union all
                     select of_queue || '/' || k.limit_key, count(*) from taken k where k.limit_key is not null group by 1) t
            on t.name = u.name
    ), spent as (
        update pgqueue.buckets b
           set tokens = b.tokens - c.n,
               waiting = case when b.name = of_queue then pgqueue.any_due(of_queue, chosen[1:greatest(room, 0)] || not_ids)
                              else exists (select from pgqueue.jobs j
                                            where j.limit_key is not null and j.queue = of_queue
                                              and (case when j.status = 'pending' then j.limit_key end)
                                                  = substr(b.name, length(of_queue) + 2)
                                              and j.run_at <= now() and j.id <> all (chosen[1:greatest(room, 0)] || not_ids)) end
          from costs c
         where b.name = c.name
        returning case when b.waiting and b.tokens < 1 then (1 - b.tokens) / c.rate end as until
    )
    select (select min(s.until) from spent s), null::bigint, null::text, null::text, null::smallint, null::integer, null::integer,
           null::integer, null::timestamptz
    union all
    (select null, t.id, t.task, left(t.args::text, 2097153), t.priority, t.attempt, t.max_retries, t.crashes,
            greatest(t.run_at, timestamptz 'epoch')
       from taken t
      order by array_position(chosen, t.id));
end $$;
comment on function pgqueue.claim_limited is
    'Claim due jobs of a queue under its limits and those of its keys, key by key in turn from one on';

-- Schedules.
-- Firing copies a row into jobs, many in one statement: so its constraints are those of jobs.
create table pgqueue.schedules (
    name           text primary key constraint schedules_name check (length(name) between 1 and 200),
    expression     text        not null constraint schedules_expression check (length(expression) between 1 and 200),
    tz             text        not null default 'UTC' constraint schedules_tz check (length(tz) between 1 and 100),
    task           text        not null constraint schedules_task check (length(task) between 1 and 200),
    args           jsonb       not null default '{}',
    queue          text        not null default 'default'
        constraint schedules_queue check (queue ~ '^[A-Za-z0-9_.:-]{1,64}$'),
    priority       smallint,
    max_retries    integer,
    backoff        jsonb,
    expires        interval constraint schedules_expires check (expires between interval '0' and interval '365 days'),
    catch_up       text        not null default 'latest'
        constraint schedules_catch_up check (catch_up in ('none', 'latest', 'all')),
    overlap        text        not null default 'allow' constraint schedules_overlap check (overlap in ('allow', 'skip')),
    paused_at      timestamptz,
    pause_reason   text constraint schedules_pause_reason check (pause_reason in ('hand', 'undeclared')),
    undeclared_at  timestamptz,
    kept           boolean     not null default false,
    last_tick      timestamptz not null default clock_timestamp(),
    next_tick      timestamptz not null default '-infinity',
    error          text,
    recent_job_ids bigint[]    not null default '{}',
    skipped        bigint      not null default 0,
    source         text        not null default 'hand' constraint schedules_source check (source in ('hand', 'code')),
    declaration    text,
    declarations   text[]      not null default '{}',
    missing_at     timestamptz,
    synced         boolean     not null default false,
    declared_at    timestamptz,
    created_at     timestamptz not null default clock_timestamp(),
    updated_at     timestamptz not null default clock_timestamp()
) with (fillfactor = 70);
comment on table pgqueue.schedules is 'Cron entries; each run is a job';
comment on column pgqueue.schedules.expression is 'Five cron fields, six with seconds first, @daily and the like, or every 30s';
comment on column pgqueue.schedules.tz is 'The time zone of the fields, of the IANA database';
comment on column pgqueue.schedules.priority is 'Of its jobs, as are max_retries, backoff and expires; null: as their task or queue says';
comment on column pgqueue.schedules.catch_up is 'Which ticks that nobody saw are made up for: none, latest, all (100 at most)';
comment on column pgqueue.schedules.overlap is 'While a run waits or is running, of a tick or by hand: allow or skip the next';
comment on column pgqueue.schedules.pause_reason is
    'hand (also null): somebody paused it; undeclared: a worker did, because no live worker declares it, and one that does resumes it';
comment on column pgqueue.schedules.undeclared_at is
    'Since when no live worker declares it, of those that code declared; null: one does, or nobody has looked';
comment on column pgqueue.schedules.kept is
    'It ticks though no live worker declares it: resumed by hand, or written by pgqueue cron sync';
comment on column pgqueue.schedules.last_tick is 'Ticks up to here are dealt with; never goes back, so that no tick gives two jobs';
comment on column pgqueue.schedules.next_tick is 'When a worker looks at it again; -infinity: at once';
comment on column pgqueue.schedules.error is 'Why it does not tick: workers cannot read the expression or time zone';
comment on column pgqueue.schedules.recent_job_ids is 'The latest 50 runs, newest first';
comment on column pgqueue.schedules.skipped is 'Ticks without a job because a run had not ended';
comment on column pgqueue.schedules.source is 'code: declared by an app, which may change it; hand: added or changed at run time';
comment on column pgqueue.schedules.declaration is 'Digest of what the code declares';
comment on column pgqueue.schedules.declarations is
    'Digests of what the code has declared, the latest 50 in the order in which they came: a later one is newer';
comment on column pgqueue.schedules.missing_at is
    'Since when no live worker declares it as it is, nor newer, while one declares what it was before; null: one does, or nobody has looked';
comment on column pgqueue.schedules.synced is 'Written by pgqueue cron sync, and no worker has declared the same since: no older declaration replaces it';
create index schedules_due on pgqueue.schedules (next_tick) where paused_at is null;

create function pgqueue.schedule_changed() returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    -- The new times count from now on: none before is missed. What is no time of ours does not count.
    new.last_tick := greatest(case when old.last_tick = pgqueue.readable(old.last_tick) then old.last_tick end,
                              clock_timestamp());
    new.next_tick := '-infinity';
    new.error := null;
    return new;
end $$;
comment on function pgqueue.schedule_changed is 'Lets workers compute the next tick of a changed schedule';
create trigger changed before update of expression, tz on pgqueue.schedules
    for each row when ((old.expression, old.tz) is distinct from (new.expression, new.tz))
    execute function pgqueue.schedule_changed();

create function pgqueue.add_schedule(
    name text, expression text, task text, args jsonb default '{}', tz text default 'UTC',
    queue text default null, priority integer default null, max_retries integer default null,
    backoff jsonb default null, catch_up text default 'latest', overlap text default 'allow', expires interval default null
) returns text
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    in_queue text := coalesce(add_schedule.queue, (select t.options ->> 'queue' from pgqueue.tasks t where t.name = add_schedule.task), 'default');
    wrong text := case
        when add_schedule.name is null or length(add_schedule.name) not between 1 and 200
                or add_schedule.name ~ '[[:cntrl:]]' then
            'the name of a schedule must be 1 to 200 printable characters'
        when add_schedule.expression is null or length(add_schedule.expression) > 200 or add_schedule.expression !~*
                '^\s*(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|every\s+\S.*|(\S+\s+){4,5}\S+)\s*$' then
            format('schedule %L is not usable: five cron fields, six with seconds first, @daily or every 30s',
                   left(add_schedule.expression, 80))
        when add_schedule.tz is null or add_schedule.tz !~ '^[A-Za-z][A-Za-z0-9_+/-]{1,99}$' then
            format('time zone %L is not usable: one such as Europe/Oslo or UTC', left(add_schedule.tz, 80))
        when add_schedule.task is null or length(add_schedule.task) not between 1 and 200 then
            'task must have 1 to 200 characters'
        when jsonb_typeof(add_schedule.args) is distinct from 'object' then
            'args must be a JSON object with one key per parameter of the task'
        when octet_length(add_schedule.args::text) > 1048576 then
            'args are over 1 MB: store the document and pass its id'
        when add_schedule.queue !~ '^[A-Za-z0-9_.:-]{1,64}$' then
            format('queue %L is not usable: 1 to 64 characters of A-Z a-z 0-9 _ . : -', left(add_schedule.queue, 80))
        when add_schedule.priority not between -32768 and 32767 then
            'priority must be from -32768 to 32767'
        when add_schedule.max_retries not between 0 and 1000 then
            'max_retries must be from 0 to 1000'
        when not pgqueue.is_backoff(add_schedule.backoff) then
            'backoff must be a JSON object of numbers: base, cap, factor, jitter'
        when add_schedule.expires not between interval '0' and interval '365 days' then
            'expires must be from 0 to 365 days'
        when add_schedule.catch_up is null or add_schedule.catch_up not in ('none', 'latest', 'all') then
            'catch_up must be none, latest or all'
        when add_schedule.overlap is null or add_schedule.overlap not in ('allow', 'skip') then
            'overlap must be allow or skip'
    end;
begin
    if wrong is not null then
        raise exception using message = wrong, errcode = '22023';
    end if;
    insert into pgqueue.schedules as s
           (name, expression, tz, task, args, queue, priority, max_retries, backoff, catch_up, overlap, expires)
    values (add_schedule.name, add_schedule.expression, add_schedule.tz, add_schedule.task, add_schedule.args,
            in_queue, add_schedule.priority, add_schedule.max_retries, add_schedule.backoff,
            add_schedule.catch_up, add_schedule.overlap, add_schedule.expires)
    on conflict (name) do update
       set expression = excluded.expression, tz = excluded.tz, task = excluded.task, args = excluded.args,
           queue = excluded.queue, priority = excluded.priority, max_retries = excluded.max_retries,
           backoff = excluded.backoff, catch_up = excluded.catch_up, overlap = excluded.overlap, expires = excluded.expires,
           source = 'hand', updated_at = clock_timestamp(), undeclared_at = null, kept = false,
           paused_at = case when s.pause_reason is distinct from 'undeclared' then s.paused_at end,
           pause_reason = case when s.pause_reason = 'hand' then 'hand' end;
    return add_schedule.name;
end $$;
comment on function pgqueue.add_schedule is
    'Add a schedule, or change the one of this name, which is no longer the code''s then; workers see it within five seconds';

create function pgqueue.remove_schedule(name text) returns boolean
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
    with gone as (delete from pgqueue.schedules s where s.name = remove_schedule.name returning 1)
    select exists (select from gone)
$$;
comment on function pgqueue.remove_schedule is 'Remove a schedule, its runs stay; false if there is none';

create function pgqueue.pause_schedule(name text) returns boolean
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
    with paused as (
        update pgqueue.schedules s set paused_at = coalesce(s.paused_at, clock_timestamp()), pause_reason = 'hand'
         where s.name = pause_schedule.name returning 1)
    select exists (select from paused)
$$;
comment on function pgqueue.pause_schedule is 'Let a schedule give no jobs; false if there is none';

create function pgqueue.resume_schedule(name text) returns boolean
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
    with resumed as (
        update pgqueue.schedules s
           set paused_at = null, pause_reason = null, next_tick = '-infinity',
               kept = s.kept or s.undeclared_at is not null, undeclared_at = null
         where s.name = resume_schedule.name returning 1)
    select exists (select from resumed)
$$;
comment on function pgqueue.resume_schedule is
    'Let a paused schedule tick again, also one that no worker declares; its catch_up decides about the ticks meanwhile; false if there is none';

-- What a schedule does not say, its task or its queue does, as for any other job.
create function pgqueue.scheduled_jobs(
    names text[], out schedule text, out task text, out args jsonb, out queue text, out priority smallint, out max_retries integer,
    out backoff jsonb, out expires interval, out limit_key text
) returns setof record
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select s.name, s.task, s.args, s.queue,
           coalesce(s.priority, (t.options ->> 'priority')::smallint, q.priority, 0::smallint),
           coalesce(s.max_retries, (t.options ->> 'max_retries')::integer, q.max_retries, 10),
           coalesce(s.backoff, t.options -> 'backoff', q.backoff),
           coalesce(s.expires, make_interval(secs => (t.options ->> 'expires')::float8), q.expires),
           case when t.keyed then pgqueue.key_of(s.task, pgqueue.own_key(s.task, s.args)) end
      from pgqueue.schedules s
      left join pgqueue.tasks t on t.name = s.task
      left join pgqueue.queues q on q.name = s.queue
     where s.name = any (scheduled_jobs.names)
$$;
comment on function pgqueue.scheduled_jobs is 'The jobs that schedules give, with what their tasks and queues declare';

create function pgqueue.run_schedule(name text) returns bigint
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    job_id bigint;
    entry pgqueue.schedules;
begin
    select * into entry from pgqueue.schedules s where s.name = run_schedule.name for no key update of s;
    if not found then
        return null;
    end if;
    insert into pgqueue.jobs (task, args, queue, priority, max_retries, backoff, expires_at, limit_key, schedule)
    select s.task, s.args, s.queue, s.priority, s.max_retries, s.backoff, clock_timestamp() + s.expires, s.limit_key, s.schedule
      from pgqueue.scheduled_jobs(array[entry.name]) s
    returning id into job_id;
    update pgqueue.schedules s set recent_job_ids = (job_id || s.recent_job_ids)[1:50] where s.name = entry.name;
    perform pgqueue.notify(entry.queue);
    return job_id;
end $$;
comment on function pgqueue.run_schedule is
    'Enqueue a run now, besides its ticks, also of a paused schedule; returns the job, null if there is none';

-- Workflows: jobs that wait for other jobs.
create table pgqueue.workflows (
    id          bigint generated always as identity primary key,
    name        text not null default '' constraint workflows_name check (length(name) <= 200),
    watched     bigint,
    last_job_id bigint,
    status      text constraint workflows_status check (status in ('succeeded', 'dead', 'cancelled', 'expired')),
    created_at  timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    deadline_at timestamptz,
    expired_at  timestamptz,
    stopped_at  timestamptz,
    stopped_from bigint
) with (fillfactor = 70);
comment on table pgqueue.workflows is 'Jobs that wait for each other';
comment on column pgqueue.workflows.watched is 'A job of it that has not ended, as far as was looked';
comment on column pgqueue.workflows.last_job_id is 'The last of the jobs that it was enqueued with; later ones were added by its jobs';
comment on column pgqueue.workflows.status is 'Null until all its jobs have ended; then the worst of their ends, or expired';
comment on column pgqueue.workflows.deadline_at is 'When its jobs that have not ended are cancelled, or asked to stop; null: never';
comment on column pgqueue.workflows.expired_at is 'When its deadline first cancelled, or stopped, a job of it';
comment on column pgqueue.workflows.stopped_at is 'When none was left to cancel or to stop';
comment on column pgqueue.workflows.stopped_from is 'Its jobs from here on are dealt with, in the first round through them';
create index workflows_deadline on pgqueue.workflows (deadline_at)
    where deadline_at is not null and stopped_at is null and finished_at is null;
create index workflows_watched on pgqueue.workflows (watched) where watched is not null;
create index workflows_finished on pgqueue.workflows (status, finished_at) where finished_at is not null;

create table pgqueue.workflow_jobs (
    job_id      bigint primary key,
    workflow_id bigint not null,
    name        text,
    if_failed   text not null default 'cancel'
        constraint workflow_jobs_if_failed check (if_failed in ('cancel', 'continue', 'hold', 'only')),
    delay       interval,
    watched     bigint,
    stays       text
        constraint workflow_jobs_stays check (stays in ('succeeded', 'skipped'))
) with (fillfactor = 70);
comment on table pgqueue.workflow_jobs is 'The jobs of workflows';
comment on column pgqueue.workflow_jobs.stays is
    'What it counts as for good, whatever its row says: skipped, it was not needed and is cancelled, which is no failure; succeeded, its row was cleared after it had succeeded';
comment on column pgqueue.workflow_jobs.if_failed is
    'When a job it waits for ends dead or cancelled: cancel it, continue as if it had not, hold it until that one succeeds; only: run it only then';
comment on column pgqueue.workflow_jobs.delay is 'Wait so long after all it waits for has ended';
-- One parent is watched, as a clause watches a literal in a SAT solver (https://doi.org/10.1145/378239.379017):
-- so the end of a job costs nothing for those that wait for others as well, and there is no counter, so no hot row.
comment on column pgqueue.workflow_jobs.watched is 'One job that it waits for, the next is looked for when that has ended; null once it waits for none';
create index workflow_jobs_of on pgqueue.workflow_jobs (workflow_id, job_id);
create unique index workflow_jobs_name on pgqueue.workflow_jobs (workflow_id, name) where name is not null;
create index workflow_jobs_watched on pgqueue.workflow_jobs (watched) where watched is not null;

create table pgqueue.dependencies (
    job_id    bigint not null,
    parent_id bigint not null,
    primary key (job_id, parent_id)
);
comment on table pgqueue.dependencies is 'Which job of a workflow waits for which';
create index dependencies_parent on pgqueue.dependencies (parent_id);

-- Of the jobs of a workflow that exist: only those of this workflow are waited for.
create function pgqueue.named_members(of_workflow bigint, names text[]) returns bigint[]
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select array(select m.job_id from pgqueue.workflow_jobs m
                  where of_workflow is not null and names <> '{}' and m.workflow_id = of_workflow and m.name = any (names)
                  order by m.job_id)
$$;
comment on function pgqueue.named_members is 'The jobs of a workflow that have these names';

create function pgqueue.put_members(into_workflow bigint, by_job bigint, jobs jsonb, name text, notify boolean, deadline timestamptz)
    returns table (workflow_id bigint, ordinal bigint, job_id bigint)
    language plpgsql volatile
    set search_path = pg_catalog, pg_temp
    set enable_hashjoin = on set enable_seqscan = on set jit = off
as $$
#variable_conflict use_column
declare
    n bigint;
    ids bigint[];
    wrong text;
    new_id bigint := into_workflow;
    by_schedule text;
    by_tick timestamptz;
begin
    jobs := pgqueue.with_defaults(jobs);
    if by_job is not null then
        select j.schedule, j.tick into by_schedule, by_tick from pgqueue.jobs j where j.id = by_job;
    end if;
    n := case when jsonb_typeof(jobs) = 'array' then jsonb_array_length(jobs) end;
    wrong := case
        when coalesce(n, 0) = 0 then 'a workflow needs a JSON array of one job or more'
        when put_members.name is null or length(put_members.name) > 200 then 'the name of a workflow has at most 200 characters'
        when deadline not between timestamptz '1900-01-01 00:00:00+00' and timestamptz '9000-01-01 00:00:00+00' then
            'deadline must be from 1900-01-01 to 9000-01-01, got ' || deadline::text
    end;
    if wrong is null then
        select format('job %s: %s', w.n, w.wrong) into wrong
          from (select g.n, coalesce(
                    pgqueue.wrong_with(g.task, coalesce(g.args, '{}'), coalesce(g.queue, 'default'), coalesce(g.priority, 0),
                                       g.run_at, make_interval(secs => g.delay), coalesce(g.max_retries, 10), g.backoff,
                                       null, 'finished', null, 'ignore', make_interval(secs => g.expires), g.limit_key),
                    case when g.unique_key is not null then 'a job of a workflow cannot be unique'
                         when length(g.name) not between 1 and 200 then 'name must have 1 to 200 characters'
                         when coalesce(g.if_failed, 'cancel') not in ('cancel', 'continue', 'hold', 'only') then
                             format('if_failed must be cancel, continue, hold or only, got %L', g.if_failed)
                         when exists (select from unnest(g.after) a where a is null or a not between 1 and g.n - 1) then
                             'after must name jobs before it, by their places from 1 on: so there are no cycles'
                         when into_workflow is null and coalesce(cardinality(g.after_jobs), 0) + coalesce(cardinality(g.after_names), 0) > 0 then
                             'after_jobs and after_names are for jobs that are added to a workflow: there are none yet'
                         when exists (select from unnest(g.after_jobs) a
                                       where not exists (select from pgqueue.workflow_jobs m
                                                          where m.job_id = a and m.workflow_id = into_workflow)) then
                             format('after_jobs has job %s, which is not in workflow %s',
                                    (select min(a) from unnest(g.after_jobs) a
                                      where not exists (select from pgqueue.workflow_jobs m
                                                         where m.job_id = a and m.workflow_id = into_workflow)), into_workflow)
                         when exists (select from unnest(g.after_names) a
                                       where not exists (select from pgqueue.workflow_jobs m
                                                          where m.workflow_id = into_workflow and m.name = a)) then
                             format('after_names has %L, which is no job of workflow %s',
                                    (select min(a) from unnest(g.after_names) a
                                      where not exists (select from pgqueue.workflow_jobs m
                                                         where m.workflow_id = into_workflow and m.name = a)), into_workflow)
                         when into_workflow is not null and exists (select from pgqueue.workflow_jobs m
                                                                     where m.workflow_id = into_workflow and m.name = g.name) then
                             format('workflow %s has a job named %L already', into_workflow, g.name)
                         when g.if_failed = 'only' and coalesce(cardinality(g.after), 0) = 0
                              and coalesce(cardinality(g.after_jobs), 0) = 0 and coalesce(cardinality(g.after_names), 0) = 0 then
                             'if_failed only needs jobs to wait for, in after: without any it would never run'
                         when g.name is not null and count(*) over (partition by g.name) > 1 then
                             format('two jobs are named %L', g.name)
                    end,
                    case when strpos(g.args::text, '"$result"') > 0 then
                        (select format('it takes the result of %L, which is no job that it waits for: name that one, and its place in after',
                                       min(missing.name))
                           from (select r.value ->> '$result'
                                   from jsonb_path_query(g.args, 'strict $.** ? (@.type() == "object")') r(value)
                                  where jsonb_typeof(r.value -> '$result') = 'string'
                                    and (select count(*) from jsonb_object_keys(r.value)) = 1
                                 except
                                 select jobs -> (a - 1)::integer ->> 'name' from unnest(g.after) a
                                 except
                                 select a from unnest(g.after_names) a
                                 except
                                 select m.name from pgqueue.workflow_jobs m where m.job_id = any (g.after_jobs)) missing(name)
                         having count(*) > 0) end) as wrong
                  from (select e.ordinality as n, r.*
                          from jsonb_array_elements(jobs) with ordinality as e(job, ordinality)
                         cross join lateral jsonb_to_record(e.job) as r(
                               task text, args jsonb, queue text, priority integer, max_retries integer, backoff jsonb,
                               run_at timestamptz, delay float8, expires float8, limit_key text, unique_key text,
                               name text, if_failed text, after bigint[], after_jobs bigint[], after_names text[])) g) w
         where w.wrong is not null order by w.n limit 1;
    end if;
    if wrong is not null then
        raise exception using message = wrong, errcode = case when into_workflow is null then '22023' else 'PQ006' end;
    end if;
    ids := array(select nextval('pgqueue.jobs_id_seq') from generate_series(1, n));
    if into_workflow is null then
        insert into pgqueue.workflows (name, watched, last_job_id, deadline_at)
        values (put_members.name, ids[n], ids[n], deadline) returning id into new_id;
    end if;
    with given as materialized (
        select e.ordinality as n, ids[e.ordinality] as id, r.*,
               coalesce(cardinality(r.after), 0) + coalesce(cardinality(r.after_jobs), 0) + coalesce(cardinality(r.after_names), 0) > 0
                   as waits,
               case when into_workflow is not null then
                   array_cat(coalesce(r.after_jobs, '{}'), pgqueue.named_members(into_workflow, coalesce(r.after_names, '{}'))) end as members
          from jsonb_array_elements(jobs) with ordinality as e(job, ordinality)
         cross join lateral jsonb_to_record(e.job) as r(
               task text, args jsonb, queue text, priority integer, max_retries integer, backoff jsonb,
               run_at timestamptz, delay float8, expires float8, limit_key text, name text, if_failed text, after bigint[],
               after_jobs bigint[], after_names text[])
    ), added as (
        insert into pgqueue.jobs (id, task, args, queue, priority, max_retries, backoff, run_at, expires_at, limit_key,
                                  workflow_id, schedule, tick, status)
        overriding system value
        select g.id, g.task, coalesce(g.args, '{}'), coalesce(g.queue, 'default'), coalesce(g.priority, 0),
               coalesce(g.max_retries, 10), g.backoff, t.run_at, t.run_at + make_interval(secs => g.expires),
               pgqueue.key_of(g.task, g.limit_key), new_id, by_schedule, by_tick, case when g.waits then 'blocked' else 'pending' end
          from given g
         cross join lateral (select coalesce(g.run_at, clock_timestamp() + make_interval(secs => coalesce(g.delay, 0)))) t(run_at)
        returning queue, status, run_at
    ), edges as (
        insert into pgqueue.dependencies (job_id, parent_id)
        select distinct g.id, ids[a] from given g cross join unnest(g.after) a
        union
        select g.id, a from given g cross join unnest(g.members) a
    ), members as (
        insert into pgqueue.workflow_jobs (job_id, workflow_id, name, if_failed, delay, watched)
        select g.id, new_id, g.name, coalesce(g.if_failed, 'cancel'),
               case when g.waits and g.run_at is null then make_interval(secs => g.delay) end,
               case when g.waits then coalesce(ids[(select max(a) from unnest(g.after) a)], (select max(a) from unnest(g.members) a)) end
          from given g
    )
    select count(pgqueue.notify(q.queue)) into n
      from (select distinct a.queue from added a
             where notify and a.status = 'pending' and a.run_at <= clock_timestamp()) q;
    return query select new_id, i.ordinality, i.id from unnest(ids) with ordinality as i(id, ordinality);
end $$;
comment on function pgqueue.put_members is 'Inserts jobs that wait for each other, into a new workflow or one that is running';

create function pgqueue.enqueue_workflow(
    jobs jsonb, name text default '', notify boolean default true, deadline timestamptz default null
)
    returns table (workflow_id bigint, ordinal bigint, job_id bigint)
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$ select p.workflow_id, p.ordinal, p.job_id from pgqueue.put_members(null, null, jobs, name, notify, deadline) p $$;
comment on function pgqueue.enqueue_workflow is
    'Enqueue jobs that wait for each other, all or none: each with after, the places of jobs before it in the list, from 1 on; if_failed; name. Past the deadline what has not ended is cancelled';

-- Its job runs, and stays locked to the end of the transaction: so the workflow does not end before, and who cancels it waits,
-- and then sees what was added.
create function pgqueue.add_to_workflow(job_id bigint, claim_id uuid, jobs jsonb, notify boolean default true)
    returns table (workflow_id bigint, ordinal bigint, added_id bigint)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    adder pgqueue.jobs;
    ids bigint[];
    look bigint[];
begin
    perform pgqueue.check_claim(add_to_workflow.job_id, add_to_workflow.claim_id);
    select j.* into adder from pgqueue.jobs j where j.id = add_to_workflow.job_id;
    if adder.workflow_id is null then
        raise exception 'job % is in no workflow: enqueue one of its own', adder.id using errcode = 'PQ006';
    end if;
    if adder.cancel_requested then
        raise exception 'job % is cancelled, so it adds no jobs to workflow %', adder.id, adder.workflow_id using errcode = 'PQ005';
    end if;
    ids := array(select p.job_id from pgqueue.put_members(adder.workflow_id, adder.id, jobs, '', notify, null) p order by p.ordinal);
    -- What they wait for may have ended already. Of what ends at this moment a worker tells, or finds it within some seconds.
    look := array(select distinct d.parent_id from pgqueue.dependencies d left join pgqueue.jobs j on j.id = d.parent_id
                   where d.job_id = any (ids) and d.parent_id <> all (ids)
                     and (j.id is null or j.status in ('succeeded', 'dead', 'cancelled')));
    while cardinality(look) > 0 loop
        select s.again into look from pgqueue.settle(look, only_jobs => ids) s;
    end loop;
    return query select adder.workflow_id, i.ordinality, i.id from unnest(ids) with ordinality as i(id, ordinality);
end $$;
comment on function pgqueue.add_to_workflow is
    'Adds jobs to the workflow of a running job, all or none, in the caller''s transaction: each with after, places in the list; after_jobs, ids, and after_names of jobs of the workflow; if_failed; name. Raises PQ001 when the claim is lost, PQ005 when it is cancelled';

create function pgqueue.worst(of_workflow bigint) returns text
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    -- One that is gone counts as cancelled.
    select case when bool_or(j.status = 'dead') then 'dead'
                when bool_or(j.id is null or j.status = 'cancelled') then 'cancelled'
                else 'succeeded' end
      from pgqueue.workflow_jobs m
      left join pgqueue.jobs j on j.id = m.job_id
     where m.workflow_id = of_workflow and m.stays is null
$$;

-- The jobs given have ended: those that waited for them go on, or are cancelled. Each call is to be a transaction of
-- its own, and those it returns are to be given to the next: two ends at once see each other in one of the two.
-- What others have locked is passed by, and what it waited for comes back as locked: to be given again a little later.
create function pgqueue.settle(
    ended bigint[], without bigint[] default '{}', only_jobs bigint[] default null,
    out released bigint, out again bigint[], out locked bigint[]
)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off
    set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
    most constant integer := 1000;
    well bigint[];
    skipped bigint[];
    failed bigint[];
    watched_still bigint[];
    more bigint[];
    freed bigint;
begin
    select coalesce(array_agg(e.id) filter (where p.status = 'succeeded' or p.id is null and s.stays = 'succeeded'), '{}'),
           coalesce(array_agg(e.id) filter (where s.stays = 'skipped'), '{}'),
           coalesce(array_agg(e.id) filter (where s.stays is null and (p.id is null or p.status in ('dead', 'cancelled'))), '{}')
      into well, skipped, failed
      from unnest(ended) e(id)
      left join pgqueue.jobs p on p.id = e.id
      left join pgqueue.workflow_jobs s on s.job_id = e.id and (p.id is null or p.status = 'cancelled');
    released := 0;
    again := '{}';
    locked := '{}';
    if failed <> '{}' then
        -- What is being put back fails nobody: a retry has the row of the workflow for itself. Then each is looked at anew.
        with held as materialized (
            select w.id from pgqueue.workflows w
             where w.id in (select m.workflow_id from pgqueue.workflow_jobs m where m.job_id = any (failed))
             for share of w skip locked
        )
        select coalesce(array_agg(f.id) filter (where w.id is null or h.id is not null), '{}'),
               coalesce(array_agg(f.id) filter (where w.id is not null and h.id is null), '{}')
          into failed, locked
          from unnest(failed) f(id)
          left join pgqueue.workflow_jobs m on m.job_id = f.id
          left join pgqueue.workflows w on w.id = m.workflow_id
          left join held h on h.id = w.id;
        failed := array(select f.id from unnest(failed) f(id) left join pgqueue.jobs p on p.id = f.id
                         where p.id is null or p.status in ('dead', 'cancelled'));
        -- Those that are cancelled, or run, for it. One that is gone cannot be retried: so nothing is held for it.
        with touched as materialized (
            select found.*
              from unnest(failed) e(id)
             cross join lateral (
                 select m.job_id, m.if_failed, m.delay
                   from pgqueue.dependencies d
                   join pgqueue.workflow_jobs m on m.job_id = d.job_id
                   join pgqueue.jobs j on j.id = d.job_id
                  where d.parent_id = e.id
                    and (m.if_failed in ('cancel', 'only')
                         or m.if_failed = 'hold' and not exists (select from pgqueue.jobs p where p.id = e.id))
                    and j.status = 'blocked'
                    and j.id not in (select unnest(without)) and (only_jobs is null or j.id = any (only_jobs))
                  limit most
                  for no key update of m, j skip locked) found
             limit most
        ), unwatched as (
            update pgqueue.workflow_jobs m set watched = null from touched t where m.job_id = t.job_id
        ), changed as (
            update pgqueue.jobs j
               set status = case when t.if_failed = 'only' then 'pending' else 'cancelled' end,
                   run_at = greatest(j.run_at, t.due), expires_at = j.expires_at + (greatest(j.run_at, t.due) - j.run_at),
                   finished_at = case when t.if_failed <> 'only' then clock_timestamp() end,
                   last_error = case when t.if_failed <> 'only' then
                       (select format('ParentFailed: job %s is %s', d.parent_id, coalesce(p.status, 'gone'))
                          from pgqueue.dependencies d left join pgqueue.jobs p on p.id = d.parent_id
                         where d.job_id = j.id and (p.id is null or t.if_failed = 'cancel' and p.status in ('dead', 'cancelled'))
                           and not exists (select from pgqueue.workflow_jobs s where s.job_id = d.parent_id and s.stays is not null)
                         limit 1) end
              from (select t.job_id, t.if_failed, clock_timestamp() + coalesce(t.delay, interval '0') as due from touched t offset 0) t
             where j.id = t.job_id and j.status = 'blocked'
            returning j.id, j.queue, j.status
        ), woken as (
            select count(pgqueue.notify(q.queue)) as n
              from (select distinct c.queue from changed c where c.status = 'pending') q
        )
        select count(*) filter (where c.status = 'pending'),
               coalesce(array_agg(c.id) filter (where c.status = 'cancelled'), '{}')
               || case when (select count(*) from touched) = most then ended else '{}' end
          into released, again
          from woken left join changed c on true;
        select locked || coalesce(array_agg(e.id), '{}') into locked
          from unnest(failed) e(id)
         where exists (select from pgqueue.dependencies d
                         join pgqueue.workflow_jobs m on m.job_id = d.job_id
                         join pgqueue.jobs j on j.id = d.job_id
                        where d.parent_id = e.id
                          and (m.if_failed in ('cancel', 'only')
                               or m.if_failed = 'hold' and not exists (select from pgqueue.jobs p where p.id = e.id))
                          and j.status = 'blocked' and j.id not in (select unnest(without)));
    end if;
    -- Those that watched one of the ended look for the next that holds them.
    with watching as materialized (
        select found.*
          from (select w as id, 'succeeded' as as_what from unnest(well) w
                union all select s, 'skipped' from unnest(skipped) s
                union all select f, 'failed' from unnest(failed) f) e
         cross join lateral (
             select m.job_id, m.watched, m.if_failed, m.delay, e.as_what
               from pgqueue.workflow_jobs m
               join pgqueue.jobs j on j.id = m.job_id
              where m.watched = e.id and (e.as_what <> 'failed' or m.if_failed = 'continue') and j.status = 'blocked'
                and j.id not in (select unnest(without)) and (only_jobs is null or j.id = any (only_jobs))
              limit most
              for no key update of m, j skip locked) found
         limit most
    ), passed as materialized (
        select w.job_id, w.if_failed, clock_timestamp() + coalesce(w.delay, interval '0') as due, held.parent_id as next,
               -- Nothing failed that it was for; or all that it waits for was skipped, and so it is, too.
               held.parent_id is null
                   and (w.if_failed = 'only'
                        or w.if_failed <> 'continue' and w.as_what = 'skipped' and not exists (
                            select from pgqueue.dependencies d
                             where d.job_id = w.job_id and d.parent_id <> w.watched
                               and not exists (select from pgqueue.workflow_jobs s where s.job_id = d.parent_id and s.stays = 'skipped'))
                       ) as skipped
          from watching w
          left join lateral (
              select d.parent_id from pgqueue.dependencies d
                left join pgqueue.jobs o on o.id = d.parent_id
               where d.job_id = w.job_id and d.parent_id < w.watched
                 and (o.status in ('blocked', 'pending', 'running')
                      or (o.id is null or o.status in ('dead', 'cancelled')) and w.if_failed <> 'continue'
                         and not exists (select from pgqueue.workflow_jobs s where s.job_id = d.parent_id and s.stays is not null))
               order by d.parent_id desc
               limit 1) held on true
    ), moved as (
        update pgqueue.workflow_jobs m set watched = p.next, stays = case when p.skipped then 'skipped' end
          from passed p
         where m.job_id = p.job_id
    ), changed as (
        update pgqueue.jobs j
           set status = case when p.skipped then 'cancelled' else 'pending' end,
               run_at = greatest(j.run_at, p.due), expires_at = j.expires_at + (greatest(j.run_at, p.due) - j.run_at),
               finished_at = case when p.skipped then clock_timestamp() end,
               last_error = case when p.skipped then
                   'NotNeeded: ' || case p.if_failed when 'only' then 'nothing failed' else 'what it waits for was not needed' end end
          from passed p
         where p.next is null and j.id = p.job_id and j.status = 'blocked'
        returning j.id, j.queue, j.status
    ), woken as (
        select count(pgqueue.notify(q.queue)) as n
          from (select distinct c.queue from changed c where c.status = 'pending') q
    )
    select count(*) filter (where c.status = 'pending'),
           coalesce(array_agg(c.id) filter (where c.status = 'cancelled'), '{}')
           || array(select distinct p.next from passed p where p.next is not null)
           || case when (select count(*) from watching) = most then ended else '{}' end
      into freed, more
      from woken left join changed c on true;
    released := released + freed;
    again := again || more;
    select array_agg(e.id) into watched_still
      from unnest(well || skipped || failed) e(id) where exists (select from pgqueue.workflow_jobs m where m.watched = e.id);
    if watched_still is not null then
        -- Who was cancelled meanwhile watches nobody any more.
        with over as materialized (
            select x.job_id from pgqueue.workflow_jobs x
             where x.watched = any (watched_still)
               and not exists (select from pgqueue.jobs j where j.id = x.job_id and j.status = 'blocked')
             limit most
             for no key update of x skip locked
        ), unwatched as (
            update pgqueue.workflow_jobs m set watched = null from over o where m.job_id = o.job_id
        )
        select again || case when count(*) = most then watched_still else '{}' end into again from over;
        select locked || coalesce(array_agg(e.id), '{}') into locked
          from unnest(watched_still) e(id)
         where exists (select from pgqueue.workflow_jobs m
                        where m.watched = e.id and (m.if_failed = 'continue' or e.id = any (well || skipped))
                          and m.job_id not in (select unnest(without)));
    end if;
    -- Jobs that are suspended at a wait for one of the ended: the next that has not, or they go on. One that runs still may be
    -- about to suspend: it is looked at again. Steps are created further down.
    if exists (select from pgqueue.steps s where s.watched = any (well || skipped || failed)) then
        with watching as materialized (
            select s.job_id, s.name, s.events, s.watched, s.waiting_run
              from pgqueue.steps s
             where s.watched = any (well || skipped || failed)
               and not exists (select from pgqueue.jobs r where r.id = s.job_id and r.status = 'running')
               and s.job_id not in (select unnest(without)) and (only_jobs is null or s.job_id = any (only_jobs))
             limit most
             for no key update of s skip locked
        ), passed as materialized (
            select w.job_id, w.name, w.waiting_run, next.id as next
              from watching w
              left join lateral (
                  select j.id from unnest(w.events) e(id)
                    join pgqueue.jobs j on j.id = e.id::bigint
                   where e.id::bigint < w.watched and j.status in ('blocked', 'pending', 'running')
                   order by j.id desc
                   limit 1) next on true
        ), chosen as materialized (
            select j.id from pgqueue.jobs j
             where j.id in (select p.job_id from passed p where p.next is null)
               and j.status = 'pending' and j.run_at > clock_timestamp() and j.suspended_run = j.claimed_at
               and exists (select from passed p where p.job_id = j.id and p.next is null and p.waiting_run = j.claimed_at)
             order by j.id
             for no key update of j skip locked
        ), moved as (
            update pgqueue.steps s set watched = p.next
              from passed p
             where s.job_id = p.job_id and s.name = p.name
               -- One whose row is locked is woken later.
               and (p.next is not null or p.job_id in (select c.id from chosen c)
                    or not exists (select from pgqueue.jobs j
                                    where j.id = p.job_id and j.status = 'pending' and j.run_at > clock_timestamp()
                                      and j.suspended_run = j.claimed_at and p.waiting_run = j.claimed_at))
        ), changed as (
            update pgqueue.jobs j set run_at = clock_timestamp() from chosen c where j.id = c.id returning j.id, j.queue
        ), woken as (
            select count(pgqueue.notify(q.queue)) as n from (select distinct c.queue from changed c) q
        )
        select count(c.id),
               array(select distinct p.next from passed p where p.next is not null)
               || case when (select count(*) from watching) = most then ended else '{}' end
          into freed, more
          from woken left join changed c on true;
        released := released + freed;
        again := again || more;
        select locked || coalesce(array_agg(distinct s.watched), '{}') into locked
          from pgqueue.steps s
         where s.watched = any (well || skipped || failed) and s.job_id not in (select unnest(without));
    end if;
    -- Workflows that watched one of the ended: the next that has not, or they have ended.
    with told as materialized (
        select w.id, w.watched from pgqueue.workflows w where w.watched = any (well || skipped || failed)
    ), watching as materialized (
        select w.id, w.watched, w.last_job_id
          from told t
          join pgqueue.workflows w on w.id = t.id
         where w.watched = t.watched
           for no key update of w skip locked
    ), passed as materialized (
        select w.id, next.job_id as next
          from watching w
          left join lateral (
              -- Those that were added to it meanwhile come last.
              select coalesce(
                  (select m.job_id from pgqueue.workflow_jobs m
                     join pgqueue.jobs j on j.id = m.job_id
                    where m.workflow_id = w.id and m.job_id < w.watched and j.status in ('blocked', 'pending', 'running')
                    order by m.job_id desc
                    limit 1),
                  (select m.job_id from pgqueue.workflow_jobs m
                     join pgqueue.jobs j on j.id = m.job_id
                    where m.workflow_id = w.id and m.job_id > greatest(w.watched, w.last_job_id)
                      and j.status in ('blocked', 'pending', 'running')
                    order by m.job_id desc
                    limit 1)) as job_id) next on true
    ), late as materialized (
        -- One that passed its deadline before the last of its jobs had ended is expired, whether or not a worker looked.
        select p.id from passed p
          join pgqueue.workflows w on w.id = p.id
         where p.next is null and w.deadline_at is not null
           and exists (select from pgqueue.workflow_jobs m
                         join pgqueue.jobs j on j.id = m.job_id
                        where m.workflow_id = w.id and j.finished_at > w.deadline_at)
    ), moved as (
        update pgqueue.workflows w
           set watched = p.next, finished_at = case when p.next is null then clock_timestamp() end,
               expired_at = coalesce(w.expired_at, case when p.id in (select late.id from late) then clock_timestamp() end),
               status = case when p.next is null then
                             case when w.expired_at is null and p.id not in (select late.id from late) then pgqueue.worst(w.id)
                                  else 'expired' end end
          from passed p
         where w.id = p.id
    )
    select again || array(select p.next from passed p where p.next is not null),
           locked || array(select t.watched from told t where not exists (select from watching w where w.id = t.id))
      into again, locked;
end $$;
comment on function pgqueue.settle is
    'Lets what waited for these jobs go on if they have ended; returns how many are pending now, and which jobs to give to the next call, in a transaction after this: at once, or, where rows are locked, a little later; without, only_jobs: of those that wait';

create function pgqueue.cancel_workflow(id bigint) returns bigint
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    cancelled bigint := 0;
    now_cancelled bigint;
begin
    -- Again, for what a running job was adding while its row was waited for. One that is asked to stop adds no more.
    loop
        with chosen as materialized (
            select j.id from pgqueue.workflow_jobs m
              join pgqueue.jobs j on j.id = m.job_id
             where m.workflow_id = cancel_workflow.id
               and (j.status in ('blocked', 'pending') or j.status = 'running' and (cancelled = 0 or not j.cancel_requested))
             order by j.id
             for no key update of j
        ), stopped as (
            update pgqueue.jobs j
               set status = case when j.status = 'running' then j.status else 'cancelled' end,
                   finished_at = case when j.status = 'running' then null else clock_timestamp() end,
                   cancel_requested = true
              from chosen c
             where j.id = c.id
            returning j.id
        )
        select count(*) into now_cancelled from stopped;
        exit when now_cancelled = 0;
        cancelled := cancelled + now_cancelled;
    end loop;
    return cancelled;
end $$;
comment on function pgqueue.cancel_workflow is 'Cancel all jobs of a workflow that have not ended, ask running ones to stop; returns how many';

-- Workflows whose deadline has passed, and of their jobs those that have not ended and were not asked to stop, from the last
-- one on: so none begins because another was cancelled.
create function pgqueue.expire_workflows(most integer, without bigint[] default '{}', only_jobs bigint[] default null)
    returns table (job_id bigint, cancelled boolean)
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
    with overdue as materialized (
        select w.id, w.deadline_at, coalesce(w.stopped_from, 9223372036854775807) as below from pgqueue.workflows w
         where w.deadline_at < now() and w.deadline_at is not null and w.stopped_at is null and w.finished_at is null
         order by w.deadline_at
         limit 100
         for no key update of w skip locked
    ), chosen as materialized (
        select found.*
          from overdue o
         cross join lateral (
             select j.id, j.status, o.id as workflow_id, o.deadline_at
               from pgqueue.workflow_jobs m
               join pgqueue.jobs j on j.id = m.job_id
              where m.workflow_id = o.id and m.job_id < o.below
                and (j.status in ('blocked', 'pending') or j.status = 'running' and not j.cancel_requested)
                and j.id not in (select unnest(without)) and (only_jobs is null or j.id = any (only_jobs))
              order by m.job_id desc
              limit most
              for no key update of j skip locked) found
         limit most
    ), stopped as (
        update pgqueue.jobs j
           set status = case when c.status = 'running' then j.status else 'cancelled' end,
               finished_at = case when c.status = 'running' then null else clock_timestamp() end,
               cancel_requested = true,
               last_error = case when c.status = 'running' then j.last_error else
                   left(concat_ws('; before: ', format('DeadlinePassed: workflow %s was to end by %s', c.workflow_id, c.deadline_at), j.last_error),
                        1000) end
          from chosen c
         where j.id = c.id
        returning j.id, j.status
    ), marked as (
        update pgqueue.workflows w
           set expired_at = coalesce(w.expired_at, case when exists (select from chosen c where c.workflow_id = w.id) then clock_timestamp() end),
               -- When the batch was cut it goes on from here; when it was not, this was the last one, unless rows were locked.
               stopped_from = case when (select count(*) from chosen) >= most
                                   then coalesce((select min(c.id) from chosen c where c.workflow_id = w.id), w.stopped_from) end,
               stopped_at = case when w.stopped_from is null and (select count(*) from chosen) < most
                                      and (select j.id from pgqueue.workflow_jobs m
                                             join pgqueue.jobs j on j.id = m.job_id
                                            where m.workflow_id = w.id
                                              and (j.status in ('blocked', 'pending') or j.status = 'running' and not j.cancel_requested)
                                              and j.id not in (select c.id from chosen c)
                                            limit 1) is null then clock_timestamp() end
          from overdue o
         where w.id = o.id
    )
    select s.id, s.status = 'cancelled' from stopped s
$$;
comment on function pgqueue.expire_workflows is
    'Cancels a batch of the jobs of workflows that have passed their deadline, and asks running ones to stop; returns which, and whether each is cancelled';

-- Each workflow is open again, and what was cancelled because one of these jobs failed waits for it again, and so on down the
-- graph. Whoever changes whether a job has failed has the row of its workflow first, and so waits for nobody who waits for
-- it; settle() looks at failures with a share of that row.
create function pgqueue.retry_members(ids bigint[], args jsonb default null) returns setof bigint
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off
as $$
declare
    member pgqueue.workflow_jobs;
    failing boolean;
    gone boolean;
    needed boolean;
    holder bigint;
    level bigint[];
    back bigint[] := '{}';
begin
    perform 1 from pgqueue.workflows w
      where w.id in (select m.workflow_id from pgqueue.workflow_jobs m where m.job_id = any (ids))
      order by w.id
        for no key update of w;
    -- In the order of their ids: so what others wait for comes first.
    for member in
        select m.* from pgqueue.workflow_jobs m where m.job_id = any (ids) order by m.job_id
    loop
        if member.job_id = any (back) then
            return next member.job_id; -- with one that it waits for
            continue;
        end if;
        -- One that was skipped is not needed now either: what it waits for has ended for good.
        continue when member.stays = 'skipped';
        perform 1 from pgqueue.jobs j where j.id = member.job_id and j.status in ('dead', 'cancelled');
        continue when not found;
        select bool_or(s.stays is null and (p.id is null or p.status in ('dead', 'cancelled'))),
               bool_or(s.stays is null and p.id is null),
               bool_or(s.stays is distinct from 'skipped'),
               max(d.parent_id) filter (where p.status in ('blocked', 'pending', 'running')
                                           or member.if_failed = 'hold' and s.stays is null and p.status in ('dead', 'cancelled'))
          into failing, gone, needed, holder
          from pgqueue.dependencies d
          left join pgqueue.jobs p on p.id = d.parent_id
          left join pgqueue.workflow_jobs s on s.job_id = d.parent_id
         where d.job_id = member.job_id;
        -- It would be cancelled again.
        continue when failing and member.if_failed = 'cancel' or gone and member.if_failed = 'hold'
                   or not failing and holder is null and member.if_failed = 'only'
                   or not needed and member.if_failed in ('cancel', 'hold');
        if failing and member.if_failed = 'only' then
            holder := null;
        end if;
        update pgqueue.jobs j
           set status = case when holder is null then 'pending' else 'blocked' end, attempt = 0, crashes = 0, quarantine = null,
               run_at = clock_timestamp(), finished_at = null, cancel_requested = false, run_seconds = null, claimed_at = null,
               expires_at = null, progress = null, left_by = null, left_at = null, args = coalesce(retry_members.args, j.args)
         where j.id = member.job_id and j.status in ('dead', 'cancelled');
        continue when not found; -- deleted meanwhile
        update pgqueue.workflow_jobs m set watched = holder where m.job_id = member.job_id;
        return next member.job_id;
        level := array[member.job_id];
        while level is not null loop
            back := back || level;
            with lost as materialized (
                select j.id, (select max(d.parent_id) from pgqueue.dependencies d join pgqueue.jobs p on p.id = d.parent_id
                               where d.job_id = j.id and p.status in ('blocked', 'pending', 'running')) as holder
                  from pgqueue.jobs j
                  join pgqueue.workflow_jobs m on m.job_id = j.id
                 where j.id in (select d.job_id from pgqueue.dependencies d where d.parent_id = any (level))
                   and m.if_failed = 'cancel' and j.status = 'cancelled'
                   and starts_with(j.last_error, 'ParentFailed: ')
                   and not exists (select from pgqueue.dependencies d left join pgqueue.jobs p on p.id = d.parent_id
                                    where d.job_id = j.id and (p.id is null or p.status in ('dead', 'cancelled'))
                                      and not exists (select from pgqueue.workflow_jobs s
                                                       where s.job_id = d.parent_id and s.stays is not null))
                 order by j.id
            ), watching as (
                update pgqueue.workflow_jobs m set watched = l.holder from lost l where m.job_id = l.id
            ), again as (
                update pgqueue.jobs j set status = 'blocked', finished_at = null, last_error = null
                  from lost l where j.id = l.id and j.status = 'cancelled' returning j.id
            )
            select array_agg(a.id) into level from again a;
        end loop;
    end loop;
    -- A workflow watches from its last job that has not ended on.
    update pgqueue.workflows w
       set status = null, finished_at = null, watched = greatest(w.watched, o.last),
           -- A deadline that has passed holds no more: it would cancel what was retried.
           deadline_at = case when w.deadline_at > clock_timestamp() then w.deadline_at end, expired_at = null, stopped_at = null,
           stopped_from = null
      from (select m.workflow_id, max(m.job_id) as last from pgqueue.workflow_jobs m where m.job_id = any (back) group by 1) o
     where w.id = o.workflow_id;
end $$;
comment on function pgqueue.retry_members is
    'Puts dead and cancelled jobs of workflows back, with those that were cancelled because they failed; not one that would be cancelled again, since another that it waits for has failed';

create function pgqueue.retry_workflow(id bigint) returns bigint
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    chosen bigint;
    look bigint[];
begin
    perform 1 from pgqueue.workflows w where w.id = retry_workflow.id for no key update of w;
    with members as materialized (
        select m.job_id, (select max(d.parent_id) from pgqueue.dependencies d where d.job_id = m.job_id) as parent
          from pgqueue.workflow_jobs m
          join pgqueue.jobs j on j.id = m.job_id
         where m.workflow_id = retry_workflow.id and j.status in ('dead', 'cancelled') and m.stays is null
         order by m.job_id
         for no key update of m
    ), watching as (
        update pgqueue.workflow_jobs m set watched = c.parent from members c where m.job_id = c.job_id
    ), back as (
        update pgqueue.jobs j
           set status = case when c.parent is null then 'pending' else 'blocked' end, attempt = 0, crashes = 0,
               quarantine = null, run_at = clock_timestamp(), finished_at = null, cancel_requested = false, run_seconds = null,
               claimed_at = null, expires_at = null, progress = null, left_by = null, left_at = null
          from members c
         where j.id = c.job_id and j.status in ('dead', 'cancelled')
        returning j.queue, j.status
    ), woken as (
        select count(pgqueue.notify(q.queue)) as n
          from (select distinct b.queue from back b where b.status = 'pending') q
    )
    select (select count(*) from back), array(select distinct c.parent from members c where c.parent is not null)
      into chosen, look from woken;
    update pgqueue.workflows w
       set finished_at = null, status = null,
           deadline_at = case when w.deadline_at > clock_timestamp() then w.deadline_at end, expired_at = null, stopped_at = null,
           stopped_from = null,
           watched = (select max(m.job_id) from pgqueue.workflow_jobs m where m.workflow_id = w.id)
     where w.id = retry_workflow.id and chosen > 0;
    while cardinality(look) > 0 loop
        select s.again into look from pgqueue.settle(look) s;
    end loop;
    return chosen;
end $$;
comment on function pgqueue.retry_workflow is
    'Put the dead and cancelled jobs of a workflow back; those that wait for others wait again; returns how many';

-- Steps of jobs, done once, and events.
create table pgqueue.steps (
    job_id      bigint not null,
    name        text not null constraint steps_name check (length(name) between 1 and 200),
    kind        text not null constraint steps_kind check (kind in ('step', 'sleep', 'event', 'message', 'job')),
    events      text[],
    event       text,
    event_id    bigint,
    wakes_at    timestamptz,
    waiting_run timestamptz,
    watched     bigint,
    result      jsonb,
    error       text,
    failures    integer not null default 0,
    started_at  timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    primary key (job_id, name)
);
comment on table pgqueue.steps is 'What jobs have done already, and what they sleep or wait for; pruned with their job';
comment on column pgqueue.steps.events is
    'The names of the events, or of messages, of which it waits or waited for the first; of a wait for jobs the ids of all of them';
comment on column pgqueue.steps.event is 'The name of the one that came; null after a timeout';
comment on column pgqueue.steps.event_id is 'The one that came; null after a timeout';
comment on column pgqueue.steps.wakes_at is 'When its sleep, or its wait, is over; or a step that failed is called again';
comment on column pgqueue.steps.waiting_run is 'jobs.claimed_at of the last run that came to this wait and found nothing';
comment on column pgqueue.steps.watched is
    'Of a wait for jobs: one that had not ended; when it has, the next is looked for, and the job is woken when there is none';
comment on column pgqueue.steps.error is
    'Why what it returned could not be stored; it was done, and is not done again. Of a step that is not finished: how it failed last';
comment on column pgqueue.steps.failures is 'How often a step that is not finished has failed, and is called again';
create index steps_waiting on pgqueue.steps using gin (events) where finished_at is null;
create index steps_watched on pgqueue.steps (watched) where watched is not null;

create table pgqueue.events (
    id           bigint generated always as identity primary key,
    name         text not null constraint events_name check (length(name) between 1 and 200),
    job_id       bigint,
    payload      jsonb,
    created_at   timestamptz not null default clock_timestamp(),
    delivered_at timestamptz
);
comment on table pgqueue.events is 'What was emitted, for all jobs, or sent to one';
comment on column pgqueue.events.job_id is 'The job that it was sent to; null if it was emitted for all';
comment on column pgqueue.events.delivered_at is 'When no job that waited for it needed to be woken any more';
create index events_name on pgqueue.events (name, id) where job_id is null;
create index events_job on pgqueue.events (job_id, name, id) where job_id is not null;
create index events_undelivered on pgqueue.events (id) where delivered_at is null;
create index events_created on pgqueue.events (created_at);

-- The row stays locked to the end of the transaction: no rescue comes between this look and the commit.
create function pgqueue.check_claim(job_id bigint, claim_id uuid) returns void
    language plpgsql volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform 1 from pgqueue.jobs j
      where j.id = check_claim.job_id and j.claim_id = check_claim.claim_id and j.status = 'running'
        for no key update of j;
    if not found then
        raise exception 'job % is no longer held by claim %', job_id, claim_id
            using errcode = 'PQ001', hint = 'Its lease ran out or it was taken back; this transaction must roll back.';
    end if;
end $$;
comment on function pgqueue.check_claim is 'Raises PQ001 unless the claim holds the job';

create function pgqueue.step_kind(kind text, events text[]) returns text
    language sql immutable parallel safe
    set search_path = pg_catalog, pg_temp
as $$
    select case kind when 'event' then 'a wait for event ' || array_to_string(events, ' or ')
                     when 'message' then 'a wait for message ' || array_to_string(events, ' or ')
                     when 'job' then 'a wait for job ' || array_to_string(events[1:20], ', ') || case when cardinality(events) > 20 then ' ...' else '' end
                     else 'a ' || kind end
$$;
comment on function pgqueue.step_kind is 'What a step is, in words';

-- The sentence is also in pgqueue/errors.py, for steps that are looked up before they are done.
create function pgqueue.check_step(job_id bigint, name text, kind text, events text[] default null) returns pgqueue.steps
    language plpgsql stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    step pgqueue.steps;
begin
    select s.* into step from pgqueue.steps s where s.job_id = check_step.job_id and s.name = check_step.name;
    if step.kind <> check_step.kind or not (step.events @> check_step.events and step.events <@ check_step.events) then
        raise exception 'step % of job % is stored as %, and is % in this code: %',
            quote_literal(name), job_id, pgqueue.step_kind(step.kind, step.events), pgqueue.step_kind(check_step.kind, check_step.events),
            case when step.kind = 'job' and check_step.kind = 'job' then
                'enqueue the jobs that are waited for in a step that returns their ids; else each run enqueues others'
            else format('give what is new another name, or do it anew: pgqueue retry %s --from-step %L', job_id, name) end
            using errcode = 'PQ002';
    end if;
    return step;
end $$;
comment on function pgqueue.check_step is 'What is stored of a step; raises PQ002 if it is of another kind, or waits for another event';

create function pgqueue.save_step(
    job_id bigint, claim_id uuid, name text, result jsonb, error text default null, seconds float8 default 0
) returns jsonb
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    stored pgqueue.steps;
begin
    perform pgqueue.check_claim(save_step.job_id, save_step.claim_id);
    insert into pgqueue.steps as s (job_id, name, kind, result, error, started_at, finished_at)
    values (save_step.job_id, save_step.name, 'step', save_step.result, save_step.error,
            clock_timestamp() - make_interval(secs => seconds), clock_timestamp())
    on conflict on constraint steps_pkey do update
       set result = excluded.result, error = excluded.error, finished_at = excluded.finished_at, wakes_at = null
     where s.kind = 'step' and s.finished_at is null; -- it has failed before
    stored := pgqueue.check_step(save_step.job_id, save_step.name, 'step');
    return stored.result;
end $$;
comment on function pgqueue.save_step is
    'Stores what a step of a running job returned, once, or why that cannot be stored; returns what is stored. The step began so many seconds ago';

-- Whatever names the steps of a job have, those that are not finished fail a bounded number of times: a name that is another
-- in each run would else let a job begin anew for ever, without using an attempt.
create function pgqueue.fail_step(
    job_id bigint, claim_id uuid, name text, max_retries integer, backoff jsonb default null, error text default null,
    seconds float8 default 0
) returns float8
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    step pgqueue.steps;
    so_far bigint;
begin
    perform pgqueue.check_claim(fail_step.job_id, fail_step.claim_id);
    step := pgqueue.check_step(fail_step.job_id, fail_step.name, 'step');
    if step.finished_at is not null then
        return null;
    end if;
    select coalesce(sum(s.failures), 0) into so_far from pgqueue.steps s
     where s.job_id = fail_step.job_id and s.finished_at is null;
    if coalesce(step.failures, 0) >= max_retries or so_far >= 1000 then
        delete from pgqueue.steps s
         where s.job_id = fail_step.job_id and s.name = fail_step.name and so_far < 1000;
        return null;
    end if;
    insert into pgqueue.steps as s (job_id, name, kind, error, failures, started_at, wakes_at)
    values (fail_step.job_id, fail_step.name, 'step', fail_step.error, 1, clock_timestamp() - make_interval(secs => seconds),
            clock_timestamp() + pgqueue.backoff(coalesce(step.failures, 0) + 1, fail_step.backoff))
    on conflict on constraint steps_pkey do update
       set failures = s.failures + 1, error = excluded.error, wakes_at = excluded.wakes_at
    returning s.* into step;
    return greatest(extract(epoch from step.wakes_at - clock_timestamp()), 0.001);
end $$;
comment on function pgqueue.fail_step is
    'Notes that a step of a running job failed, and may be called again; returns in how many seconds, null if it has failed too often, or was done meanwhile';

create function pgqueue.start_sleep(
    job_id bigint, claim_id uuid, name text, seconds float8 default null, until timestamptz default null
) returns float8
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    seconds_left float8;
begin
    perform pgqueue.check_claim(start_sleep.job_id, start_sleep.claim_id);
    insert into pgqueue.steps (job_id, name, kind, wakes_at)
    values (start_sleep.job_id, start_sleep.name, 'sleep', coalesce(until, clock_timestamp() + make_interval(secs => seconds)))
    on conflict do nothing;
    perform pgqueue.check_step(start_sleep.job_id, start_sleep.name, 'sleep');
    update pgqueue.steps s
       set finished_at = coalesce(s.finished_at, case when s.wakes_at <= clock_timestamp() then clock_timestamp() end)
     where s.job_id = start_sleep.job_id and s.name = start_sleep.name
    returning case when s.finished_at is null then greatest(extract(epoch from s.wakes_at - clock_timestamp()), 0.001) else 0 end
      into seconds_left;
    return seconds_left;
end $$;
comment on function pgqueue.start_sleep is
    'Begins a sleep of a running job, for a time or until one, once; returns the seconds that are left, 0 when it is over';

-- Called twice, in two transactions: an event that commits before the second is found by it, and one after it is
-- not delivered yet and finds the step.
create function pgqueue.await_event(
    job_id bigint, claim_id uuid, name text, events text[], timeout float8, sent boolean default false,
    out arrived boolean, out event text, out payload jsonb, out seconds_left float8
)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    step pgqueue.steps;
    came record;
    run record;
begin
    perform pgqueue.check_claim(await_event.job_id, await_event.claim_id);
    select j.created_at, j.claimed_at into run from pgqueue.jobs j where j.id = await_event.job_id;
    insert into pgqueue.steps (job_id, name, kind, events, wakes_at)
    values (await_event.job_id, await_event.name, case when sent then 'message' else 'event' end, await_event.events,
            clock_timestamp() + make_interval(secs => timeout))
    on conflict do nothing;
    step := pgqueue.check_step(await_event.job_id, await_event.name, case when sent then 'message' else 'event' end, await_event.events);
    if step.finished_at is null then
        select e.id, e.name, e.payload into came from pgqueue.events e
         where e.name = any (step.events)
           and (e.job_id is null and not sent or e.job_id = await_event.job_id and sent)
           and e.created_at >= run.created_at
           and not exists (select from pgqueue.steps o where o.job_id = await_event.job_id and o.event_id = e.id)
         order by e.id limit 1;
        if came.id is not null or step.wakes_at <= clock_timestamp() then
            update pgqueue.steps s
               set event_id = came.id, event = came.name, result = came.payload, finished_at = clock_timestamp()
             where s.job_id = await_event.job_id and s.name = await_event.name
            returning s.* into step;
        else
            update pgqueue.steps s set waiting_run = run.claimed_at
             where s.job_id = await_event.job_id and s.name = await_event.name and s.waiting_run is distinct from run.claimed_at;
        end if;
    end if;
    arrived := step.event_id is not null;
    event := step.event;
    payload := step.result;
    seconds_left := case when step.finished_at is null then greatest(extract(epoch from step.wakes_at - clock_timestamp()), 0.001) else 0 end;
end $$;
comment on function pgqueue.await_event is
    'Waits for the first event of some names, or the first message to this job, since it was enqueued that it has not had; seconds left until the timeout, 0 when it is over';

-- Called twice as well: the end of a job that commits before the second look is found by it, and one after it finds the step.
-- That a job failed, or is gone, is not stored, as of a step that failed: it may have been retried when the next run looks.
create function pgqueue.await_jobs(
    job_id bigint, claim_id uuid, name text, jobs bigint[], timeout float8,
    out ends jsonb, out seconds_left float8
)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    step pgqueue.steps;
    open bigint;
    well boolean;
begin
    perform pgqueue.check_claim(await_jobs.job_id, await_jobs.claim_id);
    insert into pgqueue.steps (job_id, name, kind, events, wakes_at)
    values (await_jobs.job_id, await_jobs.name, 'job', await_jobs.jobs::text[], clock_timestamp() + make_interval(secs => timeout))
    on conflict do nothing;
    step := pgqueue.check_step(await_jobs.job_id, await_jobs.name, 'job', await_jobs.jobs::text[]);
    seconds_left := 0;
    if step.finished_at is null then
        select max(j.id) filter (where j.status in ('blocked', 'pending', 'running')),
               coalesce(bool_and(j.status = 'succeeded' and j.result is not null), false),
               jsonb_agg(jsonb_build_object('id', e.id, 'status', coalesce(j.status, 'gone'), 'kept', j.result is not null, 'result', j.result)
                         order by e.place)
          into open, well, ends
          from unnest(await_jobs.jobs) with ordinality e(id, place)
          left join pgqueue.jobs j on j.id = e.id;
        if open is null and well then
            update pgqueue.steps s set result = ends, finished_at = clock_timestamp(), watched = null
             where s.job_id = await_jobs.job_id and s.name = await_jobs.name;
        elsif open is null then
            delete from pgqueue.steps s where s.job_id = await_jobs.job_id and s.name = await_jobs.name;
        elsif step.wakes_at <= clock_timestamp() then
            update pgqueue.steps s set finished_at = clock_timestamp(), watched = null
             where s.job_id = await_jobs.job_id and s.name = await_jobs.name;
            ends := null;
        else
            update pgqueue.steps s set watched = open, waiting_run = j.claimed_at
              from pgqueue.jobs j
             where s.job_id = await_jobs.job_id and s.name = await_jobs.name and j.id = await_jobs.job_id;
            seconds_left := greatest(extract(epoch from step.wakes_at - clock_timestamp()), 0.001);
            ends := null;
        end if;
    else
        ends := step.result;
    end if;
end $$;
comment on function pgqueue.await_jobs is
    'Waits for other jobs to end; what they ended as once all have, and the seconds left until the timeout, 0 when it is over';

-- Only what the job's last run ended at is waited for: not what an earlier version of the code waited for, nor what
-- stood beside a failure, whose backoff holds.
create function pgqueue.wake_waiting(event_ids bigint[], without bigint[] default '{}', only_jobs bigint[] default null)
    returns bigint
    language sql volatile
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
    with chosen as materialized (
        select j.id from pgqueue.jobs j
         where j.status = 'pending' and j.run_at > clock_timestamp() and j.suspended_run = j.claimed_at
           and j.id in (select s.job_id from pgqueue.events e
                          join pgqueue.steps s on s.events @> array[e.name] and s.finished_at is null
                           and s.kind = case when e.job_id is null then 'event' else 'message' end
                           and (e.job_id is null or e.job_id = s.job_id)
                          join pgqueue.jobs w on w.id = s.job_id
                         where e.id = any (event_ids) and s.waiting_run = w.claimed_at and e.created_at >= w.created_at
                           and not exists (select from pgqueue.steps o where o.job_id = s.job_id and o.event_id = e.id))
           and j.id not in (select unnest(without)) and (only_jobs is null or j.id = any (only_jobs))
         order by j.id
         for no key update of j skip locked
    ), woken as (
        update pgqueue.jobs j set run_at = clock_timestamp() from chosen c where j.id = c.id returning j.queue
    ), told as (
        select count(pgqueue.notify(q.queue)) as n from (select distinct w.queue from woken w) q
    )
    select count(*) from told left join woken on true where woken.queue is not null
$$;
comment on function pgqueue.wake_waiting is 'Makes jobs due that wait for these events; how many';

create function pgqueue.put_event(job_id bigint, name text, payload jsonb, what text) returns bigint
    language plpgsql volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    new_id bigint;
begin
    if name is null or length(name) not between 1 and 200 then
        raise exception 'the name of % must have 1 to 200 characters', what using errcode = '22023';
    end if;
    if octet_length(payload::text) > 1048576 then
        raise exception 'the payload of % % is over 1 MB: store the document and pass its id', what, name using errcode = '22023';
    end if;
    insert into pgqueue.events (job_id, name, payload) values (put_event.job_id, put_event.name, put_event.payload)
    returning id into new_id;
    perform pgqueue.wake_waiting(array[new_id]);
    return new_id;
end $$;
comment on function pgqueue.put_event is 'Stores an event, or a message to a job, and wakes who waits for it; returns its id';

create function pgqueue.emit(name text, payload jsonb default null) returns bigint
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$ select pgqueue.put_event(null, emit.name, emit.payload, 'an event') $$;
comment on function pgqueue.emit is 'Emit an event in the caller''s transaction, for all jobs that wait for its name; returns its id';

create function pgqueue.send(job_id bigint, name text, payload jsonb default null) returns bigint
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform 1 from pgqueue.jobs j where j.id = send.job_id;
    if not found then
        raise exception 'no job %: it never existed, or was pruned or cleared', job_id using errcode = 'PQ003';
    end if;
    return pgqueue.put_event(job_id, name, payload, 'a message');
end $$;
comment on function pgqueue.send is 'Send a message to one job in the caller''s transaction; returns its id';

create function pgqueue.deliver_events(
    most integer default 1000, without bigint[] default '{}', only_jobs bigint[] default null
) returns bigint
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
    select pgqueue.wake_waiting(
        array(select e.id from pgqueue.events e where e.delivered_at is null order by e.id limit most), without, only_jobs)
$$;
comment on function pgqueue.deliver_events is 'Wakes the jobs that wait for events that nobody has delivered; how many';

create function pgqueue.forget_steps(job_id bigint, from_step text) returns bigint
    language sql volatile
    set search_path = pg_catalog, pg_temp
as $$
    with gone as (
        delete from pgqueue.steps s using pgqueue.steps f
         where s.job_id = forget_steps.job_id and f.job_id = s.job_id and f.name = from_step and s.started_at >= f.started_at
        returning s.name
    )
    select count(*) from gone
$$;
comment on function pgqueue.forget_steps is 'Forgets a step of a job that does not run, and all that began after it; how many';

create function pgqueue.retry_job(id bigint, args jsonb default null, from_step text default null) returns boolean
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    job pgqueue.jobs;
begin
    select j.* into job from pgqueue.jobs j where j.id = retry_job.id;
    if not found or job.status not in ('dead', 'cancelled') then
        return false;
    end if;
    if from_step is not null and not exists (select from pgqueue.steps s where s.job_id = job.id and s.name = from_step) then
        raise exception 'job % has no step %; it has: %', job.id, quote_literal(from_step),
            coalesce((select string_agg(quote_literal(s.name), ', ' order by s.started_at) from pgqueue.steps s where s.job_id = job.id), 'none')
            using errcode = 'PQ004';
    end if;
    if job.workflow_id is not null then
        perform 1 from pgqueue.retry_members(array[job.id], retry_job.args) r where r = job.id;
        if not found then
            return false;
        end if;
    elsif not pgqueue.retry_keyed(job.id, retry_job.args) then
        return false;
    end if;
    if from_step is not null then
        perform pgqueue.forget_steps(job.id, from_step);
    end if;
    perform pgqueue.notify(job.queue);
    return true;
end $$;
comment on function pgqueue.retry_job is
    'Puts a dead or cancelled job back, with other arguments if given; from a step on if given, which is done again with all that began after it; false if it is neither, or another has its unique key, or it would be cancelled again';

-- Statistics. Each view reads a bounded number of rows, however many jobs have finished.

-- Statistics. Each reads a bounded number of rows, however many are finished.
create view pgqueue.queue_names as
with recursive pending(queue) as (
    (select j.queue from pgqueue.jobs j where j.status = 'pending' order by j.queue limit 1)
    union all
    select (select j.queue from pgqueue.jobs j where j.status = 'pending' and j.queue > p.queue order by j.queue limit 1)
      from pending p where p.queue is not null
), finished(queue) as (
    (select j.queue from pgqueue.jobs j where j.status in ('succeeded', 'dead', 'cancelled') order by j.queue limit 1)
    union all
    select (select j.queue from pgqueue.jobs j
             where j.status in ('succeeded', 'dead', 'cancelled') and j.queue > f.queue order by j.queue limit 1)
      from finished f where f.queue is not null
)
(select queue from pending where queue is not null limit 10000)
union (select queue from finished where queue is not null limit 10000)
union (select queue from pgqueue.jobs where worker_id is not null limit 10000)
union (select name from pgqueue.queues order by name limit 10000);
comment on view pgqueue.queue_names is
    'Every queue that has a job or a setting (loose index scans); of more than 10,000 the first';

-- Rows from SQL may have any date: before the epoch it would fit no driver, at infinity no number.
create view pgqueue.queue_stats as
select n.queue,
       due.n as due, scheduled.n as scheduled, running.n as running,
       succeeded.n as succeeded, dead.n as dead, cancelled.n as cancelled,
       oldest.run_at as oldest_due_at,
       greatest(extract(epoch from clock_timestamp() - oldest.run_at), 0)::float8 as lag_seconds,
       q.paused_at
  from pgqueue.queue_names n
  left join pgqueue.queues q on q.name = n.queue
 cross join lateral (select count(*) as n from (select from pgqueue.jobs j
     where j.status = 'pending' and j.queue = n.queue and j.run_at <= statement_timestamp() limit 10000) x) due
 cross join lateral (select count(*) as n from (select from pgqueue.jobs j
     where j.status = 'pending' and j.queue = n.queue and j.run_at > statement_timestamp() limit 10000) x) scheduled
 cross join lateral (select count(*) as n from pgqueue.jobs j
     where j.worker_id is not null and j.queue = n.queue) running
 cross join lateral (select count(*) as n from (select from pgqueue.jobs j
     where j.status = 'succeeded' and j.queue = n.queue limit 10000) x) succeeded
 cross join lateral (select count(*) as n from (select from pgqueue.jobs j
     where j.status = 'dead' and j.queue = n.queue limit 10000) x) dead
 cross join lateral (select count(*) as n from (select from pgqueue.jobs j
     where j.status = 'cancelled' and j.queue = n.queue limit 10000) x) cancelled
 cross join lateral (
     with recursive lane(priority) as (
         (select j.priority from pgqueue.jobs j where j.status = 'pending' and j.queue = n.queue
           order by j.priority desc limit 1)
         union all
         select (select j.priority from pgqueue.jobs j where j.status = 'pending' and j.queue = n.queue
                    and j.priority < l.priority order by j.priority desc limit 1)
           from lane l where l.priority is not null)
     select min(greatest(first.run_at, timestamptz 'epoch')) as run_at from lane l
      cross join lateral (select j.run_at from pgqueue.jobs j where j.status = 'pending' and j.queue = n.queue
          and j.priority = l.priority and j.run_at <= statement_timestamp() order by j.run_at limit 1) first) oldest;
comment on view pgqueue.queue_stats is
    'Jobs by queue and status, each count capped at 10,000 (10,000 means at least that); lag of the oldest due job';

create view pgqueue.throughput as
select n.queue, date_trunc('minute', j.finished_at) as minute,
       count(*) filter (where s.status = 'succeeded') as succeeded,
       count(*) filter (where s.status = 'dead') as dead,
       count(*) filter (where s.status = 'cancelled') as cancelled,
       (count(*) filter (where s.status = 'dead'))::float8 / count(*) as failure_rate
  from pgqueue.queue_names n
 cross join (values ('succeeded'), ('dead'), ('cancelled')) as s(status)
 cross join lateral (select f.finished_at from pgqueue.jobs f
      where f.queue = n.queue and f.status = s.status
        and f.status in ('succeeded', 'dead', 'cancelled')
        and f.finished_at >= date_trunc('minute', statement_timestamp()) - interval '60 minutes'
      order by f.finished_at desc limit 100000) j
 group by n.queue, date_trunc('minute', j.finished_at);
comment on view pgqueue.throughput is
    'Finished jobs per queue and minute over the last hour (of the latest 100,000 per queue and status)';

create view pgqueue.task_stats as
select j.queue, j.task, count(*) as sampled,
       percentile_cont(0.5) within group (order by j.run_seconds) as run_p50,
       percentile_cont(0.95) within group (order by j.run_seconds) as run_p95,
       percentile_cont(0.99) within group (order by j.run_seconds) as run_p99,
       percentile_cont(0.5) within group (order by extract(epoch from j.claimed_at - greatest(j.run_at, timestamptz 'epoch'))::float8) as wait_p50,
       percentile_cont(0.95) within group (order by extract(epoch from j.claimed_at - greatest(j.run_at, timestamptz 'epoch'))::float8) as wait_p95,
       percentile_cont(0.99) within group (order by extract(epoch from j.claimed_at - greatest(j.run_at, timestamptz 'epoch'))::float8) as wait_p99
  from pgqueue.queue_names n
 cross join lateral (select f.queue, f.task, f.run_at, f.claimed_at, f.run_seconds
                       from pgqueue.jobs f where f.queue = n.queue and f.status = 'succeeded'
      and f.finished_at is not null order by f.finished_at desc limit 1000) j
 group by j.queue, j.task;
comment on view pgqueue.task_stats is
    'Run and wait times in seconds per task, of the latest 1,000 succeeded jobs of each queue';

create view pgqueue.dead_jobs as
select j.task, j.queue, left(split_part(left(coalesce(j.last_error, ''), 1000), ':', 1), 200) as error, count(*) as jobs,
       max(j.finished_at) as latest, min(j.id) as example_id
  from pgqueue.queue_names n
 cross join lateral (select f.id, f.queue, f.task, f.last_error, f.finished_at
                       from pgqueue.jobs f where f.queue = n.queue and f.status = 'dead'
      order by f.finished_at desc limit 10000) j
 group by 1, 2, 3;
comment on view pgqueue.dead_jobs is 'Dead jobs by task and error, of the latest 10,000 per queue';

create view pgqueue.jobs_public with (security_barrier) as
select id, queue, task, status, priority, attempt, max_retries, crashes, run_at, created_at, claimed_at,
       finished_at, lease_expires_at, run_seconds, worker_id, cancel_requested
  from pgqueue.jobs;
comment on view pgqueue.jobs_public is 'Jobs without arguments, error texts and claims, for those who may only look';

create view pgqueue.schedule_list as
select s.name, s.expression, s.tz, s.task, s.queue,
       coalesce(s.priority, (t.options ->> 'priority')::smallint, q.priority, 0::smallint) as priority,
       coalesce(s.max_retries, (t.options ->> 'max_retries')::integer, q.max_retries, 10) as max_retries, s.catch_up, s.overlap, s.source,
       s.paused_at, case when s.paused_at is not null then coalesce(s.pause_reason, 'hand') end as pause_reason,
       s.undeclared_at, s.last_tick, case when isfinite(s.next_tick) then s.next_tick end as next_tick, s.error, s.skipped,
       s.recent_job_ids[1] as last_job_id, j.status as last_status, j.created_at as last_run_at,
       s.created_at, s.updated_at
  from pgqueue.schedules s
  left join pgqueue.tasks t on t.name = s.task
  left join pgqueue.queues q on q.name = s.queue
  left join pgqueue.jobs j on j.id = s.recent_job_ids[1];
comment on view pgqueue.schedule_list is 'Schedules with their last run, without arguments';

create view pgqueue.schedule_runs as
select s.name as schedule, j.tick, j.id as job_id, j.status, j.attempt, j.created_at, j.finished_at, j.run_seconds
  from pgqueue.schedules s
 cross join lateral unnest(s.recent_job_ids) as r(id)
  join pgqueue.jobs j on j.id = r.id;
comment on view pgqueue.schedule_runs is 'The latest 50 runs of each schedule, as long as their jobs are kept';

create view pgqueue.workflow_list as
select w.id, w.name, coalesce(w.status, 'running') as status, w.created_at, w.finished_at,
       n.jobs, n.blocked, n.pending, n.running, n.succeeded, n.dead, n.cancelled, w.deadline_at, w.expired_at
  from pgqueue.workflows w
 cross join lateral (
     select count(*) as jobs,
            count(*) filter (where j.status = 'blocked') as blocked,
            count(*) filter (where j.status = 'pending') as pending,
            count(*) filter (where j.status = 'running') as running,
            count(*) filter (where j.status = 'succeeded') as succeeded,
            count(*) filter (where j.status = 'dead') as dead,
            count(*) filter (where j.status = 'cancelled') as cancelled
       from pgqueue.workflow_jobs m join pgqueue.jobs j on j.id = m.job_id
      where m.workflow_id = w.id) n;
comment on view pgqueue.workflow_list is 'Workflows with their jobs by status';

-- What people look for and act on, by the index that fits its status whatever the statistics say: pending jobs in
-- jobs_ready, running ones in jobs_running, blocked ones by what they watch, ended ones in jobs_finished queue by queue.
create function pgqueue.find_jobs(
    statuses text[], queue text default null, task text default null, error text default null, since float8 default null
)
    returns setof bigint
    language sql stable
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
    with recursive ended(queue) as (
        -- Of one queue it is one look, however many there are.
        (select j.queue from pgqueue.jobs j
          where j.status in ('succeeded', 'dead', 'cancelled') and j.queue >= coalesce(find_jobs.queue, '') order by j.queue limit 1)
        union all
        select (select j.queue from pgqueue.jobs j
                 where j.status in ('succeeded', 'dead', 'cancelled') and j.queue > e.queue order by j.queue limit 1)
          from ended e where e.queue is not null and find_jobs.queue is null
    ), of_status(id, queue, task, last_error, at) as (
        select j.id, j.queue, j.task, j.last_error, j.created_at from pgqueue.jobs j
         where 'pending' = any (statuses) and j.status = 'pending'
        union all
        select j.id, j.queue, j.task, j.last_error, j.created_at from pgqueue.jobs j
         where 'running' = any (statuses) and j.status = 'running' and j.worker_id is not null
        union all
        select j.id, j.queue, j.task, j.last_error, j.created_at from pgqueue.workflow_jobs w
          join pgqueue.jobs j on j.id = w.job_id
         where 'blocked' = any (statuses) and w.watched is not null and j.status = 'blocked'
        union all
        select j.id, j.queue, j.task, j.last_error, coalesce(j.finished_at, j.created_at)
          from (values ('succeeded'), ('dead'), ('cancelled')) as one(status)
         cross join ended e
         -- The offset keeps it a look by queue and status, not a join of all that has ended.
         cross join lateral (
             select f.id, f.queue, f.task, f.last_error, f.finished_at, f.created_at from pgqueue.jobs f
              where f.queue = e.queue and f.status = one.status and f.status in ('succeeded', 'dead', 'cancelled')
             offset 0) j
         where one.status = any (statuses) and (find_jobs.queue is null or e.queue = find_jobs.queue)
    )
    select o.id from of_status o
     where (find_jobs.queue is null or o.queue = find_jobs.queue)
       and (find_jobs.task is null or o.task = find_jobs.task)
       and (find_jobs.error is null or strpos(lower(left(o.last_error, 10000)), lower(find_jobs.error)) > 0)
       and (find_jobs.since is null or o.at >= statement_timestamp() - make_interval(secs => find_jobs.since))
$$;
comment on function pgqueue.find_jobs is
    'The ids of jobs of some statuses that match, in no order; since: ended, or else made, in the last so many seconds';

create function pgqueue.latest_jobs(
    status text, queue text, task text, error text, since float8, before bigint, most integer
)
    returns setof bigint
    language sql stable
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
    with recursive ended(queue) as (
        -- Of one queue it is one look, however many there are.
        (select j.queue from pgqueue.jobs j
          where j.status in ('succeeded', 'dead', 'cancelled') and j.queue >= coalesce(latest_jobs.queue, '') order by j.queue limit 1)
        union all
        select (select j.queue from pgqueue.jobs j
                 where j.status in ('succeeded', 'dead', 'cancelled') and j.queue > e.queue order by j.queue limit 1)
          from ended e where e.queue is not null and latest_jobs.queue is null
    ), last as materialized (
        select coalesce(b.finished_at, '-infinity') as at, b.id
          from pgqueue.jobs b where b.id = latest_jobs.before and b.status = latest_jobs.status
    )
    select latest.id
      from ended e
     cross join lateral (
         (select j.id, j.finished_at as at from pgqueue.jobs j
           where j.queue = e.queue and j.status = latest_jobs.status and j.status in ('succeeded', 'dead', 'cancelled')
             and j.finished_at <= coalesce((select l.at from last l), 'infinity')
             and (latest_jobs.before is null
                  -- Where to go on from may have been retried or pruned since.
                  or coalesce((j.finished_at, j.id) < (select l.at, l.id from last l), j.id < latest_jobs.before))
             and (latest_jobs.task is null or j.task = latest_jobs.task)
             and (latest_jobs.error is null or strpos(lower(left(j.last_error, 10000)), lower(latest_jobs.error)) > 0)
             and (latest_jobs.since is null
                  or j.finished_at >= statement_timestamp() - make_interval(secs => latest_jobs.since))
           -- As the index has them, and all of one time: sorted by id below. A sort here would read all, where statistics are old.
           order by j.finished_at desc
           fetch first (latest_jobs.most) rows with ties)
         union all
         -- Rows from SQL may have no time.
         (select j.id, timestamptz '-infinity' from pgqueue.jobs j
           where j.queue = e.queue and j.status = latest_jobs.status and j.status in ('succeeded', 'dead', 'cancelled')
             and j.finished_at is null
             and (latest_jobs.before is null or j.id < latest_jobs.before or (select l.at from last l) > '-infinity')
             and (latest_jobs.task is null or j.task = latest_jobs.task)
             and (latest_jobs.error is null or strpos(lower(left(j.last_error, 10000)), lower(latest_jobs.error)) > 0)
             and (latest_jobs.since is null
                  or j.created_at >= statement_timestamp() - make_interval(secs => latest_jobs.since))
           order by j.id desc
           limit latest_jobs.most)) latest
     where latest_jobs.queue is null or e.queue = latest_jobs.queue
     order by latest.at desc, latest.id desc
     limit latest_jobs.most
$$;
comment on function pgqueue.latest_jobs is
    'Of the jobs of a status that has ended the latest to end that match, after the one with the id before';

-- Rights. PUBLIC may call nothing that writes; `pgqueue roles` prints roles of least privilege.

revoke execute on function
    pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean, text, text, interval, text, interval, text),
    pgqueue.enqueue_jobs(jsonb, boolean), pgqueue.enqueue_workflow(jsonb, text, boolean, timestamptz),
    pgqueue.add_to_workflow(bigint, uuid, jsonb, boolean), pgqueue.put_members(bigint, bigint, jsonb, text, boolean, timestamptz),
    pgqueue.named_members(bigint, text[]), pgqueue.expire_workflows(integer, bigint[], bigint[]),
    pgqueue.add_job(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, text, text, interval, text, interval, text),
    pgqueue.add_jobs(jsonb, boolean), pgqueue.place_job(pgqueue.jobs, text), pgqueue.insert_job(pgqueue.jobs),
    pgqueue.schema_id(), pgqueue.room(text), pgqueue.with_defaults(jsonb),
    pgqueue.complete_job(bigint, uuid), pgqueue.retry_keyed(bigint, jsonb), pgqueue.hold_again(bigint[]),
    pgqueue.claim_limited(text, integer, uuid, uuid, float8, boolean, text[], bigint[], bigint[], bigint[], boolean), pgqueue.lowest_due(text, text), pgqueue.any_due(text, bigint[]),
    pgqueue.add_schedule(text, text, text, jsonb, text, text, integer, integer, jsonb, text, text, interval),
    pgqueue.scheduled_jobs(text[]), pgqueue.own_key(text, jsonb),
    pgqueue.remove_schedule(text), pgqueue.pause_schedule(text), pgqueue.resume_schedule(text), pgqueue.run_schedule(text),
    pgqueue.settle(bigint[], bigint[], bigint[]), pgqueue.worst(bigint), pgqueue.cancel_workflow(bigint),
    pgqueue.retry_members(bigint[], jsonb), pgqueue.retry_workflow(bigint),
    pgqueue.check_claim(bigint, uuid), pgqueue.save_step(bigint, uuid, text, jsonb, text, float8),
    pgqueue.fail_step(bigint, uuid, text, integer, jsonb, text, float8), pgqueue.check_step(bigint, text, text, text[]),
    pgqueue.start_sleep(bigint, uuid, text, float8, timestamptz), pgqueue.await_event(bigint, uuid, text, text[], float8, boolean),
    pgqueue.await_jobs(bigint, uuid, text, bigint[], float8),
    pgqueue.wake_waiting(bigint[], bigint[], bigint[]), pgqueue.emit(text, jsonb), pgqueue.send(bigint, text, jsonb),
    pgqueue.put_event(bigint, text, jsonb, text), pgqueue.deliver_events(integer, bigint[], bigint[]),
    pgqueue.forget_steps(bigint, text), pgqueue.retry_job(bigint, jsonb, text),
    pgqueue.find_jobs(text[], text, text, text, float8),
    pgqueue.latest_jobs(text, text, text, text, float8, bigint, integer)
    from public;
