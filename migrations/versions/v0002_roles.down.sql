drop view pgqueue.jobs_public;

create or replace function pgqueue.backoff(attempt integer, policy jsonb default null) returns interval
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
     select min(first.run_at) as run_at from lane l
      cross join lateral (select j.run_at from pgqueue.jobs j where j.status = 'pending' and j.queue = n.queue
          and j.priority = l.priority and j.run_at <= statement_timestamp() order by j.run_at limit 1) first) oldest;

create or replace view pgqueue.task_stats as
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

create or replace function pgqueue.enqueue(
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

grant execute on function
    pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean),
    pgqueue.complete_job(bigint, uuid) to public;
alter function pgqueue.complete_job(bigint, uuid) security invoker;
drop function pgqueue.is_backoff(jsonb);

comment on schema pgqueue is 'pgqueue schema 1';
