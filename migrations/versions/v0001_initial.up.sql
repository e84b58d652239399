create schema if not exists pgqueue;

-- One wide jobs table: every transition is one statement on one row.
create table pgqueue.jobs (
    id               bigint generated always as identity primary key,
    run_at           timestamptz not null default clock_timestamp(),
    created_at       timestamptz not null default clock_timestamp(),
    claimed_at       timestamptz,
    lease_expires_at timestamptz,
    finished_at      timestamptz,
    claim_id         uuid,
    worker_id        uuid,
    attempt          integer  not null default 0,
    max_retries      integer  not null default 10,
    crashes          integer  not null default 0,
    run_seconds      real,
    priority         smallint not null default 0,
    cancel_requested boolean  not null default false,
    status           text     not null default 'pending'
        constraint jobs_status check (status in ('pending', 'running', 'succeeded', 'dead', 'cancelled')),
    queue            text     not null default 'default'
        constraint jobs_queue check (queue ~ '^[A-Za-z0-9_.:-]{1,64}$'),
    task             text     not null
        constraint jobs_task check (length(task) between 1 and 200),
    args             jsonb    not null default '{}',
    backoff          jsonb,
    last_error       text
) with (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0, vacuum_index_cleanup = on, vacuum_truncate = off
);
comment on table pgqueue.jobs is 'One row per job. Status dead is the dead-letter queue.';
comment on column pgqueue.jobs.claim_id is 'Fencing token made by the client per claim; null unless running';
comment on column pgqueue.jobs.worker_id is 'Who runs it: information, and the predicate of jobs_running; null unless running';
comment on column pgqueue.jobs.attempt is 'Claims so far, counted at the claim; a snooze gives its attempt back';
comment on column pgqueue.jobs.max_retries is 'Runs allowed after the first';
comment on column pgqueue.jobs.crashes is 'Leases that ran out: the worker died or lost its database';
comment on column pgqueue.jobs.run_seconds is 'Run time of the last attempt, by the worker''s monotonic clock';
comment on column pgqueue.jobs.backoff is '{"base": s, "factor": x, "cap": s, "jitter": 0..1}; null means the default';

create index jobs_ready on pgqueue.jobs (queue, priority desc, run_at, id) where status = 'pending';
-- The predicate names no column that a completion names: else the planner takes this index for
-- completions, and walks its dead entries while another session holds a snapshot.
create index jobs_running on pgqueue.jobs (id) where worker_id is not null;
create index jobs_finished on pgqueue.jobs (queue, status, finished_at)
    where status in ('succeeded', 'dead', 'cancelled');

create table pgqueue.attempts (
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
    run_seconds real
);
comment on table pgqueue.attempts is 'Attempts that did not succeed, append-only; pruned with their job';
create index attempts_job on pgqueue.attempts (job_id);

create table pgqueue.queues (
    name      text primary key constraint queues_name check (name ~ '^[A-Za-z0-9_.:-]{1,64}$'),
    paused_at timestamptz
);
comment on table pgqueue.queues is 'Settings of a queue; a queue needs no row here to be used';

create table pgqueue.workers (
    id         uuid primary key,
    host       text not null,
    pid        integer not null,
    version    text not null,
    queues     text[],
    started_at timestamptz not null default clock_timestamp(),
    seen_at    timestamptz not null default clock_timestamp()
);
comment on table pgqueue.workers is 'Who is alive, for people to read; it decides nothing';

create function pgqueue.channel(queue text) returns text
    language sql immutable parallel safe
    set search_path = pg_catalog, pg_temp
as $$ select case when length('pgqueue:' || queue) > 63 then 'pgqueue:' || md5(queue) else 'pgqueue:' || queue end $$;
comment on function pgqueue.channel is 'The NOTIFY channel of a queue; PostgreSQL allows 63 bytes';

-- Exponential backoff with "equal jitter": https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
-- The exponent is clamped: an overflow here would make failures impossible to record.
create function pgqueue.backoff(attempt integer, policy jsonb default null) returns interval
    language sql volatile parallel safe
    set search_path = pg_catalog, pg_temp
