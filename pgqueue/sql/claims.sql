-- part: fits
-- Not one that this worker has left for others lately; and once it has met tasks that it does not know, only those it knows;
-- none that the database has lately refused to let run.
            and (j.left_by is null or j.left_until <= now() or :worker_id::uuid <> all (j.left_by))
            and (:only::text[] is null or j.task = any (:only::text[]))
            and j.id <> all (:not_ids::bigint[])

-- part: claimable
-- Neither paused nor expired, and not under limits: those are claimed by a claim of their own, as are suspects.
            and (select q.paused_at from pgqueue.queues q where q.name = lane.queue) is null
            and (select coalesce(q.max_running, q.rate) from pgqueue.queues q where q.name = lane.queue) is null
            and j.limit_key is null and j.quarantine is null
            and (j.expires_at is null or j.expires_at > now())
            and not exists (select from pgqueue.queues q where q.name = '*' and q.paused_at is not null)
            and j.task <> all (array(select t.name from pgqueue.tasks t where t.paused_at is not null or t.keyed))

-- part: ahead
-- The due jobs of each lane from its cursor on, without those of some tasks. With skip_touched, rows that another transaction has locked or written
-- lately (xmax) are passed by without a try for their lock; a lock of the row's own writer (xmin) is gone, since the
-- row can be seen.
pick as materialized (
    select found.id
      from unnest(:queues::text[], :priorities::smallint[], :after_at::timestamptz[], :after_ids::bigint[])
           as lane(queue, priority, after_at, after_id)
     cross join lateral (
         select j.id from pgqueue.jobs j
          where j.status = 'pending' and j.queue = lane.queue and j.priority = lane.priority
            and j.run_at <= now() and (j.run_at, j.id) > (lane.after_at, lane.after_id)
            and (not :skip_touched::boolean or j.xmax = '0'::xid or j.xmax = j.xmin or age(j.xmax) not between -1000 and 1000)
-- include: claimable
            and j.task <> all (:without::text[])
-- include: fits
          order by j.run_at, j.id
          limit :limit::integer
          for no key update of j skip locked) found
     limit :limit::integer
)

