-- name: complete_with
-- As complete, for jobs with a result or a log; the row stays until it is pruned. Rows locked by others are left for the
-- next time.
with own as materialized (
    select j.id, t.run_seconds, j.attempt, j.claim_id, j.worker_id, j.claimed_at, t.result, t.log, t.error
      from unnest(:ids::bigint[], :claim_ids::uuid[], :run_seconds::real[], :results::text[], :logs::text[],
                  :errors::text[]) as t(id, claim_id, run_seconds, result, log, error)
      join pgqueue.jobs j on j.id = t.id and j.claim_id = t.claim_id
     where j.status = 'running'
     order by j.id
     for no key update of j skip locked
), logged as (
    insert into pgqueue.attempts (job_id, attempt, claim_id, worker_id, outcome, started_at, run_seconds, log)
    select own.id, own.attempt, own.claim_id, own.worker_id, 'succeeded', own.claimed_at, own.run_seconds, own.log
      from own
     where own.log is not null
)
update pgqueue.jobs j
   set status = 'succeeded', finished_at = clock_timestamp(), claim_id = null, worker_id = null,
       lease_expires_at = null, run_seconds = own.run_seconds, last_error = own.error,
       result = own.result::jsonb
  from own
 where j.id = own.id
returning j.id, exists (select from pgqueue.steps s where s.watched = j.id);

-- name: recorded
-- What became of attempts whose handlers completed them in transactions of their own, or of which no answer came: 'held'
-- still by the claim, so nothing is recorded; 'succeeded'; 'gone' since, as a success may be; or 'lost' to another claim.
select t.id, case when j.id is null then 'gone'
                  when j.status = 'running' and j.claim_id = t.claim_id then 'held'
                  when j.status = 'succeeded' and j.attempt = t.attempt then 'succeeded'
                  else 'lost' end
  from unnest(:ids::bigint[], :claim_ids::uuid[], :attempts::integer[]) as t(id, claim_id, attempt)
  left join pgqueue.jobs j on j.id = t.id;

-- name: add_results
-- The results, logs and remarks of jobs that completed in transactions of their handlers. Rows locked by others are left
-- for the next time.
with done as materialized (
    select j.id, j.attempt, j.claimed_at, t.run_seconds, t.result, t.log, t.error
      from unnest(:ids::bigint[], :attempts::integer[], :run_seconds::real[], :results::text[], :logs::text[],
                  :errors::text[]) as t(id, attempt, run_seconds, result, log, error)
      join pgqueue.jobs j on j.id = t.id and j.attempt = t.attempt
     where j.status = 'succeeded'
     order by j.id
     for no key update of j skip locked
), logged as (
    insert into pgqueue.attempts (job_id, attempt, outcome, started_at, run_seconds, log)
    select d.id, d.attempt, 'succeeded', d.claimed_at, d.run_seconds, d.log from done d where d.log is not null
)
update pgqueue.jobs j set result = d.result::jsonb, last_error = d.error from done d where j.id = d.id
returning j.id, exists (select from pgqueue.steps s where s.watched = j.id);

-- name: note_progress
-- How far running jobs are. Rows locked by others are left for the next time.
with own as materialized (
    select j.id, t.progress
      from unnest(:ids::bigint[], :claim_ids::uuid[], :progresses::text[]) as t(id, claim_id, progress)
      join pgqueue.jobs j on j.id = t.id and j.claim_id = t.claim_id
     where j.status = 'running'
     order by j.id
     for no key update of j skip locked
)
update pgqueue.jobs j set progress = own.progress::jsonb from own where j.id = own.id returning j.id;