as $$
    select make_interval(secs =>
        least(cap, base * power(least(greatest(factor, 1), 100), least(greatest(attempt, 1) - 1, 64)::float8))
        * (1 - jitter * random()))
    from (select least(greatest(coalesce((policy ->> 'base')::float8, 10), 0), 31536000) as base,
                 coalesce((policy ->> 'factor')::float8, 2) as factor,
                 least(greatest(coalesce((policy ->> 'cap')::float8, 3600), 0), 31536000) as cap,
                 least(greatest(coalesce((policy ->> 'jitter')::float8, 0.5), 0), 1) as jitter) as p
$$;
comment on function pgqueue.backoff is 'Wait before the next run: min(cap, base * factor^(attempt-1)), less up to jitter of it';

create function pgqueue.enqueue(
    task text, args jsonb default '{}', queue text default 'default', priority integer default 0,
    run_at timestamptz default null, delay interval default null, max_retries integer default 10,
    backoff jsonb default null, notify boolean default true
) returns bigint
    language plpgsql volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    job_id bigint;
    due timestamptz := coalesce(run_at, clock_timestamp() + coalesce(delay, interval '0'));
begin
    if jsonb_typeof(args) is distinct from 'object' then
        raise exception 'args must be a JSON object with one key per parameter of the task, got %',
            coalesce(jsonb_typeof(args), 'null') using errcode = '22023';
    end if;
    if octet_length(args::text) > 1048576 then
        raise exception 'args of task % are over 1 MB: store the document and pass its id', task
            using errcode = '22023';
    end if;
    if max_retries not between 0 and 1000 then
        raise exception 'max_retries must be from 0 to 1000, got %', max_retries using errcode = '22023';
    end if;
    insert into pgqueue.jobs (task, args, queue, priority, run_at, max_retries, backoff)
    values (task, args, queue, priority, due, max_retries, backoff)
    returning id into job_id;
    if notify and due <= clock_timestamp() then
        perform pg_notify(pgqueue.channel(queue), '');
    end if;
    return job_id;
end $$;
comment on function pgqueue.enqueue is 'Enqueue a job in the caller''s transaction; returns its id';

create function pgqueue.complete_job(id bigint, claim_id uuid) returns void
    language plpgsql volatile
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
select queue from pending where queue is not null
union select queue from finished where queue is not null
union select queue from pgqueue.jobs where worker_id is not null
union select name from pgqueue.queues;
comment on view pgqueue.queue_names is 'Every queue that has a job or a setting (loose index scans)';

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
     select min(first.run_at) as run_at from lane l
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
       percentile_cont(0.5) within group (order by extract(epoch from j.claimed_at - j.run_at)::float8) as wait_p50,
       percentile_cont(0.95) within group (order by extract(epoch from j.claimed_at - j.run_at)::float8) as wait_p95,
       percentile_cont(0.99) within group (order by extract(epoch from j.claimed_at - j.run_at)::float8) as wait_p99
  from pgqueue.queue_names n
 cross join lateral (select f.* from pgqueue.jobs f where f.queue = n.queue and f.status = 'succeeded'
      and f.finished_at is not null order by f.finished_at desc limit 1000) j
 group by j.queue, j.task;
comment on view pgqueue.task_stats is
    'Run and wait times in seconds per task, of the latest 1,000 succeeded jobs of each queue';

create view pgqueue.dead_jobs as
select j.task, j.queue, split_part(coalesce(j.last_error, ''), ':', 1) as error, count(*) as jobs,
       max(j.finished_at) as latest, min(j.id) as example_id
  from pgqueue.queue_names n
 cross join lateral (select f.* from pgqueue.jobs f where f.queue = n.queue and f.status = 'dead'
      order by f.finished_at desc limit 10000) j
 group by 1, 2, 3;
comment on view pgqueue.dead_jobs is 'Dead jobs by task and error, of the latest 10,000 per queue';

comment on schema pgqueue is 'pgqueue schema 1';