-- part: behind
-- The due jobs of slices, and of lanes that are not known, which are told of.
slice as materialized (
    select s.queue, s.priority, s.until_at, s.until_id, s.after_id,
           case when s.after_at = timestamptz 'epoch' then timestamptz '-infinity' else s.after_at end as after_at
      from unnest(:slice_queues::text[], :slice_priorities::smallint[], :after_at::timestamptz[], :after_ids::bigint[],
                  :until_at::timestamptz[], :until_ids::bigint[])
           as s(queue, priority, after_at, after_id, until_at, until_id)
), known as materialized (
    select distinct s.queue, s.priority from slice s
), span(low, high) as (
    -- Only between what is known: dead index entries of a lane stay while an old snapshot is held, and are not gone over.
    select coalesce(lag(k.queue) over (order by k.queue), ''), k.queue from (select distinct known.queue from known) k
    union all
    select coalesce((select max(known.queue) from known), ''), null
), name(high, queue) as (
    select span.high, case
               when span.high is null then
                   (select j.queue from pgqueue.jobs j where j.status = 'pending' and j.queue > span.low order by j.queue limit 1)
               else (select j.queue from pgqueue.jobs j
                      where j.status = 'pending' and j.queue > span.low and j.queue < span.high order by j.queue limit 1) end
      from span where :queues::text[] is null
    union all
    select name.high, case
               when name.high is null then
                   (select j.queue from pgqueue.jobs j where j.status = 'pending' and j.queue > name.queue order by j.queue limit 1)
               else (select j.queue from pgqueue.jobs j
                      where j.status = 'pending' and j.queue > name.queue and j.queue < name.high order by j.queue limit 1) end
      from name where name.queue is not null
), wanted(queue, low, high) as (
    select name.queue, -32769, 32768 from name where name.queue is not null
    union all
    select q, -32769, 32768 from unnest(:queues::text[]) q where q not in (select known.queue from known)
    union all
    select k.queue, coalesce(lead(k.priority::integer) over (partition by k.queue order by k.priority desc), -32769), k.priority from known k
    union all
    select k.queue, max(k.priority), 32768 from known k group by k.queue
), lane(queue, low, priority) as (
    select w.queue, w.low,
           (select j.priority from pgqueue.jobs j
             where j.status = 'pending' and j.queue = w.queue and j.priority > w.low and j.priority < w.high
             order by j.priority desc limit 1)
      from wanted w
    union all
    select lane.queue, lane.low,
           (select j.priority from pgqueue.jobs j
             where j.status = 'pending' and j.queue = lane.queue and j.priority > lane.low and j.priority < lane.priority
             order by j.priority desc limit 1)
      from lane where lane.priority is not null
), unknown as materialized (
    select l.queue, l.priority from lane l where l.priority is not null
), ordered as materialized (
    select o.*
      from (select s.queue, s.priority, s.after_at, s.after_id, s.until_at, s.until_id from slice s
            union all
            select u.queue, u.priority, timestamptz '-infinity', 0, timestamptz 'infinity', 0 from unknown u) o
     order by o.priority desc, random()
), pick as materialized (
    select found.id
      from ordered as lane
     cross join lateral (
         select j.id from pgqueue.jobs j
          where j.status = 'pending' and j.queue = lane.queue and j.priority = lane.priority
            and j.run_at <= now() and (j.run_at, j.id) > (lane.after_at, lane.after_id)
            and (j.run_at, j.id) <= (lane.until_at, lane.until_id)
-- include: claimable
            and j.task <> all (:without::text[])
-- include: fits
          order by j.run_at, j.id
          limit :limit::integer
          for no key update of j skip locked) found
     limit :limit::integer
), told as materialized (
    select u.queue, u.priority from unknown u order by u.priority desc, random() limit :lanes::integer
)

-- part: take
-- What was picked is the worker's now.
update pgqueue.jobs j
   set status = 'running', attempt = least(j.attempt, 2147483646) + 1, claim_id = :claim_id::uuid,
       worker_id = :worker_id::uuid, claimed_at = clock_timestamp(),
       lease_expires_at = clock_timestamp() + make_interval(secs => :lease::float8)
  from pick
 where j.id = pick.id
returning j.id, j.task, left(j.args::text, 2097153), j.queue, j.priority, j.attempt, j.max_retries,
          j.crashes, greatest(j.run_at, timestamptz 'epoch'),
          j.workflow_id, pgqueue.readable(j.tick), date_part('epoch', j.created_at)

-- part: ended
-- The finished jobs, in the order in which all statements lock rows; the worker's settings leave only nested loops, which
-- keep it. To lock them first costs a look, a WAL record and a twentieth of the server's time for each job.
(select e.* from unnest(:ids::bigint[], :claim_ids::uuid[], :run_seconds::real[]) as e(id, claim_id, run_seconds) order by e.id)

-- part: own
-- Those that are still this worker's; said so that no index but the primary key fits.
j.id = t.id and case when j.status = 'running' then j.claim_id end = t.claim_id

-- part: remove
gone as (
    delete from pgqueue.jobs j using
-- include: ended
 t where
-- include: own
    returning j.id, j.attempt, j.run_seconds
), logged as (
    -- The attempts of jobs that are removed. One that was snoozed or given back has its attempt again, and a run time.
    delete from pgqueue.attempts a using gone where (gone.attempt > 1 or gone.run_seconds is not null) and a.job_id = gone.id
)

-- name: claim
-- Claim due jobs lane by lane, each lane from its cursor on.
with
-- include: ahead
-- include: take
;

