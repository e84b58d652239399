-- part: chosen
-- Not a row that was refused lately; and of those that are given, where a refusal is narrowed down to its row.
       and j.id not in (select unnest(:not_ids::bigint[]))
       and (:only_ids::bigint[] is null or j.id = any (:only_ids::bigint[]))

-- part: may_be_rescued
     where j.worker_id is not null and j.status = 'running' and j.lease_expires_at < clock_timestamp()
       and j.id > :after::bigint and j.id <= :until::bigint
       -- Its row was locked when its worker last renewed it.
       and (select j.id = any (w.held_jobs) and w.held_until > clock_timestamp()
              from pgqueue.workers w where w.id = j.worker_id) is not true
-- include: chosen
     order by j.id
     limit :limit::integer

-- name: rescue
-- Take back running jobs whose lease ran out: pending again, or dead when they may not run twice, or ran alone and are
-- out of retries or crashes. One that would be dead by its next crash is a suspect, and so is put into quarantine.
-- They keep their run_at, and so their place before a backlog that is younger than they are.
with lapsed as materialized (
    select j.id, j.attempt, tried.attempt as counts_as, j.worker_id, j.claim_id, j.claimed_at, counted.crashes,
           case when j.cancel_requested then 'cancelled'
                when j.max_retries = 0 then 'dead'
                when j.quarantine = 1 and (tried.attempt > j.max_retries or j.crashes >= :max_crashes::integer - 1) then 'dead'
                else 'pending' end as status,
           case when j.quarantine is not null then greatest(j.quarantine / 4, 1)
                when counted.crashes >= :max_crashes::integer - 1 or tried.attempt > j.max_retries then :together::smallint
                end as quarantine,
           format('lease ran out: worker %s died, was killed, lost its database or could not stop it (crash %s of %s)%s',
                  left(j.worker_id::text, 8), counted.crashes, :max_crashes::integer,
                  case when j.quarantine = 1 then ', alone' when j.quarantine > 1 then ', beside other suspects' end) as reason
      from pgqueue.jobs j
     -- In company a job comes to its last chance, and not further.
     cross join lateral (select case when j.quarantine = 1 or j.crashes < :max_crashes::integer - 1
                                     then least(j.crashes, 2147483646) + 1 else j.crashes end as crashes) counted
     -- As for a run that failed: see "progressed" in claims.sql.
     cross join lateral (select case when exists (select from pgqueue.steps s
                                                   where s.job_id = j.id and s.kind = 'step' and s.finished_at >= j.claimed_at)
                                          and (select count(*) from (select from pgqueue.attempts a
                                                where a.job_id = j.id and a.outcome in ('retry', 'crash') limit 1000) a) < 1000
                                     then 1 else j.attempt end as attempt) tried
-- include: may_be_rescued
     for no key update of j skip locked
), logged as (
    insert into pgqueue.attempts (job_id, attempt, claim_id, worker_id, outcome, error_type, error, started_at)
    select l.id, l.attempt, l.claim_id, l.worker_id, 'crash', 'WorkerCrashed', l.reason, l.claimed_at
      from lapsed l
)
update pgqueue.jobs j
   set status = l.status, crashes = l.crashes, attempt = case when l.status = 'pending' then l.counts_as else j.attempt end,
       quarantine = case when l.status = 'pending' then l.quarantine end,
       finished_at = case when l.status = 'pending' then null else clock_timestamp() end,
       -- It may have started: then it does not expire.
       expires_at = case when l.status = 'pending' then null else j.expires_at end,
       last_error = 'WorkerCrashed: ' || l.reason, left_by = null, left_at = null,
       claim_id = null, worker_id = null, lease_expires_at = null
  from lapsed l
 where j.id = l.id
returning j.id, j.task, j.queue, j.status, j.attempt, j.max_retries, j.quarantine;

-- name: lapsed_jobs
-- Those that rescue takes back.
select j.id from pgqueue.jobs j
-- include: may_be_rescued
;

-- name: last_id
-- The last id that the sequence has given, for who may use it.
select coalesce(case when has_sequence_privilege('pgqueue.jobs_id_seq', 'usage, select') then
                     pg_sequence_last_value('pgqueue.jobs_id_seq'::regclass) end, 0);

-- part: late
    select j.id from pgqueue.jobs j
     where j.expires_at is not null and (case when j.status = 'pending' then j.expires_at end) < now()
-- include: chosen
     order by case when j.status = 'pending' then j.expires_at end
     limit :limit::integer

