alter table pgqueue.jobs add column workflow_id bigint;
comment on column pgqueue.jobs.workflow_id is 'The workflow that it belongs to';
alter table pgqueue.jobs drop constraint jobs_status;
-- Not valid: the rows that are there satisfied the narrower one, and need not be read.
alter table pgqueue.jobs add constraint jobs_status
    check (status in ('blocked', 'pending', 'running', 'succeeded', 'dead', 'cancelled')) not valid;

create table pgqueue.workflows (
    id          bigint generated always as identity primary key,
    name        text not null default '' constraint workflows_name check (length(name) <= 200),
    watched     bigint,
    status      text constraint workflows_status check (status in ('succeeded', 'dead', 'cancelled')),
    created_at  timestamptz not null default clock_timestamp(),
    finished_at timestamptz
) with (fillfactor = 70);
comment on table pgqueue.workflows is 'Jobs that wait for each other';
comment on column pgqueue.workflows.watched is 'A job of it that has not ended, as far as was looked';
comment on column pgqueue.workflows.status is 'Null until all its jobs have ended; then the worst of their ends';
create index workflows_watched on pgqueue.workflows (watched) where watched is not null;
create index workflows_finished on pgqueue.workflows (finished_at) where finished_at is not null;

create table pgqueue.workflow_jobs (
    job_id      bigint primary key,
    workflow_id bigint not null,
    name        text,
    if_failed   text not null default 'cancel'
        constraint workflow_jobs_if_failed check (if_failed in ('cancel', 'continue', 'hold', 'only')),
    delay       interval,
    watched     bigint
) with (fillfactor = 70);
comment on table pgqueue.workflow_jobs is 'The jobs of workflows';
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

create function pgqueue.enqueue_workflow(jobs jsonb, name text default '', notify boolean default true)
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
comment on function pgqueue.enqueue_workflow is
    'Enqueue jobs that wait for each other, all or none: each with after, the places of jobs before it in the list, from 1 on; if_failed; name';

-- The jobs given have ended: those that waited for them go on, or are cancelled. Each call is to be a transaction of
-- its own, and those it returns are to be given to the next: two ends at once see each other in one of the two.
create function pgqueue.settle(ended bigint[], out released bigint, out again bigint[])
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off
    set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
    most constant integer := 1000;
    more bigint[];
    freed bigint;
