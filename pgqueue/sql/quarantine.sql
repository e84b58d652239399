-- part: due
-- A suspect that may be claimed, of these queues; null: of all. The claims of limited queues have conditions of their own.
          (case when j.status = 'pending' then j.quarantine end) is not null and j.run_at <= now()
      and (:queues::text[] is null or j.queue = any (:queues::text[]))
      and (j.expires_at is null or j.expires_at > now())
      and not exists (select from pgqueue.queues q where q.paused_at is not null and q.name in (j.queue, '*'))
      and j.task <> all (array(select t.name from pgqueue.tasks t where t.paused_at is not null))
      and j.id <> all (:not_ids::bigint[])

-- part: together
-- The one that is due longest and, as far as it may have others beside it, those next to it that may have as many.
first as materialized (
    select j.id, j.quarantine from pgqueue.jobs j
     where
-- include: due
      and (j.left_by is null or j.left_until <= now() or :worker_id::uuid <> all (j.left_by))
      and j.limit_key is null and j.task <> all (array(select t.name from pgqueue.tasks t where t.keyed))
      and not exists (select from pgqueue.queues q where q.name = j.queue and coalesce(q.max_running, q.rate) is not null)
      and (:only_ids::bigint[] is null or j.id = any (:only_ids::bigint[]))
     order by j.run_at, j.id
     limit 1
     for no key update of j skip locked
), pick as materialized (
    select j.id from pgqueue.jobs j
     where
-- include: due
      and (j.left_by is null or j.left_until <= now() or :worker_id::uuid <> all (j.left_by))
      and j.limit_key is null and j.task <> all (array(select t.name from pgqueue.tasks t where t.keyed))
      and not exists (select from pgqueue.queues q where q.name = j.queue and coalesce(q.max_running, q.rate) is not null)
      and (:only_ids::bigint[] is null or j.id = any (:only_ids::bigint[]))
      and j.quarantine >= (select first.quarantine from first)
     order by j.run_at, j.id
     limit least((select first.quarantine from first), :limit::integer)
     for no key update of j skip locked
)

-- name: suspect_due
-- The suspect that is due longest.
select j.attempt from pgqueue.jobs j
 where
-- include: due
 order by j.run_at, j.id
 limit 1;

-- name: claim_suspects
-- Claim suspects to run together. Each knows from now on how many there are.
with
-- include: together
update pgqueue.jobs j
   set status = 'running', attempt = least(j.attempt, 2147483646) + 1, claim_id = :claim_id::uuid,
       worker_id = :worker_id::uuid, claimed_at = clock_timestamp(),
       lease_expires_at = clock_timestamp() + make_interval(secs => :lease::float8),
       quarantine = (select count(*) from pick)
  from pick
 where j.id = pick.id
returning j.id, j.task, left(j.args::text, 2097153), j.queue, j.priority, j.attempt, j.max_retries,
          j.crashes, greatest(j.run_at, timestamptz 'epoch'), j.workflow_id, pgqueue.readable(j.tick),
          date_part('epoch', j.created_at);

-- name: look_at_suspects
-- Which suspects would be claimed together.
with
-- include: together
select pick.id, (select j.task from pgqueue.jobs j where j.id = pick.id) from pick;

-- name: end_isolation
-- Running suspects are not alone any more: a crash from now on is not blamed on one of them. Those that are alone
-- still, as others have locked their rows.
with alone as materialized (
    select j.id
      from unnest(:ids::bigint[], :claim_ids::uuid[]) as t(id, claim_id)
      join pgqueue.jobs j on j.id = t.id and j.claim_id = t.claim_id
     where j.status = 'running' and j.quarantine = 1
), own as materialized (
    select j.id
      from unnest(:ids::bigint[], :claim_ids::uuid[]) as t(id, claim_id)
      join pgqueue.jobs j on j.id = t.id and j.claim_id = t.claim_id
     where j.status = 'running' and j.quarantine = 1
     order by j.id
     for no key update of j skip locked
), ended as (
    update pgqueue.jobs j set quarantine = 2 from own where j.id = own.id returning j.id
)
select alone.id from alone where not exists (select from ended where ended.id = alone.id);
