-- name: get_steps
-- The finished steps of a job.
select s.name, s.result::text from pgqueue.steps s where s.job_id = :id::bigint and s.finished_at is not null and s.wakes_at is null;

-- name: list_steps
-- What a job has done, sleeps or waits for, the latest thousand, in the order in which it began.
select s.name, left(s.event, 200), s.event_id, s.wakes_at, s.started_at, s.finished_at
  from (select l.* from pgqueue.steps l where l.job_id = :id::bigint order by l.started_at desc, l.name limit 1000) s
 order by s.started_at;

-- name: save_step
-- Store what a step returned, once; what is stored.
select pgqueue.save_step(:id::bigint, (:claim_id::text)::uuid, :name::text, :result::text::jsonb)::text;

-- name: start_sleep
-- Begin a sleep, once; the seconds left.
select pgqueue.start_sleep(:id::bigint, (:claim_id::text)::uuid, :name::text, :seconds::float8);

-- name: await_event
-- Whether the event came, its payload, the seconds left.
select w.arrived, w.payload::text, w.seconds_left
  from pgqueue.await_event(:id::bigint, (:claim_id::text)::uuid, :name::text, :event::text, :timeout::float8) w;

-- name: emit
-- Emit an event; its id.
select pgqueue.emit(:name::text, :payload::text::jsonb);

-- name: deliver_events
-- Wake the jobs that wait for events that nobody has delivered; how many.
select pgqueue.deliver_events(:limit::integer);

-- name: prune_events
-- Delete one batch of events that are older than the given age.
with old as materialized (
    select e.id from pgqueue.events e
     where e.created_at < now() - make_interval(secs => :age::float8) and e.delivered_at is not null
     order by e.created_at
     limit :limit::integer
     for update of e skip locked
)
delete from pgqueue.events e using old where e.id = old.id returning e.id;