-- name: sweep
-- Claim due jobs behind the cursors, slice by slice of known lanes, and from the start of lanes that are not known; a null
-- list of queues means all. The first row has the lanes that were not known and have jobs, and the time.
with recursive
-- include: behind
, claimed as (
-- include: take
)
select (select array_agg(told.queue) from told) as queues, (select array_agg(told.priority) from told) as priorities,
       null as id, null as task, null as args, null as queue, null as priority, null as attempt,
       null as max_retries, null as crashes, now() as run_at, null as workflow_id, null as tick, null as created
union all
select null, null, claimed.* from claimed;

-- name: test_claim
-- Claim those of these jobs that are due, as a worker would if there were no others.
with pick as materialized (
    select found.id
      from (select distinct e.queue from unnest(:queues::text[]) as e(queue)) as lane
     cross join lateral (
         select j.id, j.priority, j.run_at from pgqueue.jobs j
          where j.id = any (:ids::bigint[]) and j.status = 'pending' and j.queue = lane.queue and j.run_at <= now()
-- include: claimable
-- include: fits
          for no key update of j skip locked) found
     order by found.priority desc, found.run_at, found.id
     limit :limit::integer
)
-- include: take
;

-- name: look_ahead
-- Which jobs a claim would take.
with
-- include: ahead
select pick.id, (select j.task from pgqueue.jobs j where j.id = pick.id) from pick;

-- name: look_behind
-- Which jobs a sweep would take. The first row is that of a sweep.
with recursive
-- include: behind
select (select array_agg(told.queue) from told) as queues, (select array_agg(told.priority) from told) as priorities,
       now() as at, null as id, null as task
union all
select null, null, null, pick.id, (select j.task from pgqueue.jobs j where j.id = pick.id) from pick;

-- name: claim_these
-- Claim those of some jobs that are due still, under no limit and no suspects; said so that no index but the primary key fits.
with pick as materialized (
    select j.id from pgqueue.jobs j
     where j.id = any (:ids::bigint[]) and (case when j.status = 'pending' then j.run_at end) <= now()
       and not exists (select from pgqueue.queues q where q.paused_at is not null and q.name in (j.queue, '*'))
       and not exists (select from pgqueue.queues q where q.name = j.queue and coalesce(q.max_running, q.rate) is not null)
       and j.limit_key is null and j.quarantine is null
       and (j.expires_at is null or j.expires_at > now())
       and j.task <> all (array(select t.name from pgqueue.tasks t where t.paused_at is not null or t.keyed))
-- include: fits
     order by j.id
     for no key update of j skip locked
)
-- include: take
;

-- name: last_places
-- The lane and place of the last succeeded job of each queue.
with recursive name(queue) as (
    (select j.queue from pgqueue.jobs j where j.status in ('succeeded', 'dead', 'cancelled') order by j.queue limit 1)
    union all
    select (select j.queue from pgqueue.jobs j
             where j.status in ('succeeded', 'dead', 'cancelled') and j.queue > name.queue order by j.queue limit 1)
      from name where name.queue is not null
)
select found.*
  from name
 cross join lateral (
     select j.queue, j.priority, pgqueue.readable(j.run_at), j.id from pgqueue.jobs j
      where j.queue = name.queue and j.status = 'succeeded'
        and j.status in ('succeeded', 'dead', 'cancelled')
      order by j.finished_at desc limit 1) found
 where :queues::text[] is null or found.queue = any (:queues::text[]);

-- name: complete
-- Record success of running jobs, each fenced by its claim; rows not returned were lost.
update pgqueue.jobs j
   set status = 'succeeded', finished_at = clock_timestamp(), claim_id = null, worker_id = null,
       lease_expires_at = null, run_seconds = t.run_seconds, last_error = null
  from
-- include: ended
 t where
-- include: own
returning j.id;

-- name: complete_and_delete
-- As complete, for keep_succeeded=0.
with
-- include: remove
select gone.id from gone;

