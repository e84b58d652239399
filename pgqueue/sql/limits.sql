-- name: declare_limits
-- Write the limits that the code declares, where the declaration has changed.
with wanted as materialized (
    select w.*, to_jsonb(w) as declared from jsonb_to_recordset(:task_limits::text::jsonb) as w(
           name text, max_running integer, rate float8, burst integer, ordered text, weights jsonb)
), tasks as (
    insert into pgqueue.tasks as t (name, max_running, rate, burst, ordered, weights, declared)
    select w.name, w.max_running, w.rate, w.burst, w.ordered, w.weights, w.declared from wanted w order by w.name
    on conflict (name) do update
       set max_running = excluded.max_running, rate = excluded.rate, burst = excluded.burst,
           ordered = excluded.ordered, weights = excluded.weights, declared = excluded.declared
     where t.declared is distinct from excluded.declared
    returning t.name
), wanted_queues as materialized (
    select w.*, e.declared
      from jsonb_array_elements(:declared::text::jsonb) as e(declared)
     cross join lateral jsonb_to_record(e.declared) as w(
           name text, max_running integer, rate float8, burst integer, max_pending integer, keep_succeeded float8,
           keep_dead float8, keep_cancelled float8, priority smallint, max_retries integer, backoff jsonb,
           expires float8, timeout float8)
), queues as (
    insert into pgqueue.queues as q (
           max_pending, keep_succeeded, keep_dead, keep_cancelled, priority, max_retries, backoff, expires, timeout,
           name, max_running, rate, burst, declared)
    select
           w.max_pending, make_interval(secs => w.keep_succeeded), make_interval(secs => w.keep_dead),
           make_interval(secs => w.keep_cancelled), w.priority, w.max_retries, w.backoff,
           make_interval(secs => w.expires), make_interval(secs => w.timeout),
           w.name, w.max_running, w.rate, w.burst, w.declared
      from wanted_queues w order by w.name
    on conflict (name) do update
       set max_running = excluded.max_running, rate = excluded.rate, burst = excluded.burst,
           max_pending = excluded.max_pending, keep_succeeded = excluded.keep_succeeded, keep_dead = excluded.keep_dead,
           keep_cancelled = excluded.keep_cancelled, priority = excluded.priority, max_retries = excluded.max_retries,
           backoff = excluded.backoff, expires = excluded.expires, timeout = excluded.timeout,
           declared = excluded.declared
     where jsonb_strip_nulls(q.declared) is distinct from excluded.declared
    returning q.name
)
select 'task ' || tasks.name from tasks union all select 'queue ' || queues.name from queues;

-- name: list_limits
-- The limits of queues and of tasks, the first thousand.
select 'queue' as kind, q.name, q.max_running, q.rate, q.burst, null as ordered, null as weights
  from pgqueue.queues q where coalesce(q.max_running, q.rate) is not null
union all
select 'task', t.name, t.max_running, t.rate, t.burst, t.ordered,
       case when pg_column_size(t.weights) <= 16384 then t.weights::text end
  from pgqueue.tasks t
 where coalesce(t.max_running, t.rate) is not null or t.ordered is not null or t.weights is not null
 order by 1, 2
 limit 1000;

-- name: limit_queue
-- Set the limits of a queue; nulls take them off.
insert into pgqueue.queues as q (name, max_running, rate, burst)
values (:name::text, :max_running::integer, :rate::float8, :burst::integer)
on conflict (name) do update
   set max_running = excluded.max_running, rate = excluded.rate, burst = excluded.burst
returning pgqueue.notify(q.name);

-- name: limit_task
-- Set the limits of the keys of a task; nulls take them off.
insert into pgqueue.tasks as t (name, max_running, rate, burst)
values (:name::text, :max_running::integer, :rate::float8, :burst::integer)
on conflict (name) do update
   set max_running = excluded.max_running, rate = excluded.rate, burst = excluded.burst
returning t.name;

-- name: queues_at_work
-- The queues with something of their own, and whether claims from them are under limits, which those from queues with
-- limits are, and from those with jobs that have a key.
with recursive keyed(queue) as (
    (select j.queue from pgqueue.jobs j where j.limit_key is not null and (case when j.status = 'pending' then j.limit_key end) is not null
      order by j.queue limit 1)
    union all
    select (select j.queue from pgqueue.jobs j where j.limit_key is not null and (case when j.status = 'pending' then j.limit_key end) is not null and j.queue > k.queue
             order by j.queue limit 1)
      from keyed k where k.queue is not null
)
select coalesce(k.queue, q.name), k.queue is not null or coalesce(q.max_running, q.rate) is not null,
       extract(epoch from q.keep_succeeded)::float8, extract(epoch from q.timeout)::float8
  from (select keyed.queue from keyed where keyed.queue is not null) k
  full join (select q.* from pgqueue.queues q where q.name <> '*') q on q.name = k.queue
 where (:queues::text[] is null or coalesce(k.queue, q.name) = any (:queues::text[]))
   and coalesce(k.queue, q.max_running::text, q.rate::text,
                q.keep_succeeded::text, q.timeout::text,
                null) is not null
 order by 1;

-- name: prune_buckets
-- Delete one batch of buckets that are full again, or of what has no rate any more: they say no more than none would. One that
-- a claim takes from at this moment is locked, and passed by.
with full_ones as materialized (
    select b.name from pgqueue.buckets b
      left join lateral (
          select q.rate, q.burst from pgqueue.queues q where q.name = b.name
          union all
          select t.rate, t.burst from pgqueue.tasks t
           where t.rate is not null and strpos(b.name, '/') > 0
             and strpos(b.name, split_part(b.name, '/', 1) || '/' || pgqueue.key_of(t.name, '')) = 1
           limit 1) r on true
     where r.rate is null
        or b.tokens + r.rate * extract(epoch from clock_timestamp() - greatest(least(b.at, clock_timestamp()), timestamptz 'epoch'))
           >= greatest(r.burst, 1, case when b.waiting then r.rate end)
     order by b.name
     limit :limit::integer
     for update of b skip locked
)
delete from pgqueue.buckets b using full_ones f where b.name = f.name returning b.name;

-- name: claim_limited
-- Claim due jobs of a queue under limits. The first row has where the next claim begins, and how long to wait.
select c.last_key, c.wait, c.id, c.task, c.args, :queue::text, c.priority, c.attempt, c.max_retries, c.crashes, c.run_at,
       (select j.workflow_id from pgqueue.jobs j where j.id = c.id),
       (select j.tick from pgqueue.jobs j where j.id = c.id),
       (select date_part('epoch', j.created_at) from pgqueue.jobs j where j.id = c.id)
  from pgqueue.claim_limited(:queue::text, :limit::integer, :claim_id::uuid, :worker_id::uuid, :lease::float8,
                             :after_key::text, :suspects::boolean, :only::text[], :among::bigint[]) c
 order by c.id nulls first;
