-- name: worker_seen
-- Say that this worker is alive and in which state, and forget those not seen for a while.
with old as materialized (
    select w.id from pgqueue.workers w
     where w.seen_at < clock_timestamp() - make_interval(secs => :forget::float8)
       and w.id <> (:id::text)::uuid
     for update of w skip locked
), gone as (
    delete from pgqueue.workers w using old where w.id = old.id
)
insert into pgqueue.workers (id, host, pid, version, queues, tasks, schedules, declarations, quarantine, limits, state, live_until)
values ((:id::text)::uuid, :host::text, :pid::integer, :version::text, :queues::text[], :tasks::text[], :declares::text[],
        :declarations::text[], :quarantine::boolean, :limits::text::jsonb,
        :state::text, clock_timestamp() + make_interval(secs => :lease::float8))
on conflict (id) do update
   set seen_at = clock_timestamp(), live_until = excluded.live_until, tasks = excluded.tasks, schedules = excluded.schedules,
       declarations = excluded.declarations, state = excluded.state
returning id;

-- name: schema_id
-- What tells the jobs of this schema from those of any other.
select pgqueue.schema_id()::text;

-- name: worker_gone
-- This worker has stopped.
delete from pgqueue.workers w where w.id = (:id::text)::uuid returning w.id;

-- name: list_workers
-- Workers, oldest first, the first thousand. One that was not heard of for a whole lease is lost: it died without a word,
-- or cannot reach the database.
select w.id::text, left(w.host, 255), w.pid, left(w.version, 100), w.queues[1:200],
       case when w.live_until < clock_timestamp() then 'lost' else w.state end, w.tasks[1:1000],
       pgqueue.readable(w.started_at), pgqueue.readable(w.seen_at), w.quarantine
  from pgqueue.workers w order by w.started_at limit 1000;

-- name: channels
-- The NOTIFY channels of queues.
select pgqueue.channel(q) from unnest(:queues::text[]) as q;

-- name: notify_self
-- Notify a channel of the worker's own, to see whether notifications arrive; no row if the server has no room for them.
select pg_notify(:channel::text, '') where pg_notification_queue_usage() < float8 '0.5';

-- name: worker_lacks
-- The privileges a worker needs and this role has not, so that it is said at the start.
select format('%s on %s', w.privilege, w.relation)
  from (values ('select', 'pgqueue.jobs'), ('delete', 'pgqueue.jobs'), ('select', 'pgqueue.queues'), ('select', 'pgqueue.tasks'),
               ('insert', 'pgqueue.attempts'), ('select', 'pgqueue.attempts'), ('delete', 'pgqueue.attempts'),
               ('select', 'pgqueue.queue_names'), ('insert', 'pgqueue.workers'), ('select', 'pgqueue.workers'),
               ('delete', 'pgqueue.workers')) as w(privilege, relation)
 where to_regclass(w.relation) is not null and not has_table_privilege(w.relation, w.privilege)
union all
select format('update (%s) on %s', w.field, w.relation)
  from (select 'pgqueue.jobs', unnest(array['status', 'run_at', 'attempt', 'crashes', 'quarantine', 'claim_id', 'worker_id',
               'claimed_at', 'lease_expires_at', 'finished_at', 'run_seconds', 'last_error', 'left_by'])
        union all select 'pgqueue.workers', pg_catalog.unnest(array['tasks', 'schedules', 'declarations', 'seen_at', 'live_until', 'state', 'held_jobs',
               'held_until'])
        union all select 'pgqueue.schedules', pg_catalog.unnest(array['paused_at', 'pause_reason', 'undeclared_at', 'kept'])) as w(relation, field)
 where not has_column_privilege(w.relation, w.field, 'update')
union all
select 'execute on ' || split_part(w.signature, '(', 1)
  from unnest(array['pgqueue.complete_job(bigint, uuid)', 'pgqueue.schema_id()']) as w(signature)
 where not has_function_privilege(w.signature, 'execute');
