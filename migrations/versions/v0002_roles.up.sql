-- The functions run as the owner of the schema, so a role can be given one of them and no table.
-- Whoever could insert into the table may call enqueue() as before; PUBLIC may call neither.
alter function pgqueue.complete_job(bigint, uuid) security definer;

create or replace function pgqueue.enqueue(
    task text, args jsonb default '{}', queue text default 'default', priority integer default 0,
    run_at timestamptz default null, delay interval default null, max_retries integer default 10,
    backoff jsonb default null, notify boolean default true
) returns bigint
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    job_id bigint;
    due timestamptz;
    size integer := octet_length(args::text);
    -- Checked here, not by constraints, whose errors print the row with its arguments.
    wrong text := case
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
        when delay not between interval '0' and interval '365 days' then
            'delay must be from 0 to 365 days, got ' || delay::text
        when not pgqueue.is_backoff(backoff) then
            'backoff must be a JSON object of numbers: base and cap from 0 to 31536000 (seconds),'
            || ' factor from 1 to 100, jitter from 0 to 1'
    end;
begin
    if wrong is not null then
        raise exception using message = wrong, errcode = '22023';
    end if;
    due := coalesce(run_at, clock_timestamp() + coalesce(delay, interval '0'));
    insert into pgqueue.jobs (task, args, queue, priority, run_at, max_retries, backoff)
    values (task, args, queue, priority, due, max_retries, backoff)
    returning id into job_id;
    if notify and due <= clock_timestamp() then
        perform pg_notify(pgqueue.channel(queue), '');
    end if;
    return job_id;
end $$;

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

-- A job inserted without enqueue() may carry any JSON here: what is no number counts as not given,
-- and clamping comes before the conversion. An error would make failures impossible to record.
create or replace function pgqueue.backoff(attempt integer, policy jsonb default null) returns interval
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

-- Rows from SQL may have any date: before the epoch it would fit no driver, at infinity no number.
create or replace view pgqueue.queue_stats as
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

create or replace view pgqueue.task_stats as
select j.queue, j.task, count(*) as sampled,
       percentile_cont(0.5) within group (order by j.run_seconds) as run_p50,
       percentile_cont(0.95) within group (order by j.run_seconds) as run_p95,
       percentile_cont(0.99) within group (order by j.run_seconds) as run_p99,
       percentile_cont(0.5) within group (order by extract(epoch from j.claimed_at - greatest(j.run_at, timestamptz 'epoch'))::float8) as wait_p50,
       percentile_cont(0.95) within group (order by extract(epoch from j.claimed_at - greatest(j.run_at, timestamptz 'epoch'))::float8) as wait_p95,
       percentile_cont(0.99) within group (order by extract(epoch from j.claimed_at - greatest(j.run_at, timestamptz 'epoch'))::float8) as wait_p99
  from pgqueue.queue_names n
 cross join lateral (select f.* from pgqueue.jobs f where f.queue = n.queue and f.status = 'succeeded'
      and f.finished_at is not null order by f.finished_at desc limit 1000) j
 group by j.queue, j.task;

create view pgqueue.jobs_public with (security_barrier) as
select id, queue, task, status, priority, attempt, max_retries, crashes, run_at, created_at, claimed_at,
       finished_at, lease_expires_at, run_seconds, worker_id, cancel_requested
  from pgqueue.jobs;
comment on view pgqueue.jobs_public is 'Jobs without arguments, error texts and claims, for those who may only look';

revoke execute on function
    pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean),
    pgqueue.complete_job(bigint, uuid) from public;
do $$
declare
    command text;
begin
    for command in
        select format('grant execute on function %s to %s', f.signature,
                      case when acl.grantee = 0 then 'public' else acl.grantee::regrole::text end)
          from (values ('UPDATE', 'pgqueue.complete_job(bigint, uuid)'),
                       ('INSERT', 'pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean)'))
               as f(privilege, signature)
          join (select (aclexplode(relacl)).* from pg_class where oid = 'pgqueue.jobs'::regclass
                union all
                select (aclexplode(attacl)).* from pg_attribute where attrelid = 'pgqueue.jobs'::regclass) acl
            on acl.privilege_type = f.privilege
    loop
        execute command;
    end loop;
end $$;

comment on schema pgqueue is 'pgqueue schema 2, serves schema 1';
