-- name: test_begins
-- Where a test begins: the start of the transaction that it works in, and the newest job that is there.
select now(), coalesce(max(j.id), 0) from pgqueue.jobs j;

-- name: test_jobs
-- The jobs of a test: those that its transaction has written, in any of its savepoints. A row that can be seen, and whose
-- writer is in progress, was written by this transaction. Its ids are those from the transaction's own on; older rows are not
-- asked about. A test that commits has another transaction by now: its jobs are those that came after it began.
select j.id, j.queue, j.status
  from pgqueue.jobs j
 cross join lateral (
     select top.xid, (j.xmin::text::bigint - top.xid % 4294967296 + 4294967296) % 4294967296 as later
       from (select pg_current_xact_id_if_assigned()::text::bigint) as top(xid)
     offset 0) own
 where case when own.later < 16777216 then pg_xact_status((own.xid + own.later)::text::xid8) = 'in progress' else false end
    or now() <> :began::timestamptz and j.id > :newest::bigint
 order by j.id;

-- name: test_due
-- In one transaction now() stands still: let what has come due since its start be due.
update pgqueue.jobs j set run_at = now()
 where j.id = any (:ids::bigint[])
   and j.status = 'pending' and j.run_at > now() and j.run_at <= clock_timestamp()
returning j.id;

-- name: test_travel
-- Let time pass for these jobs: what they have of times goes back.
with slept as (
    update pgqueue.steps s set wakes_at = s.wakes_at - make_interval(secs => :seconds::float8)
     where s.job_id = any (:ids::bigint[])
)
update pgqueue.jobs j
   set run_at = j.run_at - t.passed, created_at = j.created_at - t.passed, finished_at = j.finished_at - t.passed,
       expires_at = j.expires_at - t.passed, unique_expires_at = j.unique_expires_at - t.passed
  from (select make_interval(secs => :seconds::float8) as passed) t
 where j.id = any (:ids::bigint[])
returning j.id;
