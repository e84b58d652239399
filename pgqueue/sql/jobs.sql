-- part: waits
       case when j.status = 'pending' then
           case when j.left_at is not null then left(j.left_because, 1000)
                when j.run_at <= now() then
                    -- By the workers that are there; those that were killed are taken for gone when their leases have run out.
                    (select case when count(*) = 0 then 'no worker is running'
                                 when count(*) filter (where w.queues is null or j.queue = any (w.queues)) = 0
                                 then 'no running worker works on this queue'
                                 when count(*) filter (where w.tasks is null or j.task = any (w.tasks)) = 0
                                 then 'no running worker has this task'
                                 when count(*) filter (where (w.queues is null or j.queue = any (w.queues))
                                                             and (w.tasks is null or j.task = any (w.tasks))) = 0
                                 then 'none of the workers that are alive has this task and works on this queue' end
                       from pgqueue.workers w
                      where w.live_until >= clock_timestamp() and not w.quarantine) end end as waiting_because,

-- name: enqueue
-- Insert jobs in the order given; wake the workers of their queues when asked and due.
with added as (
    insert into pgqueue.jobs (task, args, queue, priority, max_retries, backoff, run_at)
    select r.task, r.args, r.queue, r.priority, r.max_retries, r.backoff,
           coalesce(r.run_at, clock_timestamp() + make_interval(secs => coalesce(r.delay, 0)))
      from jsonb_to_recordset(:jobs::text::jsonb) as r(
           task text, args jsonb, queue text, priority smallint, max_retries integer,
           backoff jsonb, run_at timestamptz, delay float8)
    returning id, queue, run_at
), woken as (
    select count(pgqueue.notify(q.queue)) as n
      from (select distinct a.queue from added a where a.run_at <= clock_timestamp()) q
     where :notify::boolean
)
select added.id from added cross join woken order by added.id;

-- name: enqueue_one
-- Insert one job and wake nobody: half the work of enqueue, for the many that need no notification.
insert into pgqueue.jobs (task, args, queue, priority, max_retries, backoff, run_at)
values (:task::text, :args::text::jsonb, :queue::text, :priority::smallint, :max_retries::integer,
        :backoff::text::jsonb,
        coalesce(:run_at::timestamptz, clock_timestamp() + make_interval(secs => coalesce(:delay::float8, 0))))
returning id;

-- name: enqueue_plain
-- As enqueue_one, for a job without options: two thirds of its time.
insert into pgqueue.jobs (task, args) values (:task::text, :args::text::jsonb) returning id;

-- name: enqueue_jobs
-- Insert jobs of which some have a unique key or expire; says of each what became of it.
select e.ordinal, e.id, e.placed
  from pgqueue.enqueue_jobs(:jobs::text::jsonb, :notify::boolean) e
 order by e.ordinal;

-- name: notify
-- Wake the workers of these queues.
select pgqueue.notify(q) from unnest(:queues::text[]) as q;

-- name: complete_job
-- Complete a running job in the caller's transaction; raises PQ001 when the claim is lost.
select pgqueue.complete_job(:id::bigint, (:claim_id::text)::uuid)::text;

-- part: job_columns
       j.id, j.task, j.queue, j.status, j.priority, j.attempt, j.max_retries, j.crashes,
       pgqueue.readable(j.run_at) as run_at, pgqueue.readable(j.created_at), pgqueue.readable(j.claimed_at),
       pgqueue.readable(j.finished_at), pgqueue.readable(j.lease_expires_at), j.run_seconds::float8,
       pgqueue.readable(j.expires_at), left(j.unique_key, 1000), shown.progress,
       j.workflow_id,
       j.worker_id::text, j.cancel_requested, left(j.last_error, :most_error::integer),
-- include: waits

-- part: shown
 -- Rows from SQL may hold anything. To cast a value is to decompress all of it, so what is stored in many bytes is not
 -- looked at; text is decompressed only as far as it is cut. The offset lets each be cast once.
 cross join lateral (
     select case when pg_column_size(j.args) <= :most_args::integer then left(j.args::text, :most_args::integer + 1) end as args,
            case when pg_column_size(j.progress) <= 2048 then left(j.progress::text, 2048)
                 when j.progress is not null then '"[too large to show]"' end as progress
     offset 0) shown

