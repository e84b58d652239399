-- name: declare_limits
-- Write what the code declares of tasks and queues, setting by setting: one that is declared otherwise than what was last
-- written is written; what was set by hand meanwhile stays. A worker that starts writes what its code names. Besides that
-- it takes off, or replaces, what was declared and no live worker declares any more, of tasks that it knows and queues that it declares.
with live as materialized (
    select l.kind, n.name, d.setting, d.value
      from pgqueue.workers w
     cross join lateral jsonb_each(w.limits) as l(kind, names)
     cross join lateral jsonb_each(l.names) as n(name, settings)
     cross join lateral jsonb_each(n.settings) as d(setting, value)
     where w.live_until > clock_timestamp()
), wanted as materialized (
    select 'task' as kind, k.name, coalesce(:settings::text::jsonb -> 'task'::text -> k.name, '{}') as settings, t.declared, t.declared_at
      from unnest(:tasks::text[]) as k(name)
      left join pgqueue.tasks t on t.name = k.name
    union all
    select 'queue', k.name, k.settings, q.declared, q.declared_at
      from jsonb_each(:settings::text::jsonb -> 'queue'::text) as k(name, settings)
      left join pgqueue.queues q on q.name = k.name
), changed as materialized (
    select w.kind, w.name, w.declared is null as unknown, c.changes
      from wanted w
     cross join lateral (
         select jsonb_object_agg(s.setting, w.settings -> s.setting) as changes
           from jsonb_each(w.settings || coalesce(w.declared, '{}')) as s(setting, value)
          where (w.settings -> s.setting) is distinct from (w.declared -> s.setting)
            and (w.declared -> s.setting is null
                 or :starting::boolean and (w.settings -> s.setting) is not null
                 or w.declared_at < clock_timestamp() - make_interval(secs => :patience::float8)
                    and not exists (select from live l
                                     where l.kind = w.kind and l.name = w.name and l.setting = s.setting
                                       and l.value = w.declared -> s.setting))) c
     where c.changes is not null or w.kind = 'queue' and w.declared is null
), tasks as (
    insert into pgqueue.tasks as t (name, max_running, rate, burst, ordered, weights, keyed, per, per_default, options, declared, declared_at)
    select c.name, r.max_running, r.rate, r.burst, r.ordered, r.weights, coalesce(r.keyed, false), r.per,
           nullif(c.changes -> 'per_default'::text, 'null'), nullif(c.changes -> 'options'::text, 'null'),
           c.changes, clock_timestamp()
      from changed c
     cross join lateral jsonb_to_record(c.changes) as r(
           max_running integer, rate float8, burst integer, ordered text, weights jsonb, keyed boolean, per text)
     where c.kind = 'task'
     order by c.name
    on conflict (name) do update
       set max_running = case when excluded.declared ? 'max_running' then excluded.max_running else t.max_running end,
           rate = case when excluded.declared ? 'rate' then excluded.rate else t.rate end,
           burst = case when excluded.declared ? 'burst' then excluded.burst else t.burst end,
           ordered = case when excluded.declared ? 'ordered' then excluded.ordered else t.ordered end,
           weights = case when excluded.declared ? 'weights' then nullif(excluded.weights, 'null') else t.weights end,
           -- By hand as well, if a limit stays that the code does not declare.
           keyed = case when not excluded.declared ? 'keyed' then t.keyed
                        else excluded.keyed
                             or coalesce(case when excluded.declared ? 'max_running' then excluded.max_running else t.max_running end,
                                         case when excluded.declared ? 'rate' then excluded.rate else t.rate end) is not null end,
           per = case when excluded.declared ? 'per' then excluded.per else t.per end,
           per_default = case when excluded.declared ? 'per_default' then excluded.per_default else t.per_default end,
           options = case when excluded.declared ? 'options' then excluded.options else t.options end,
           declared = (select coalesce(jsonb_object_agg(d.key, d.value), '{}') from jsonb_each(coalesce(t.declared, '{}') || excluded.declared) as d(key, value) where d.value <> 'null'), declared_at = excluded.declared_at
    returning t.name
), queues as (
    insert into pgqueue.queues as q (
           max_pending, keep_succeeded, keep_dead, keep_cancelled, priority, max_retries, backoff, expires, timeout,
           name, max_running, rate, burst, declared, declared_at)
    select
           r.max_pending, make_interval(secs => r.keep_succeeded), make_interval(secs => r.keep_dead),
           make_interval(secs => r.keep_cancelled), r.priority, r.max_retries, nullif(r.backoff, 'null'),
           make_interval(secs => r.expires), make_interval(secs => r.timeout),
           c.name, r.max_running, r.rate, r.burst, coalesce(c.changes, '{}'), clock_timestamp()
      from changed c
     cross join lateral jsonb_to_record(coalesce(c.changes, '{}')) as r(
           max_running integer, rate float8, burst integer, max_pending integer, keep_succeeded float8,
           keep_dead float8, keep_cancelled float8, priority smallint, max_retries integer, backoff jsonb,
           expires float8, timeout float8)
     where c.kind = 'queue'
     order by c.name
    on conflict (name) do update
       set max_running = case when excluded.declared ? 'max_running' then excluded.max_running else q.max_running end,
           rate = case when excluded.declared ? 'rate' then excluded.rate else q.rate end,
           burst = case when excluded.declared ? 'burst' then excluded.burst else q.burst end,
           max_pending = case when excluded.declared ? 'max_pending' then excluded.max_pending else q.max_pending end,
           keep_succeeded = case when excluded.declared ? 'keep_succeeded' then excluded.keep_succeeded else q.keep_succeeded end,
           keep_dead = case when excluded.declared ? 'keep_dead' then excluded.keep_dead else q.keep_dead end,
           keep_cancelled = case when excluded.declared ? 'keep_cancelled' then excluded.keep_cancelled else q.keep_cancelled end,
           priority = case when excluded.declared ? 'priority' then excluded.priority else q.priority end,
           max_retries = case when excluded.declared ? 'max_retries' then excluded.max_retries else q.max_retries end,
           backoff = case when excluded.declared ? 'backoff' then excluded.backoff else q.backoff end,
           expires = case when excluded.declared ? 'expires' then excluded.expires else q.expires end,
           timeout = case when excluded.declared ? 'timeout' then excluded.timeout else q.timeout end,
           declared = (select coalesce(jsonb_object_agg(d.key, d.value), '{}') from jsonb_each(coalesce(q.declared, '{}') || excluded.declared) as d(key, value) where d.value <> 'null'), declared_at = excluded.declared_at
    returning q.name
)
select 'task ' || tasks.name from tasks union all select 'queue ' || queues.name from queues;

