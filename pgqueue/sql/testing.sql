-- name: test_due
-- In one transaction now() stands still: let what has come due since its start be due.
update pgqueue.jobs j set run_at = now()
 where j.status = 'pending' and j.run_at > now() and j.run_at <= clock_timestamp()
returning j.id;

-- name: test_travel
-- Let time pass for all jobs: what they have of times goes back.
with slept as (
    update pgqueue.steps s set wakes_at = s.wakes_at - make_interval(secs => :seconds::float8)
)
update pgqueue.jobs j
   set run_at = j.run_at - t.passed, created_at = j.created_at - t.passed, finished_at = j.finished_at - t.passed,
       expires_at = j.expires_at - t.passed, unique_expires_at = j.unique_expires_at - t.passed
  from (select make_interval(secs => :seconds::float8) as passed) t
returning j.id;
