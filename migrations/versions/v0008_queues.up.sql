-- A row named * stands for all queues, and can only be paused.
alter table pgqueue.queues
    add column max_pending integer constraint queues_max_pending check (max_pending >= 1),
    add column keep_succeeded interval
        constraint queues_keep_succeeded check (keep_succeeded between interval '0' and interval '1000 years'),
    add column keep_dead interval constraint queues_keep_dead check (keep_dead between interval '0' and interval '1000 years'),
    add column keep_cancelled interval
        constraint queues_keep_cancelled check (keep_cancelled between interval '0' and interval '1000 years'),
    add column priority smallint,
    add column max_retries integer constraint queues_max_retries check (max_retries between 0 and 1000),
    add column backoff jsonb constraint queues_backoff check (pgqueue.is_backoff(backoff)),
    add column expires interval constraint queues_expires check (expires between interval '0' and interval '365 days'),
    add column timeout interval constraint queues_timeout check (timeout between interval '1 millisecond' and interval '365 days'),
    add constraint queues_all check (
        name <> '*' or coalesce(max_pending, max_retries, priority, extract(epoch from keep_succeeded),
                                extract(epoch from keep_dead), extract(epoch from keep_cancelled),
                                extract(epoch from expires), extract(epoch from timeout)) is null and backoff is null);
comment on column pgqueue.queues.max_pending is 'Pending jobs at which enqueuing is refused or waits; null: any number';
comment on column pgqueue.queues.keep_succeeded is 'Retention of succeeded jobs, 0 deletes them at once; null: as the workers are set';
comment on column pgqueue.queues.keep_dead is 'Retention of dead jobs; null: as the workers are set';
comment on column pgqueue.queues.keep_cancelled is 'Retention of cancelled jobs; null: as the workers are set';
comment on column pgqueue.queues.priority is 'Of jobs that are enqueued without one';
comment on column pgqueue.queues.max_retries is 'Of jobs that are enqueued without';
comment on column pgqueue.queues.backoff is 'Of jobs that are enqueued without';
comment on column pgqueue.queues.expires is 'Of jobs that are enqueued without: not started later than this after they were due';
comment on column pgqueue.queues.timeout is 'Longest run of a job whose task sets none';

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
begin
    if jsonb_typeof(jobs) is distinct from 'array'
       or not exists (select from pgqueue.queues q
                       where q.priority is not null or q.max_retries is not null or q.backoff is not null or q.expires is not null) then
        return jobs;
    end if;
    return coalesce((
        select jsonb_agg(
                   e.job || case when q.name is null then '{}' else jsonb_strip_nulls(jsonb_build_object(
                       'priority', case when e.job ->> 'priority' is null then q.priority end,
                       'max_retries', case when e.job ->> 'max_retries' is null then q.max_retries end,
                       'backoff', case when e.job ->> 'backoff' is null then q.backoff end,
                       'expires', case when e.job ->> 'expires' is null then extract(epoch from q.expires) end)) end
                   order by e.ordinality)
          from jsonb_array_elements(jobs) with ordinality as e(job, ordinality)
          left join pgqueue.queues q on q.name = coalesce(e.job ->> 'queue', 'default')), jobs);
end $$;
comment on function pgqueue.with_defaults is 'Jobs to be enqueued, with the defaults of their queues in place of what was left out';