-- name: trade
-- Complete and claim in one statement, so in one round trip and one commit; and in one update, since each would open the
-- table's indexes and read its constraints anew. What is done comes back with its id alone.
-- The offset keeps the union a subquery of its own: PostgreSQL pulls one that stands in the FROM of an update up into its
-- plan, and then loses all its rows but the first when it checks them again after the wait for another writer's lock.
with
-- include: ahead
update pgqueue.jobs j
   set status = case when t.done then 'succeeded' else 'running' end,
       finished_at = case when t.done then clock_timestamp() else j.finished_at end,
       run_seconds = case when t.done then t.run_seconds else j.run_seconds end,
       last_error = case when t.done then null else j.last_error end,
       attempt = case when t.done then j.attempt else least(j.attempt, 2147483646) + 1 end,
       claim_id = case when t.done then null else :claim_id::uuid end,
       worker_id = case when t.done then null else :worker_id::uuid end,
       claimed_at = case when t.done then j.claimed_at else clock_timestamp() end,
       lease_expires_at = case when t.done then null else clock_timestamp() + make_interval(secs => :lease::float8) end
  from (select e.id, true as done, e.claim_id, e.run_seconds from
-- include: ended
               e
        union all
        select pick.id, false, null, null from pick
        offset 0) t
 where j.id = t.id and (not t.done or
-- include: own
       )
returning t.done, j.id, case when not t.done then j.task end, case when not t.done then left(j.args::text, 2097153) end,
          case when not t.done then j.queue end, j.priority, j.attempt, j.max_retries, j.crashes,
          greatest(j.run_at, timestamptz 'epoch'),
          j.workflow_id, pgqueue.readable(j.tick), date_part('epoch', j.created_at)

-- name: trade_and_delete
-- As trade, for keep_succeeded=0.
with
-- include: remove
,
-- include: ahead
, claimed as (
-- include: take
)
select true as done, gone.id, null as task, null as args, null as queue, null as priority, null as attempt,
       null as max_retries, null as crashes, null as run_at, null as workflow_id, null as tick, null as created
  from gone
union all
select false, claimed.* from claimed;

-- part: progressed
-- This run has stored a step, and the job has not been retried very often: what its steps are called may be another in each run.
                    exists (select from pgqueue.steps s
                             where s.job_id = j.id and s.kind = 'step' and s.finished_at >= j.claimed_at)
                    and (select count(*) from (select from pgqueue.attempts a
                                                where a.job_id = j.id and a.outcome in ('retry', 'crash') limit 1000) a) < 1000