begin
    -- Of a parent that failed: those that are cancelled, or run, for it.
    with touched as materialized (
        select m.job_id, m.if_failed, m.delay
          from pgqueue.workflow_jobs m
         where m.watched is not null and m.if_failed in ('cancel', 'only')
           and m.job_id in (select d.job_id
                              from unnest(ended) e(id)
                              join pgqueue.dependencies d on d.parent_id = e.id
                              left join pgqueue.jobs p on p.id = e.id
                             where p.id is null or p.status in ('dead', 'cancelled'))
         order by m.job_id
         limit most
         for update of m
    ), unwatched as (
        update pgqueue.workflow_jobs m set watched = null from touched t where m.job_id = t.job_id
    ), changed as (
        update pgqueue.jobs j
           set status = case when t.if_failed = 'only' then 'pending' else 'cancelled' end,
               run_at = greatest(j.run_at, clock_timestamp() + coalesce(t.delay, interval '0')),
               finished_at = case when t.if_failed = 'cancel' then clock_timestamp() end,
               last_error = case when t.if_failed = 'cancel' then
                   (select format('ParentFailed: job %s is %s', d.parent_id, coalesce(p.status, 'gone'))
                      from pgqueue.dependencies d left join pgqueue.jobs p on p.id = d.parent_id
                     where d.job_id = j.id and (p.id is null or p.status in ('dead', 'cancelled')) limit 1) end
          from touched t
         where j.id = t.job_id and j.status = 'blocked'
        returning j.id, j.queue, j.status
    ), woken as (
        select count(pg_notify(pgqueue.channel(q.queue), '')) as n
          from (select distinct c.queue from changed c where c.status = 'pending') q
    )
    select count(*) filter (where c.status = 'pending'),
           coalesce(array_agg(c.id) filter (where c.status = 'cancelled'), '{}')
           || case when (select count(*) from touched) = most then ended else '{}' end
      into released, again
      from woken left join changed c on true;
    -- Those that watched one of the ended look for the next that holds them.
    with found as materialized (
        select m.job_id
          from unnest(ended) e(id)
          left join pgqueue.jobs p on p.id = e.id
         cross join lateral (
             select x.job_id from pgqueue.workflow_jobs x
              where x.watched = e.id
                and (p.status = 'succeeded'
                     or (p.id is null or p.status in ('dead', 'cancelled')) and x.if_failed = 'continue')
              limit most) m
         limit most
    ), watching as materialized (
        select m.job_id, m.watched, m.if_failed, m.delay
          from found f
          join pgqueue.workflow_jobs m on m.job_id = f.job_id
         where m.watched = any (ended)
         order by m.job_id
         for update of m
    ), passed as materialized (
        select w.job_id, w.if_failed, clock_timestamp() + coalesce(w.delay, interval '0') as due, held.parent_id as next
          from watching w
          left join lateral (
              select d.parent_id from pgqueue.dependencies d
                left join pgqueue.jobs o on o.id = d.parent_id
               where d.job_id = w.job_id and d.parent_id < w.watched
                 and (o.status in ('blocked', 'pending', 'running')
                      or (o.id is null or o.status in ('dead', 'cancelled')) and w.if_failed <> 'continue')
               order by d.parent_id desc
               limit 1) held on true
    ), moved as (
        update pgqueue.workflow_jobs m set watched = p.next from passed p where m.job_id = p.job_id
    ), changed as (
        update pgqueue.jobs j
           set status = case when p.if_failed = 'only' then 'cancelled' else 'pending' end,
               run_at = greatest(j.run_at, p.due), expires_at = j.expires_at + (greatest(j.run_at, p.due) - j.run_at),
               finished_at = case when p.if_failed = 'only' then clock_timestamp() end,
               last_error = case when p.if_failed = 'only' then 'NotNeeded: nothing failed' end
          from passed p
         where p.next is null and j.id = p.job_id and j.status = 'blocked'
        returning j.id, j.queue, j.status
    ), woken as (
        select count(pg_notify(pgqueue.channel(q.queue), '')) as n
          from (select distinct c.queue from changed c where c.status = 'pending') q
    )
    select count(*) filter (where c.status = 'pending'),
           coalesce(array_agg(c.id) filter (where c.status = 'cancelled'), '{}')
           || array(select distinct p.next from passed p where p.next is not null)
           || case when (select count(*) from found) = most then ended else '{}' end
      into freed, more
      from woken left join changed c on true;
    released := released + freed;
    -- Workflows that watched one of the ended: the next that has not, or they have ended.
    with watching as materialized (
        select w.id, w.watched from pgqueue.workflows w
          left join pgqueue.jobs p on p.id = w.watched
         where w.watched = any (ended) and (p.id is null or p.status in ('succeeded', 'dead', 'cancelled'))
         order by w.id
         for update of w
    ), passed as materialized (
        select w.id, next.job_id as next
          from watching w
          left join lateral (
              select m.job_id from pgqueue.workflow_jobs m
                join pgqueue.jobs j on j.id = m.job_id
               where m.workflow_id = w.id and m.job_id < w.watched and j.status in ('blocked', 'pending', 'running')
               order by m.job_id desc
               limit 1) next on true
    ), moved as (
        update pgqueue.workflows w
           set watched = p.next, finished_at = case when p.next is null then clock_timestamp() end,
               status = case when p.next is null then pgqueue.worst(w.id) end
          from passed p
         where w.id = p.id
    )
    select again || more || array(select p.next from passed p where p.next is not null) into again;
end $$;
comment on function pgqueue.settle is
    'Lets what waited for these jobs go on if they have ended; returns how many are pending now, and which jobs to give to the next call, in a transaction after this';

create function pgqueue.worst(of_workflow bigint) returns text
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    -- What was to run only if something failed, and was not needed, is no failure.
    select case when bool_or(j.status = 'dead') then 'dead' when bool_or(j.status = 'cancelled') then 'cancelled'
                else 'succeeded' end
      from pgqueue.workflow_jobs m
      join pgqueue.jobs j on j.id = m.job_id
     where m.workflow_id = of_workflow and not (m.if_failed = 'only' and j.status = 'cancelled')
