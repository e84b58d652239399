-- part: chosen
-- Not a row that was refused lately; and of those that are given, where a refusal is narrowed down to its row.
            and j.id not in (select unnest(:not_ids::bigint[]))
            and (:only_ids::bigint[] is null or j.id = any (:only_ids::bigint[]))

-- name: enqueue_workflow
-- Insert jobs that wait for each other, all or none; the workflow's id and theirs, in order.
select w.workflow_id, w.job_id
  from pgqueue.enqueue_workflow(:jobs::text::jsonb, :name::text, :notify::boolean,
                                coalesce(:deadline_at::timestamptz, clock_timestamp() + make_interval(secs => :deadline_in::float8))) w
 order by w.ordinal;

-- name: add_to_workflow
-- Add jobs to the workflow of a running job; the workflow's id and theirs, in order.
select w.workflow_id, w.added_id
  from pgqueue.add_to_workflow(:id::bigint, (:claim_id::text)::uuid, :jobs::text::jsonb, :notify::boolean) w
 order by w.ordinal;

-- name: settle
-- These jobs have ended: let those that waited for them go on.
select s.released, s.again, s.locked from pgqueue.settle(:ids::bigint[], :not_ids::bigint[], :only_ids::bigint[]) s;

-- name: waiting_jobs
-- Jobs that may wait for these, a thousand at most.
select d.job_id from pgqueue.dependencies d
  join pgqueue.jobs j on j.id = d.job_id
 where d.parent_id = any (:ids::bigint[]) and j.status = 'blocked' and j.id not in (select unnest(:not_ids::bigint[]))
union
select s.job_id from pgqueue.steps s
 where s.watched = any (:ids::bigint[]) and s.job_id not in (select unnest(:not_ids::bigint[]))
 limit 1000;

-- name: unsettled
-- Jobs that are waited for, by jobs or workflows, from an id on, and whether they have ended: for ends
-- that nobody told of.
with recursive watched(id) as (
    select least((select m.watched from pgqueue.workflow_jobs m where m.watched > :after::bigint order by m.watched limit 1),
                 (select f.watched from pgqueue.workflows f where f.watched > :after::bigint order by f.watched limit 1),
                 (select s.watched from pgqueue.steps s where s.watched > :after::bigint order by s.watched limit 1))
    union all
    select least((select m.watched from pgqueue.workflow_jobs m where m.watched > w.id order by m.watched limit 1),
                 (select f.watched from pgqueue.workflows f where f.watched > w.id order by f.watched limit 1),
                 (select s.watched from pgqueue.steps s where s.watched > w.id order by s.watched limit 1))
      from watched w where w.id is not null
), few as (
    select w.id from watched w where w.id is not null limit :limit::integer
)
select f.id, j.id is null or j.status in ('succeeded', 'dead', 'cancelled')
  from few f left join pgqueue.jobs j on j.id = f.id;

-- name: workflow_results
-- What jobs of a workflow returned, by name.
select m.name, j.result::text
  from pgqueue.workflow_jobs m
  join pgqueue.jobs j on j.id = m.job_id
 where m.workflow_id = :id::bigint and m.name = any (:names::text[]);

-- name: list_workflows
-- Workflows, newest first; a null filter matches all.
select w.id, w.name, w.status, pgqueue.readable(w.created_at), pgqueue.readable(w.finished_at),
       w.jobs, w.blocked, w.pending, w.running, w.succeeded, w.dead, w.cancelled,
       pgqueue.readable(w.deadline_at), pgqueue.readable(w.expired_at)
  from pgqueue.workflow_list w
 where (:id::bigint is null or w.id = :id::bigint)
   and (:name::text is null or w.name = :name::text)
   and (:status::text is null or w.status = :status::text)
   and (:before::bigint is null or w.id < :before::bigint)
 order by w.id desc
 limit :limit::integer;