-- name: expire
-- Cancel pending jobs that were not started in time.
with late as materialized (
-- include: late
     for no key update of j skip locked
)
update pgqueue.jobs j
   set status = 'cancelled', finished_at = clock_timestamp(),
       last_error = left(concat_ws('; before: ', 'Expired: not started by ' || j.expires_at::text, j.last_error), 1000)
  from late
 where j.id = late.id
returning j.id;

-- name: late_jobs
-- Those that expire cancels.
-- include: late
;

-- part: old
with recursive ended(queue) as (
    (select j.queue from pgqueue.jobs j
      where j.status in ('succeeded', 'dead', 'cancelled') order by j.queue limit 1)
    union all
    select (select j.queue from pgqueue.jobs j
             where j.status in ('succeeded', 'dead', 'cancelled') and j.queue > ended.queue order by j.queue limit 1)
      from ended where ended.queue is not null
), name(queue, before) as (
    select n.queue, now() - coalesce(case :status::text when 'succeeded' then q.keep_succeeded when 'dead' then q.keep_dead
                                                        else q.keep_cancelled end, make_interval(secs => :age::float8))
      from ended n
      left join pgqueue.queues q on q.name = n.queue
), old as materialized (
    select found.id
      from name
     cross join lateral (
         select j.id from pgqueue.jobs j
          where j.queue = name.queue and j.status = :status::text
            and j.status in ('succeeded', 'dead', 'cancelled')
            and j.finished_at < name.before
            and j.workflow_id is null
            -- What another job waits for, with others that have not ended, it is to have.
            and not exists (select from pgqueue.steps s
                             where s.events @> array[j.id::text] and s.kind = 'job' and s.finished_at is null and s.watched is not null)
-- include: chosen
          order by j.finished_at
          limit :limit::integer

-- name: prune
-- Delete one batch of jobs of one status that finished longer ago than their queue keeps them, or else the given age.
-- include: old
          for update of j skip locked) found
     limit :limit::integer
), logged as (
    delete from pgqueue.attempts a using old where a.job_id = old.id
)
, stepped as (delete from pgqueue.steps s using old where s.job_id = old.id)
delete from pgqueue.jobs j using old where j.id = old.id returning j.id;

-- name: old_jobs
-- Those that prune deletes.
-- include: old
     ) found
     limit :limit::integer
)
select old.id from old;

-- name: queue_stats
-- The statistics of every queue, of more than a thousand those of the first.
select s.queue, s.due, s.scheduled, s.running, s.succeeded, s.dead, s.cancelled,
       s.oldest_due_at, s.lag_seconds, pgqueue.readable(s.paused_at)
  from pgqueue.queue_stats s
 order by s.queue
 limit 1000;

-- name: pause_queue
-- Stop claims from a queue.
insert into pgqueue.queues (name, paused_at) values (:queue::text, clock_timestamp())
on conflict (name) do update set paused_at = coalesce(pgqueue.queues.paused_at, excluded.paused_at)
returning name;

-- name: pause_task
-- Stop claims of jobs of a task.
insert into pgqueue.tasks (name, paused_at) values (:task::text, clock_timestamp())
on conflict (name) do update set paused_at = coalesce(pgqueue.tasks.paused_at, excluded.paused_at)
returning name;

-- name: resume_task
-- Let jobs of a task be claimed again; wakes the workers of all queues that have some.
with resumed as (
    update pgqueue.tasks t set paused_at = null
     where t.name = :task::text and t.paused_at is not null
    returning t.name
), woken as (
    select count(pgqueue.notify(n.queue)) as n
      from resumed cross join pgqueue.queue_names n
)
select resumed.name from resumed cross join woken;

-- name: list_paused
-- What is paused: queues (* is all) and tasks, the first thousand.
select 'queue' as kind, q.name, pgqueue.readable(q.paused_at) from pgqueue.queues q where q.paused_at is not null
union all
select 'task', t.name, pgqueue.readable(t.paused_at) from pgqueue.tasks t where t.paused_at is not null
 order by 1, 2
 limit 1000;

-- name: resume_queue
-- Let a queue be claimed from again; * stands for all.
with resumed as (
    update pgqueue.queues set paused_at = null
     where name = :queue::text and paused_at is not null
    returning name
), woken as (
    select count(pgqueue.notify(n.queue)) as n
      from resumed r
      join pgqueue.queue_names n on r.name in (n.queue, '*')
)
select resumed.name from resumed cross join woken;
