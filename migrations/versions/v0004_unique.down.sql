drop function pgqueue.retry_keyed(bigint, jsonb);
drop function pgqueue.enqueue_jobs(jsonb, boolean);
drop function pgqueue.add_jobs(jsonb, boolean);
create function pgqueue.enqueue(
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
comment on function pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean) is
    'Enqueue a job in the caller''s transaction; returns its id';
revoke execute on function
    pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean) from public;
do $$
declare
    command text;
begin
    for command in
        select format('grant execute on function %s to %s',
                      'pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean)',
                      case when acl.grantee = 0 then 'public' else acl.grantee::regrole::text end)
          from (select (aclexplode(proacl)).* from pg_proc
                 where oid = 'pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean, text, text, interval, text, interval, text)'::regprocedure) acl
    loop
        execute command;
    end loop;
end $$;
drop function pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean, text, text, interval, text, interval, text);
drop function pgqueue.add_job(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, text, text, interval, text, interval, text);
drop function pgqueue.place_job(pgqueue.jobs, text);
drop function pgqueue.insert_job(pgqueue.jobs);
drop function pgqueue.wrong_with(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, text, text, interval, text, interval, text);
drop function pgqueue.claim_limited(text, integer, uuid, uuid, float8, text);
drop function pgqueue.tokens(text, float8, integer);
drop table pgqueue.buckets;
drop table pgqueue.tasks;
alter table pgqueue.queues drop column max_running, drop column rate, drop column burst, drop column declared;
delete from pgqueue.queues where name = '*';
alter table pgqueue.queues drop constraint queues_name;
alter table pgqueue.queues add constraint queues_name check (name ~ '^[A-Za-z0-9_.:-]{1,64}$');
drop function pgqueue.held_key(text, text, text, timestamptz);
alter table pgqueue.jobs drop column unique_key, drop column unique_until, drop column unique_expires_at,
    drop column expires_at, drop column limit_key, drop column progress, drop column result;
delete from pgqueue.attempts where outcome = 'succeeded';
alter table pgqueue.attempts drop column log;
comment on table pgqueue.attempts is 'Attempts that did not succeed, append-only; pruned with their job';
