-- name: unstarted
-- The jobs that a claim took and nobody has given back.
select j.id from pgqueue.jobs j
 where j.worker_id is not null and j.claim_id = :claim_id::uuid and j.status = 'running'
 order by j.id;

-- name: release
-- Give back everything one claim took and nobody started, with its attempt; rows locked by others the next time.
with own as materialized (
    select j.id from pgqueue.jobs j
     where j.worker_id is not null and j.claim_id = :claim_id::uuid and j.status = 'running'
       and (:only_ids::bigint[] is null or j.id = any (:only_ids::bigint[]))
     order by j.id
     for no key update of j skip locked
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
-- Renew leases; a job not returned is lost. The lease of a row that others have locked is noted with the worker instead:
-- the handler's own transaction may hold it for longer than a lease, and the rescuer must not come first when that ends.
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
    returning j.id, j.cancel_requested
), locked as materialized (
    select h.id from held h where not exists (select from renewed r where r.id = h.id)
), me as materialized (
    select w.id from pgqueue.workers w
     where w.id = :worker_id::uuid and (w.held_jobs <> '{}' or exists (select from locked))
     for no key update of w skip locked
), noted as (
    update pgqueue.workers w
       set held_jobs = array(select l.id from locked l order by l.id),
           held_until = clock_timestamp() + make_interval(secs => :lease::float8)
      from me
     where w.id = me.id
    returning w.id
)
select h.id, coalesce(r.cancel_requested, h.cancel_requested), r.id is null, r.id is not null or exists (select from noted)
  from held h left join renewed r on r.id = h.id;