-- part: matches
       (:queue::text is null or j.queue = :queue::text)
   and (:task::text is null or j.task = :task::text)
   and (:error::text is null or strpos(lower(left(j.last_error, 10000)), lower(:error::text)) > 0)
   and (:since::float8 is null
        or coalesce(j.finished_at, j.created_at) >= clock_timestamp() - make_interval(secs => :since::float8))

-- name: get_job
-- One job, whole.
select
-- include: job_columns
       case when length(shown.args) <= :most_args::integer then shown.args end as args
  from pgqueue.jobs j
-- include: shown
 where j.id = :id::bigint;

-- name: get_ends
-- The statuses of jobs, and what those that ended returned; results over 1 MB cannot be stored but by SQL.
select j.id, j.status, left(j.result::text, 2097153) from pgqueue.jobs j where j.id = any (:ids::bigint[]);

-- name: get_attempts
-- The attempts of one job that did not succeed, the newest thousand, oldest first; of tracebacks and logs as many of the
-- newest as fit into a few megabytes.
select a.job_id, a.attempt, left(a.outcome, 200), left(a.error_type, 500), left(a.error, 10000),
       case when a.sofar <= 4000000 then a.traceback end, pgqueue.readable(a.started_at), pgqueue.readable(a.ended_at), a.run_seconds::float8,
       case when a.sofar <= 4000000 then a.log end, a.worker_id::text
  from (select l.job_id, l.attempt, l.outcome, l.error_type, l.error, l.traceback, l.started_at, l.ended_at, l.run_seconds,
               l.log, l.worker_id, l.id,
               sum(coalesce(octet_length(l.traceback), 0) + coalesce(octet_length(l.log), 0)) over (order by l.id desc) as sofar
          from (select n.job_id, n.attempt, n.outcome, n.error_type, n.error, left(n.traceback, 20000) as traceback,
                       n.started_at, n.ended_at, n.run_seconds, left(n.log, 25000) as log, n.worker_id, n.id
                  from pgqueue.attempts n
                 where n.job_id = :id::bigint
                 order by n.id desc
                 limit 1000) l) a
 order by a.ended_at, a.id;

-- part: page_of_jobs
       -- Not more of them together than fits into a moment's memory; the newest come first.
       case when length(shown.args) <= :most_args::integer
             and sum(octet_length(shown.args)) over (order by j.id desc) <= :most_page::integer then shown.args end as args
  from pgqueue.jobs j
-- include: shown

-- name: list_jobs
-- Jobs of any status that match the filters, newest first; a null filter matches all.
select
-- include: job_columns
-- include: page_of_jobs
 where j.id = any (array(
       select j.id from pgqueue.jobs j
        where
-- include: matches
          and (:before::bigint is null or j.id < :before::bigint)
        order by j.id desc
        limit :limit::integer))
 order by j.id desc;

-- name: test_listed
-- These jobs, newest first, as list_jobs shows them.
select
-- include: job_columns
-- include: page_of_jobs
 where j.id = any (:ids::bigint[])
 order by j.id desc;

-- name: list_unfinished
-- The same of a status that has not ended. Most are among the newest jobs; if those are not enough, by the index that
-- fits the status, so that a few old ones are not looked for among all that have ended.
with near as materialized (
    select j.id
      from (select n.id, n.queue, n.task, n.status, n.last_error, n.finished_at, n.created_at from pgqueue.jobs n
             where :before::bigint is null or n.id < :before::bigint order by n.id desc limit 10000) j
     where j.status = :status::text and
-- include: matches
     order by j.id desc
     limit :limit::integer
), far as materialized (
    select f.id from pgqueue.find_jobs(array[:status::text], :queue::text, :task::text, :error::text, :since::float8) as f(id)
     where (select count(*) from near) < :limit::integer and (:before::bigint is null or f.id < :before::bigint)
     order by f.id desc
     limit :limit::integer
)
select
-- include: job_columns
-- include: page_of_jobs
 where j.id = any (array(select n.id from near n union select f.id from far f order by id desc limit :limit::integer))
 order by j.id desc;