-- name: key_jobs
-- Give pending jobs of tasks under limits the key that they were enqueued without. No claim takes them before.
with found as materialized (
    select j.id from pgqueue.jobs j
     where j.status = 'pending' and j.limit_key is null
       and exists (select from pgqueue.tasks t where t.keyed)
       and j.task = any (array(select t.name from pgqueue.tasks t where t.keyed))
       and (:only_ids::bigint[] is null or j.id = any (:only_ids::bigint[])) and j.id <> all (:not_ids::bigint[])
     order by j.queue, j.priority desc, j.run_at, j.id
     limit :limit::integer
     for no key update of j skip locked
)
update pgqueue.jobs j set limit_key = pgqueue.key_of(j.task, pgqueue.own_key(j.task, j.args))
  from found f where j.id = f.id
returning j.id;

-- name: jobs_to_key
-- The jobs that key_jobs gives a key.
select j.id from pgqueue.jobs j
 where j.status = 'pending' and j.limit_key is null
   and exists (select from pgqueue.tasks t where t.keyed)
   and j.task = any (array(select t.name from pgqueue.tasks t where t.keyed))
   and j.id <> all (:not_ids::bigint[])
 order by j.queue, j.priority desc, j.run_at, j.id
 limit :limit::integer;

-- name: limits_by_hand
-- Is there a task under limits whose code declares none, so that jobs are enqueued without a key?
select exists (select from pgqueue.tasks t where t.keyed),
       exists (select from pgqueue.tasks t where t.keyed and not coalesce((t.declared ->> 'keyed'::text)::boolean, false));

-- name: list_limits
-- The limits of queues and of tasks, and what the code declares of them, the first thousand.
select 'queue' as kind, q.name, q.max_running, q.rate, q.burst, null as ordered, null as weights, null as per,
       case when pg_column_size(q.declared) <= 16384 then q.declared::text end as declared
  from pgqueue.queues q where coalesce(q.max_running, q.rate) is not null
union all
select 'task', t.name, t.max_running, t.rate, t.burst, t.ordered,
       case when pg_column_size(t.weights) <= 16384 then t.weights::text end, t.per,
       case when pg_column_size(t.declared) <= 16384 then t.declared::text end
  from pgqueue.tasks t
 where coalesce(t.max_running, t.rate) is not null or t.ordered is not null or t.weights is not null or t.keyed
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
insert into pgqueue.tasks as t (name, max_running, rate, burst, keyed)
values (:name::text, :max_running::integer, :rate::float8, :burst::integer,
        coalesce(:max_running::integer, :rate::float8) is not null)
on conflict (name) do update
   set max_running = excluded.max_running, rate = excluded.rate, burst = excluded.burst,
       keyed = excluded.keyed or coalesce((t.declared ->> 'keyed'::text)::boolean, false)
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
-- Claim due jobs of a queue under limits. The first row has how long to wait.
select c.wait, c.id, c.task, c.args, :queue::text, c.priority, c.attempt, c.max_retries, c.crashes, c.run_at,
       (select j.workflow_id from pgqueue.jobs j where j.id = c.id),
       (select pgqueue.readable(j.tick) from pgqueue.jobs j where j.id = c.id),
       (select date_part('epoch', j.created_at) from pgqueue.jobs j where j.id = c.id)
  from pgqueue.claim_limited(:queue::text, :limit::integer, :claim_id::uuid, :worker_id::uuid, :lease::float8,
                             :suspects::boolean, :only::text[], :among::bigint[],
                             :not_ids::bigint[], :only_ids::bigint[])
       with ordinality as c(wait, id, task, args, priority, attempt, max_retries, crashes, run_at, n)
 order by c.n;

-- name: look_limited
-- Which jobs a claim under limits would take.
select c.id, c.task
  from pgqueue.claim_limited(:queue::text, :limit::integer, :claim_id::uuid, :worker_id::uuid, :lease::float8,
                             :suspects::boolean, :only::text[], :among::bigint[], :not_ids::bigint[], just_look => true) c
 where c.id is not null;