create or replace function pgqueue.enqueue(
    task text, args jsonb default '{}', queue text default 'default', priority integer default null,
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
    settings pgqueue.queues;
    full_of integer;
begin
    select q.* into settings from pgqueue.queues q where q.name = queue;
    priority := coalesce(priority, settings.priority, 0);
    max_retries := coalesce(max_retries, settings.max_retries, 10);
    backoff := coalesce(backoff, settings.backoff);
    expires := coalesce(expires, settings.expires);
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
        perform pg_notify(pgqueue.channel(queue), '');
    end if;
    return added.id;
end $$;

create or replace function pgqueue.enqueue_jobs(jobs jsonb, notify boolean default true)
    returns table (ordinal bigint, id bigint, placed text)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    holder text;
begin
    jobs := pgqueue.with_defaults(jobs);
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

create or replace function pgqueue.enqueue_workflow(jobs jsonb, name text default '', notify boolean default true)
    returns table (workflow_id bigint, ordinal bigint, job_id bigint)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set enable_hashjoin = on set enable_seqscan = on set jit = off
as $$
#variable_conflict use_column
declare
    n bigint;
    ids bigint[];
    wrong text;
    new_id bigint;
begin
    jobs := pgqueue.with_defaults(jobs);
    n := case when jsonb_typeof(jobs) = 'array' then jsonb_array_length(jobs) end;
    wrong := case
        when coalesce(n, 0) = 0 then 'a workflow needs a JSON array of one job or more'
        when enqueue_workflow.name is null or length(enqueue_workflow.name) > 200 then 'the name of a workflow has at most 200 characters'
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
                         when g.name is not null and count(*) over (partition by g.name) > 1 then
                             format('two jobs are named %L', g.name)
                    end) as wrong
                  from (select e.ordinality as n, r.*
                          from jsonb_array_elements(jobs) with ordinality as e(job, ordinality)
                         cross join lateral jsonb_to_record(e.job) as r(
                               task text, args jsonb, queue text, priority integer, max_retries integer, backoff jsonb,
                               run_at timestamptz, delay float8, expires float8, limit_key text, unique_key text,
                               name text, if_failed text, after bigint[])) g) w
         where w.wrong is not null order by w.n limit 1;
    end if;
    if wrong is not null then
        raise exception using message = wrong, errcode = '22023';
    end if;
    ids := array(select nextval('pgqueue.jobs_id_seq') from generate_series(1, n));
    insert into pgqueue.workflows (name, watched) values (enqueue_workflow.name, ids[n]) returning id into new_id;
    with given as materialized (
        select e.ordinality as n, ids[e.ordinality] as id, r.*, coalesce(cardinality(r.after), 0) > 0 as waits
          from jsonb_array_elements(jobs) with ordinality as e(job, ordinality)
         cross join lateral jsonb_to_record(e.job) as r(
               task text, args jsonb, queue text, priority integer, max_retries integer, backoff jsonb,
               run_at timestamptz, delay float8, expires float8, limit_key text, name text, if_failed text, after bigint[])
    ), added as (
        insert into pgqueue.jobs (id, task, args, queue, priority, max_retries, backoff, run_at, expires_at, limit_key,
                                  workflow_id, status)
        overriding system value
        select g.id, g.task, coalesce(g.args, '{}'), coalesce(g.queue, 'default'), coalesce(g.priority, 0),
               coalesce(g.max_retries, 10), g.backoff, t.run_at, t.run_at + make_interval(secs => g.expires),
               g.task || ':' || g.limit_key, new_id, case when g.waits then 'blocked' else 'pending' end
          from given g
         cross join lateral (select coalesce(g.run_at, clock_timestamp() + make_interval(secs => coalesce(g.delay, 0)))) t(run_at)
        returning queue, status, run_at
    ), edges as (
        insert into pgqueue.dependencies (job_id, parent_id)
        select distinct g.id, ids[a] from given g cross join unnest(g.after) a
    ), members as (
        insert into pgqueue.workflow_jobs (job_id, workflow_id, name, if_failed, delay, watched)
        select g.id, new_id, g.name, coalesce(g.if_failed, 'cancel'),
               case when g.waits and g.run_at is null then make_interval(secs => g.delay) end,
               case when g.waits then ids[(select max(a) from unnest(g.after) a)] end
          from given g
    )
    select count(pg_notify(pgqueue.channel(q.queue), '')) into n
      from (select distinct a.queue from added a
             where notify and a.status = 'pending' and a.run_at <= clock_timestamp()) q;
    return query select new_id, i.ordinality, i.id from unnest(ids) with ordinality as i(id, ordinality);
end $$;

revoke execute on function pgqueue.room(text), pgqueue.with_defaults(jsonb) from public;
-- Whoever may enqueue may ask for room; whoever may insert jobs may see the bounds and defaults of their queues.
do $$
declare
    command text;
begin
    for command in
        select distinct format('grant %s to %s', g.what,
                               case when g.grantee = 0 then 'public' else g.grantee::regrole::text end)
          from (select 'execute on function pgqueue.room(text)' as what, acl.grantee
                  from pg_proc p cross join lateral aclexplode(p.proacl) acl
                 where p.pronamespace = (select relnamespace from pg_class where oid = 'pgqueue.jobs'::regclass)
                   and p.proname = 'enqueue' and acl.privilege_type = 'EXECUTE'
                union all
                select 'select on pgqueue.queues', acl.grantee
                  from pg_attribute a cross join lateral aclexplode(a.attacl) acl
                 where a.attrelid = 'pgqueue.jobs'::regclass and a.attname = 'task' and acl.privilege_type = 'INSERT') g
    loop
        execute command;
    end loop;
end $$;

comment on schema pgqueue is 'pgqueue schema 8, serves schema 1';
