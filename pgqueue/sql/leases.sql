-- name: release
-- Give back everything one claim took and nobody started, with its attempt.
with own as materialized (
    select j.id from pgqueue.jobs j
     where j.worker_id is not null and j.claim_id = :claim_id::uuid and j.status = 'running'
     order by j.id
     for no key update of j
)
update pgqueue.jobs j
   set status = case when j.cancel_requested then 'cancelled' else 'pending' end,
       finished_at = case when j.cancel_requested then clock_timestamp() end,
       attempt = j.attempt - 1, claim_id = null, worker_id = null, lease_expires_at = null
  from own
 where j.id = own.id
returning j.id;

-- name: hold_again
-- Of jobs given back before they started: the keys that they hold until they start.
select pgqueue.hold_again(:ids::bigint[]);

-- name: heartbeat
-- Renew leases; a job not returned is lost. Rows locked by others are alive and left alone.
with held as materialized (
    select j.id, j.cancel_requested
      from unnest(:ids::bigint[], :claim_ids::uuid[]) as t(id, claim_id)
      join pgqueue.jobs j on j.id = t.id and j.claim_id = t.claim_id
     where j.status = 'running'
), own as materialized (
    select j.id
      from unnest(:ids::bigint[], :claim_ids::uuid[]) as t(id, claim_id)
      join pgqueue.jobs j on j.id = t.id and j.claim_id = t.claim_id
     where j.status = 'running'
     order by j.id
     for no key update of j skip locked
), renewed as (
    update pgqueue.jobs j
       set lease_expires_at = clock_timestamp() + make_interval(secs => :lease::float8)
      from own
     where j.id = own.id
)
select held.id, held.cancel_requested from held;
