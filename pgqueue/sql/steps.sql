-- name: get_steps
-- What is stored of the steps of a job.
select s.name, s.kind, s.finished_at is not null, s.result::text, s.error, s.events,
       case when s.finished_at is null and s.kind = 'step' then greatest(extract(epoch from s.wakes_at - clock_timestamp()), 0)::float8 end
  from pgqueue.steps s where s.job_id = :id::bigint;

-- name: list_steps
-- What a job has done, sleeps or waits for, the latest thousand, in the order in which it began.
select s.name, s.kind,
       case when pg_column_size(s.events) > 8192 then '[too many to show]'
            else left(array_to_string(s.events, case s.kind when 'job' then ', ' else ' or ' end), 200) end,
       left(s.event, 200), s.event_id, pgqueue.readable(s.wakes_at), pgqueue.readable(s.started_at), pgqueue.readable(s.finished_at),
       left(s.error, 1000), s.failures
  from (select l.* from pgqueue.steps l where l.job_id = :id::bigint order by l.started_at desc, l.name limit 1000) s
 order by s.started_at;

-- name: step_names
-- The names of the steps of a job, the first hundred to begin.
select s.name from pgqueue.steps s where s.job_id = :id::bigint order by s.started_at, s.name limit 100;

-- name: save_step
-- Store what a step returned, once, or why that cannot be stored; what is stored.
select pgqueue.save_step(:id::bigint, (:claim_id::text)::uuid, :name::text, :result::text::jsonb, :error::text, :seconds::float8)::text;

-- name: fail_step
-- A step failed: in how many seconds it may be called again.
select pgqueue.fail_step(:id::bigint, (:claim_id::text)::uuid, :name::text, :max_retries::integer, :backoff::text::jsonb, :error::text,
                         :seconds::float8);

-- name: start_sleep
-- Begin a sleep, once; the seconds left.
select pgqueue.start_sleep(:id::bigint, (:claim_id::text)::uuid, :name::text, :seconds::float8, :moment::timestamptz);

-- name: await_event
-- Whether the event came, which one, its payload, the seconds left.
select w.arrived, w.event, w.payload::text, w.seconds_left
  from pgqueue.await_event(:id::bigint, (:claim_id::text)::uuid, :name::text, :events::text[], :timeout::float8, :sent::boolean) w;

-- name: await_jobs
-- What jobs ended as once all have; and the seconds left.
select w.ends::text, w.seconds_left
  from pgqueue.await_jobs(:id::bigint, (:claim_id::text)::uuid, :name::text, :awaited::bigint[], :timeout::float8) w;

-- name: emit
-- Emit an event; its id.
select pgqueue.emit(:name::text, :payload::text::jsonb);

-- name: send
-- Send a message to a job; its id.
select pgqueue.send(:id::bigint, :name::text, :payload::text::jsonb);

-- name: deliver_events
-- Wake the jobs that wait for events that nobody has delivered; how many.
select pgqueue.deliver_events(:limit::integer, :not_ids::bigint[], :only_ids::bigint[]);

-- part: waits
       s.events @> array[e.name] and s.finished_at is null
                           and s.kind = case when e.job_id is null then 'event' else 'message' end
                           and (e.job_id is null or e.job_id = s.job_id)

-- name: jobs_to_wake
-- Those that deliver_events wakes.
select j.id from pgqueue.jobs j
 where j.status = 'pending' and j.run_at > clock_timestamp() and j.suspended_run = j.claimed_at
   and j.id not in (select unnest(:not_ids::bigint[]))
   and j.id in (select s.job_id from pgqueue.events e
                  join pgqueue.steps s on
-- include: waits
                  join pgqueue.jobs w on w.id = s.job_id
                 where e.id = any (array(select f.id from pgqueue.events f where f.delivered_at is null order by f.id limit :limit::integer))
                   and s.waiting_run = w.claimed_at and e.created_at >= w.created_at
                   and not exists (select from pgqueue.steps o where o.job_id = s.job_id and o.event_id = e.id));

-- name: mark_delivered
-- Events for which no job needs to be woken any more are delivered. In a transaction after the one that wakes: a job that
-- the database refuses to wake keeps no event from being marked.
with fresh as materialized (
    select e.id, e.name, e.job_id, e.created_at from pgqueue.events e
     where e.delivered_at is null
     order by e.id
     limit :limit::integer
     for no key update of e skip locked
)
update pgqueue.events u set delivered_at = clock_timestamp()
  from fresh e
 where u.id = e.id
   -- One that is about to sleep is not woken by this look but by the next.
   and not exists (select from pgqueue.steps s join pgqueue.jobs j on j.id = s.job_id
                    where
-- include: waits
                      and e.created_at >= j.created_at
                      and not exists (select from pgqueue.steps o where o.job_id = s.job_id and o.event_id = e.id)
                      and (j.status = 'running'
                           or j.status = 'pending' and j.run_at > clock_timestamp()
                              and j.suspended_run = j.claimed_at and s.waiting_run = j.claimed_at))
returning u.id;

-- part: old
    select e.id from pgqueue.events e
     where e.created_at < now() - make_interval(secs => :age::float8) and e.delivered_at is not null
       and e.id not in (select unnest(:not_ids::bigint[]))
       and (:only_ids::bigint[] is null or e.id = any (:only_ids::bigint[]))
     order by e.created_at
     limit :limit::integer

-- name: prune_events
-- Delete one batch of events that are older than the given age.
with old as materialized (
-- include: old
     for update of e skip locked
)
delete from pgqueue.events e using old where e.id = old.id returning e.id;

-- name: old_events
-- Those that prune_events deletes.
-- include: old
;
