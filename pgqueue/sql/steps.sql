-- name: get_steps
-- The finished steps of a job.
select s.name, s.result::text from pgqueue.steps s where s.job_id = :id::bigint and s.finished_at is not null and s.wakes_at is null;

-- name: list_steps
-- What a job has done, sleeps or waits for, the latest thousand, in the order in which it began.
select s.name, left(s.event, 200), s.event_id, pgqueue.readable(s.wakes_at), pgqueue.readable(s.started_at),
       pgqueue.readable(s.finished_at)
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
select pgqueue.deliver_events(:limit::integer, :not_ids::bigint[], :only_ids::bigint[]);

-- name: jobs_to_wake
-- Those that deliver_events wakes.
select j.id from pgqueue.jobs j
 where j.status = 'pending' and j.run_at > clock_timestamp() and j.id not in (select unnest(:not_ids::bigint[]))
   and j.id in (select s.job_id from pgqueue.events e
                  join pgqueue.steps s on s.event = e.name and s.event is not null and s.finished_at is null
                 where e.id = any (array(select f.id from pgqueue.events f where f.delivered_at is null order by f.id limit :limit::integer)));

-- name: mark_delivered
-- Events for which no job needs to be woken any more are delivered. In a transaction after the one that wakes: a job that
-- the database refuses to wake keeps no event from being marked.
with fresh as materialized (
    select e.id, e.name from pgqueue.events e
     where e.delivered_at is null
     order by e.id
     limit :limit::integer
     for no key update of e skip locked
)
update pgqueue.events e set delivered_at = clock_timestamp()
  from fresh f
 where e.id = f.id
   -- One that is about to sleep is not woken by this look but by the next.
   and not exists (select from pgqueue.steps s join pgqueue.jobs j on j.id = s.job_id
                    where s.event = f.name and s.event is not null and s.finished_at is null
                      and (j.status = 'running' or j.status = 'pending' and j.run_at > clock_timestamp()))
returning e.id;

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