-- name: list_workflow_jobs
-- The jobs of a workflow in order, each with those it waits for.
select m.job_id, m.name, j.task, j.status, m.if_failed, left(j.last_error, 500),
       array(select d.parent_id from pgqueue.dependencies d where d.job_id = m.job_id order by d.parent_id
             limit :parents::integer)
  from pgqueue.workflow_jobs m
  join pgqueue.jobs j on j.id = m.job_id
 where m.workflow_id = :id::bigint and m.job_id > :after::bigint
 order by m.job_id
 limit :limit::integer;

-- name: cancel_workflow
-- Cancel all jobs of a workflow; how many.
select pgqueue.cancel_workflow(:id::bigint);

-- name: retry_workflow
-- Put the dead and cancelled jobs of a workflow back; how many.
select pgqueue.retry_workflow(:id::bigint);

-- part: overdue
-- Workflows whose deadline has passed, and of their jobs those that have not ended and were not asked to stop, from the last
-- one on: so none begins because another was cancelled.
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
-- include: chosen
          order by m.job_id desc
          limit :limit::integer
          for no key update of j skip locked) found
     limit :limit::integer
)

-- name: expire_workflows
-- Cancel a batch of the jobs of workflows that have passed their deadline, and ask running ones to stop.
select e.job_id, e.cancelled from pgqueue.expire_workflows(:limit::integer, :not_ids::bigint[], :only_ids::bigint[]) e;

-- name: overdue_members
-- Those that expire_workflows stops.
-- include: overdue
select c.id from chosen c;

-- part: old
-- Workflows that ended longer ago than the given age, the oldest first, and as many of their jobs as fit a batch; without
-- what others have locked.
with old as materialized (
    select w.id from pgqueue.workflows w
     where w.status = :status::text and w.finished_at is not null
       and w.finished_at < now() - make_interval(secs => :age::float8)
       -- A job of it may have been put back. A subquery of its own for each workflow: it cannot become a walk over all jobs.
       and (select j.id from pgqueue.workflow_jobs m join pgqueue.jobs j on j.id = m.job_id
             where m.workflow_id = w.id and j.status in ('blocked', 'pending', 'running') limit 1) is null
     order by w.finished_at
     limit :limit::integer
     for update of w skip locked
), whole as materialized (
    select o.id as workflow_id, found.id as job_id
      from old o
     cross join lateral (
         select j.id from pgqueue.workflow_jobs m
           join pgqueue.jobs j on j.id = m.job_id
          where m.workflow_id = o.id
-- include: chosen
          order by m.job_id
          limit :limit::integer

-- name: prune_workflows
-- Delete one batch of jobs of old workflows; with its last job a workflow goes. One row per job, or per workflow without any,
-- with the id of the workflow.
-- include: old
          for update of m, j skip locked) found
     limit :limit::integer
), members as materialized (
    select whole.workflow_id, whole.job_id from whole
    union all
    -- Of those whose rows are gone what is left.
    (select o.id, found.job_id
       from old o
      cross join lateral (
          select m.job_id from pgqueue.workflow_jobs m
           where m.workflow_id = o.id and not exists (select from pgqueue.jobs j where j.id = m.job_id)
           limit :limit::integer
           for update of m skip locked) found
      limit :limit::integer)
), logged as (
    delete from pgqueue.attempts a using members where a.job_id = members.job_id
), stepped as (
    delete from pgqueue.steps s using members where s.job_id = members.job_id
), edges as (
    delete from pgqueue.dependencies d using members where d.job_id = members.job_id
), rows as (
    delete from pgqueue.jobs j using members where j.id = members.job_id
), gone as (
    delete from pgqueue.workflow_jobs m using members where m.job_id = members.job_id
), workflow as (
    delete from pgqueue.workflows w using old
     where w.id = old.id
       and not exists (select from pgqueue.workflow_jobs m
                        where m.workflow_id = w.id and m.job_id not in (select members.job_id from members))
    returning w.id
)
select members.workflow_id from members
union all
select workflow.id from workflow where workflow.id not in (select members.workflow_id from members);

-- name: old_members
-- The jobs that prune_workflows deletes.
-- include: old
     ) found
     limit :limit::integer
)
select whole.job_id from whole;
