-- name: worker_seen
-- Say that this worker is alive, and forget those not seen for a while.
with gone as (
    delete from pgqueue.workers w
     where w.seen_at < clock_timestamp() - make_interval(secs => :forget::float8)
       and w.id <> (:id::text)::uuid
)
insert into pgqueue.workers (id, host, pid, version, queues)
values ((:id::text)::uuid, :host::text, :pid::integer, :version::text, :queues::text[])
on conflict (id) do update set seen_at = clock_timestamp();

-- name: worker_gone
-- This worker has stopped.
delete from pgqueue.workers w where w.id = (:id::text)::uuid;

-- name: list_workers
-- Workers alive, oldest first.
select w.id::text, w.host, w.pid, w.version, w.queues, w.started_at, w.seen_at
  from pgqueue.workers w order by w.started_at;

-- name: channels
-- The NOTIFY channels of queues.
select pgqueue.channel(q) from unnest(:queues::text[]) as q;

-- name: notify_self
-- Notify a channel of the worker's own, to see whether notifications arrive.
select pg_notify(:channel::text, '');