-- name: list_ended
-- The same of a status that has ended, the latest to end first.
select
-- include: job_columns
-- include: page_of_jobs
 where j.id = any (array(select pgqueue.latest_jobs(:status::text, :queue::text, :task::text, :error::text, :since::float8,
                                                    :before::bigint, :limit::integer)))
 order by coalesce(j.finished_at, '-infinity') desc, j.id desc;

-- name: find_jobs
-- The ids of jobs of some statuses that match the filters, oldest first.
select f.id
  from pgqueue.find_jobs(:statuses::text[], :queue::text, :task::text, :error::text, :since::float8) as f(id)
 order by f.id;

-- part: has_step
       and (:from_step::text is null or exists (select from pgqueue.steps f where f.job_id = j.id and f.name = :from_step::text))

-- name: retry_jobs
-- Put those of these jobs that are dead or cancelled, or of the one status, and still match, back as pending, as new; but
-- not those whose unique key another job holds now, nor those of workflows that would be cancelled again.
with chosen as materialized (
    select j.id, j.queue, j.unique_key is not null as keyed from pgqueue.jobs j
     where j.id = any (:ids::bigint[]) and j.workflow_id is null
       and j.status in ('dead', 'cancelled')
       and (:status::text is null or j.status = :status::text)
-- include: has_step
       and (j.unique_key is null or j.unique_until <> 'finished' or not exists (
            select from pgqueue.jobs o
             where o.unique_key is not null
               and pgqueue.held_key(o.unique_key, o.unique_until, o.status, o.claimed_at) = 'finished:' || j.unique_key))
       and
-- include: matches
     order by j.id
     for no key update of j
), back as (
    -- With a run time, as of any job that has attempts: they go with its row.
    update pgqueue.jobs j
       set status = 'pending', attempt = 0, crashes = 0, quarantine = null, run_at = clock_timestamp(),
           finished_at = null, cancel_requested = false, run_seconds = 0, claimed_at = null, expires_at = null, progress = null,
           left_by = null, left_at = null, args = coalesce(:args::text::jsonb, j.args)
      from chosen
     where j.id = chosen.id and not chosen.keyed
    returning j.id, j.queue
), keyed as materialized (
    select c.id, c.queue from chosen c where c.keyed and pgqueue.retry_keyed(c.id, :args::text::jsonb)
), members as materialized (
    -- Not locked here: the rows of their workflows come first.
    select r.id, j.queue
      from pgqueue.retry_members(array(
               select j.id from pgqueue.jobs j
                where j.id = any (:ids::bigint[]) and j.workflow_id is not null and j.status in ('dead', 'cancelled')
                  and (:status::text is null or j.status = :status::text)
-- include: has_step
                  and
-- include: matches
           ), :args::text::jsonb) as r(id)
      join pgqueue.jobs j on j.id = r.id
), again as materialized (
    select b.id, b.queue from back b union all select k.id, k.queue from keyed k union all select m.id, m.queue from members m
), forgotten as (
    -- The step from which they go on, and all that began after it.
    delete from pgqueue.steps s using again a, pgqueue.steps f
     where s.job_id = a.id and f.job_id = a.id and f.name = :from_step::text and s.started_at >= f.started_at
), woken as (
    select count(pgqueue.notify(q.queue)) as n
      from (select distinct a.queue from again a) q
)
select again.id from again cross join woken order by again.id;

-- name: cancel_jobs
-- Of these jobs, those that match: cancel pending and blocked ones now, ask the workers of running ones to stop.
with chosen as materialized (
    select j.id from pgqueue.jobs j
     where j.id = any (:ids::bigint[]) and j.status in ('blocked', 'pending', 'running')
       and
-- include: matches
     order by j.id
     for no key update of j
)
update pgqueue.jobs j
   set status = case when j.status = 'running' then j.status else 'cancelled' end,
       finished_at = case when j.status <> 'running' then clock_timestamp() end,
       cancel_requested = true
  from chosen
 where j.id = chosen.id