$$;

create function pgqueue.cancel_workflow(id bigint) returns bigint
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
    with chosen as materialized (
        select j.id from pgqueue.workflow_jobs m
          join pgqueue.jobs j on j.id = m.job_id
         where m.workflow_id = cancel_workflow.id and j.status in ('blocked', 'pending', 'running')
         order by j.id
         for update of j
    ), cancelled as (
        update pgqueue.jobs j
           set status = case when j.status = 'running' then j.status else 'cancelled' end,
               finished_at = case when j.status = 'running' then null else clock_timestamp() end,
               cancel_requested = true
          from chosen c
         where j.id = c.id
        returning j.id
    )
    select count(*) from cancelled
$$;
comment on function pgqueue.cancel_workflow is 'Cancel all jobs of a workflow that have not ended, ask running ones to stop; returns how many';

create function pgqueue.retry_workflow(id bigint) returns bigint
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    chosen bigint;
    look bigint[];
begin
    with members as materialized (
        select m.job_id, (select max(d.parent_id) from pgqueue.dependencies d where d.job_id = m.job_id) as parent
          from pgqueue.workflow_jobs m
          join pgqueue.jobs j on j.id = m.job_id
         where m.workflow_id = retry_workflow.id and j.status in ('dead', 'cancelled')
         order by m.job_id
         for update of m
    ), watching as (
        update pgqueue.workflow_jobs m set watched = c.parent from members c where m.job_id = c.job_id
    ), back as (
        update pgqueue.jobs j
           set status = case when c.parent is null then 'pending' else 'blocked' end, attempt = 0, crashes = 0,
               run_at = clock_timestamp(), finished_at = null, cancel_requested = false, run_seconds = null,
               claimed_at = null, expires_at = null, progress = null
          from members c
         where j.id = c.job_id and j.status in ('dead', 'cancelled')
        returning j.queue, j.status
    ), woken as (
        select count(pg_notify(pgqueue.channel(q.queue), '')) as n
          from (select distinct b.queue from back b where b.status = 'pending') q
    )
    select (select count(*) from back), array(select distinct c.parent from members c where c.parent is not null)
      into chosen, look from woken;
    update pgqueue.workflows w
       set finished_at = null, status = null,
           watched = (select max(m.job_id) from pgqueue.workflow_jobs m where m.workflow_id = w.id)
     where w.id = retry_workflow.id and chosen > 0;
    while cardinality(look) > 0 loop
        select s.again into look from pgqueue.settle(look) s;
    end loop;
    return chosen;
end $$;
comment on function pgqueue.retry_workflow is
    'Put the dead and cancelled jobs of a workflow back; those that wait for others wait again; returns how many';

create view pgqueue.workflow_list as
select w.id, w.name, coalesce(w.status, 'running') as status, w.created_at, w.finished_at,
       n.jobs, n.blocked, n.pending, n.running, n.succeeded, n.dead, n.cancelled
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

revoke execute on function pgqueue.enqueue_workflow(jsonb, text, boolean), pgqueue.settle(bigint[]), pgqueue.worst(bigint),
    pgqueue.cancel_workflow(bigint), pgqueue.retry_workflow(bigint) from public;
-- Whoever may enqueue jobs may enqueue those of a workflow; whoever may complete one may settle.
do $$
declare
    command text;
begin
    for command in
        select distinct format('grant execute on function %s to %s', f.signature,
                      case when acl.grantee = 0 then 'public' else acl.grantee::regrole::text end)
          from (values ('pgqueue.enqueue_jobs(jsonb, boolean)', 'pgqueue.enqueue_workflow(jsonb, text, boolean)'),
                       ('pgqueue.complete_job(bigint, uuid)', 'pgqueue.settle(bigint[])')) as f(as_before, signature)
         cross join lateral (select (aclexplode(proacl)).* from pg_proc where oid = f.as_before::regprocedure) acl
         where acl.privilege_type = 'EXECUTE'
    loop
        execute command;
    end loop;
end $$;

comment on schema pgqueue is 'pgqueue schema 6, serves schema 1';
