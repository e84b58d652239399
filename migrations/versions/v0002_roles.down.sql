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
