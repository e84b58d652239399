create or replace function pgqueue.enqueue(
    task text, args jsonb default '{}', queue text default 'default', priority integer default 0,
    run_at timestamptz default null, delay interval default null, max_retries integer default 10,
    backoff jsonb default null, notify boolean default true, unique_key text default null,
    unique_until text default 'finished', unique_for interval default null, on_conflict text default 'ignore',
    expires interval default null, limit_key text default null
) returns bigint
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    added record;
    wrong text := pgqueue.wrong_with(task, args, queue, priority, run_at, delay, max_retries, backoff, unique_key,
                                     unique_until, unique_for, on_conflict, expires, limit_key);
begin
    if wrong is not null then
        raise exception using message = wrong, errcode = '22023';
    end if;
    added := pgqueue.add_job(task, args, queue, priority, run_at, delay, max_retries, backoff, unique_key,
                             unique_until, unique_for, on_conflict, expires, limit_key);
    if added.placed = 'existing' and on_conflict = 'raise' then
        raise exception 'job % has the unique key of this one', coalesce(added.id::text, 'of another transaction')
            using errcode = 'PQ002';
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

drop function pgqueue.with_defaults(jsonb);
drop function pgqueue.room(text);
alter table pgqueue.queues
    drop column max_pending, drop column keep_succeeded, drop column keep_dead, drop column keep_cancelled,
    drop column priority, drop column max_retries, drop column backoff, drop column expires, drop column timeout;

comment on schema pgqueue is 'pgqueue schema 7, serves schema 1';