-- name: fail
-- Record every other outcome of running jobs, each fenced by its claim, and log the attempt. What a worker leaves for
-- others keeps its place and uses up no attempt; for one that has been left for longer than its delay it is the end.
-- Rows locked by others are left for the next time.
with own as materialized (
    select j.id, t.outcome, t.delay, t.error_type, t.error, t.traceback, t.run_seconds, t.ended, t.log,
           j.attempt, counted.attempt as counts_as, j.claim_id, j.worker_id, j.claimed_at,
           case when t.outcome in ('retry', 'snooze', 'suspend', 'leave') and j.cancel_requested then 'cancelled'
                when t.outcome = 'retry' and counted.attempt > j.max_retries then 'dead'
                when t.outcome = 'leave'
                     and coalesce(j.left_at, now()) + make_interval(secs => t.delay) <= clock_timestamp() then 'dead'
                when t.outcome in ('retry', 'snooze', 'suspend', 'leave') then 'pending'
                else t.outcome end as status
      from unnest(:ids::bigint[], :claim_ids::uuid[], :outcomes::text[], :delays::float8[],
                  :error_types::text[], :errors::text[], :tracebacks::text[], :run_seconds::real[], :logs::text[],
                  :ended::boolean[])
           as t(id, claim_id, outcome, delay, error_type, error, traceback, run_seconds, log, ended)
      join pgqueue.jobs j on j.id = t.id and j.claim_id = t.claim_id
     cross join lateral (select case when t.outcome in ('retry', 'snooze', 'suspend') and t.run_seconds > 0
                                          and
-- include: progressed
                                     then 1 else j.attempt end as attempt) counted
     where j.status = 'running'
     order by j.id
     for no key update of j skip locked
), logged as (
    insert into pgqueue.attempts (job_id, attempt, claim_id, worker_id, outcome, error_type, error,
                                  traceback, started_at, run_seconds, log)
    select own.id, own.attempt, own.claim_id, own.worker_id, case when own.outcome = 'leave' or own.status = 'dead' then own.status else own.outcome end,
           own.error_type, own.error, own.traceback, own.claimed_at, own.run_seconds, own.log
      from own
     where case own.outcome when 'leave' then own.status = 'dead' when 'snooze' then own.error_type is not null else own.outcome <> 'suspend' end
), replaced as (
    -- A job may be snoozed for ever: of the snoozes of one attempt the latest is kept.
    delete from pgqueue.attempts a using own
     where own.outcome = 'snooze' and own.error_type is not null
       and a.job_id = own.id and a.attempt = own.attempt and a.outcome = 'snooze'
)
update pgqueue.jobs j
   set status = own.status,
       -- Given back at once, a job keeps its place in the queue; one that many have left is looked at less often.
       run_at = case when own.outcome = 'leave' then
                          case when cardinality(j.left_by) >= 64 then clock_timestamp() + interval '1 minute' else j.run_at end
                     when own.status = 'pending' and not (own.outcome = 'snooze' and own.delay = 0)
                     then clock_timestamp()
                          + coalesce(make_interval(secs => own.delay), pgqueue.backoff(own.counts_as, j.backoff))
                     else j.run_at end,
       finished_at = case when own.status = 'pending' then null else clock_timestamp() end,
       attempt = case when own.outcome in ('snooze', 'suspend') or own.outcome = 'leave' and own.status <> 'dead' then own.counts_as - 1
                      when own.status = 'pending' then own.counts_as
                      else j.attempt end,
       -- To expire is for what has not started.
       expires_at = case when own.status = 'pending' and own.run_seconds > 0 then null else j.expires_at end,
       -- A run that ended by itself took no worker with it.
       crashes = case when own.ended then 0 else j.crashes end,
       quarantine = case when own.ended then null else j.quarantine end,
       last_error = case when own.outcome in ('snooze', 'suspend') or own.outcome = 'leave' and own.status <> 'dead' then j.last_error
                         else left(concat_ws(': ', own.error_type, nullif(own.error, '')), 1000) end,
       left_by = case when own.outcome = 'leave' and own.status = 'pending' then
                           case when cardinality(j.left_by) < 64 then j.left_by || own.worker_id else array[own.worker_id] end
                      when own.outcome = 'snooze' and own.delay = 0 and own.error_type is null then j.left_by end,
       left_at = case when own.outcome = 'leave' and own.status = 'pending' then coalesce(j.left_at, now())
                      when own.outcome = 'snooze' and own.delay = 0 and own.error_type is null then j.left_at end,
       left_until = case when own.outcome = 'leave' then
                              coalesce(coalesce(j.left_at, now()) + make_interval(secs => own.delay), now() + interval '5 minutes')
                         else j.left_until end,
       left_because = case when own.outcome = 'leave' then left(own.error, 1000) else j.left_because end,
       suspended_run = case when own.outcome = 'suspend' then own.claimed_at end,
       run_seconds = own.run_seconds, claim_id = null, worker_id = null, lease_expires_at = null
  from own
 where j.id = own.id
returning j.id, j.status,
          greatest(extract(epoch from pgqueue.readable(j.run_at) - clock_timestamp()), 0)::float8 as wait,
          exists (select from pgqueue.steps s where s.watched = j.id);