returning j.id, j.status;

-- name: change_jobs
-- Give those of these jobs that are pending, and match, another queue, priority or time.
with chosen as materialized (
    select j.id,
           coalesce(:run_at::timestamptz, clock_timestamp() + make_interval(secs => :delay::float8), j.run_at) as new_run_at
      from pgqueue.jobs j
     where j.id = any (:ids::bigint[]) and j.status = 'pending'
       and
-- include: matches
     order by j.id
     for no key update of j
), changed as (
    update pgqueue.jobs j
       set queue = coalesce(:to_queue::text, j.queue), priority = coalesce(:to_priority::smallint, j.priority),
           run_at = chosen.new_run_at,
           expires_at = case when j.run_at = pgqueue.readable(j.run_at) and j.expires_at = pgqueue.readable(j.expires_at)
                             then j.expires_at + (chosen.new_run_at - j.run_at) else j.expires_at end
      from chosen
     where j.id = chosen.id
    returning j.id, j.queue, j.run_at
), woken as (
    select count(pgqueue.notify(q.queue)) as n
      from (select distinct c.queue from changed c where c.run_at <= clock_timestamp()) q
)
select changed.id from changed cross join woken order by changed.id;

-- name: count_jobs
-- How many jobs of a status match the filters.
select count(*)
  from pgqueue.find_jobs(array[:status::text], :queue::text, :task::text, :error::text, :since::float8);

-- name: clear_jobs
-- Delete those of these jobs that are of a status, and match; never running ones.
with chosen as materialized (
    select j.id from pgqueue.jobs j
     where j.id = any (:ids::bigint[]) and j.status = :status::text and j.status <> 'running'
       and
-- include: matches
     order by j.id
     for update of j
), logged as (
    delete from pgqueue.attempts a using chosen where a.job_id = chosen.id
), counted as (
    -- To what waits for it, it has succeeded still.
    update pgqueue.workflow_jobs m set stays = 'succeeded' from chosen
     where m.job_id = chosen.id and :status::text = 'succeeded' and m.stays is null
)
, stepped as (delete from pgqueue.steps s using chosen where s.job_id = chosen.id)
delete from pgqueue.jobs j using chosen where j.id = chosen.id returning j.id;

-- name: reserve_ids
-- Ids for jobs that are about to be copied in, and the time.
select array_agg(nextval('pgqueue.jobs_id_seq')), clock_timestamp()
  from generate_series(1, :count::integer);

-- name: copy_jobs
-- Jobs as COPY text, written by pgqueue.bulk.
copy pgqueue.jobs (id, args, task, queue, priority, max_retries, backoff, run_at) from stdin with (encoding 'UTF8');

-- name: encrypted_jobs
-- Jobs that may run again and have encrypted arguments, in order of id: as many as fit into a few megabytes, or one.
select f.id, f.task, f.running, f.args
  from (select e.id, e.task, e.running, e.args, row_number() over (order by e.id) as nth,
               sum(octet_length(e.args)) over (order by e.id) as sofar
          from (select j.id, j.task, j.status = 'running' as running, left(t.text, 2097153) as args
                  from pgqueue.jobs j
                 cross join lateral (select j.args::text as text offset 0) t
                 where j.id > :after::bigint
                   and j.status in ('blocked', 'pending', 'running', 'dead', 'cancelled')
                   and strpos(t.text, '"$encrypted"') > 0
                 order by j.id
                 limit :limit::integer) e) f
 where f.nth = 1 or f.sofar <= 4000000
 order by f.id;

-- name: replace_args
-- Other arguments for jobs that do not run and still have the old ones.
with chosen as materialized (
    select j.id, t.new
      from unnest(:ids::bigint[], :old::text[], :new::text[]) as t(id, old, new)
      join pgqueue.jobs j on j.id = t.id and j.args = t.old::jsonb
     where j.status in ('blocked', 'pending', 'dead', 'cancelled')
     order by j.id
     for no key update of j
)
update pgqueue.jobs j set args = chosen.new::jsonb from chosen where j.id = chosen.id returning j.id;
