-- name: look_at_queues
-- The settings of queues for who enqueues: as the code declares them until a worker of the same code has written them,
-- then as they are in the table; and how many jobs wait in one with a bound. Works on every schema.
select w.declared ->> 'name'::text, s.max_pending, s.priority, s.max_retries, s.backoff::text, s.expires,
       case when s.max_pending is not null then
           (select count(*) from (select from pgqueue.jobs j where j.queue = w.declared ->> 'name'::text and j.status = 'pending'
                                   limit s.max_pending) waiting)
       end as pending,
       current_setting('transaction_isolation') <> 'read committed' as frozen
  from jsonb_array_elements(:declared::text::jsonb) as w(declared)
  left join pgqueue.queues q on q.name = w.declared ->> 'name'::text
 cross join lateral (select to_jsonb(q) as is_now) t
 cross join lateral (select coalesce(t.is_now -> 'declared'::text @> w.declared - 'name'::text, false) as written) d
 cross join lateral (
     select (r.settings ->> 'max_pending'::text)::integer, (r.settings ->> 'priority'::text)::integer, (r.settings ->> 'max_retries'::text)::integer,
            nullif(r.settings -> 'backoff'::text, 'null'::jsonb),
            case when d.written then extract(epoch from (r.settings ->> 'expires'::text)::interval)::float8
                 else (r.settings ->> 'expires'::text)::float8 end
       from (select case when d.written then t.is_now else w.declared end) as r(settings)
 ) as s(max_pending, priority, max_retries, backoff, expires);

-- name: set_queue
-- Change the settings of a queue that are given; null takes one off.
insert into pgqueue.queues as q (name, max_running, rate, burst, max_pending, keep_succeeded, keep_dead, keep_cancelled,
                                 priority, max_retries, backoff, expires, timeout)
select :name::text, w.max_running, w.rate, w.burst, w.max_pending, make_interval(secs => w.keep_succeeded),
       make_interval(secs => w.keep_dead), make_interval(secs => w.keep_cancelled), w.priority, w.max_retries,
       w.backoff, make_interval(secs => w.expires), make_interval(secs => w.timeout)
  from jsonb_to_record(:changes::text::jsonb) as w(
       max_running integer, rate float8, burst integer, max_pending integer, keep_succeeded float8, keep_dead float8,
       keep_cancelled float8, priority smallint, max_retries integer, backoff jsonb, expires float8, timeout float8)
on conflict (name) do update
   set max_running = case when :changes::text::jsonb -> 'max_running'::text is null then q.max_running else excluded.max_running end,
       rate = case when :changes::text::jsonb -> 'rate'::text is null then q.rate else excluded.rate end,
       burst = case when :changes::text::jsonb -> 'burst'::text is null then q.burst else excluded.burst end,
       max_pending = case when :changes::text::jsonb -> 'max_pending'::text is null then q.max_pending else excluded.max_pending end,
       keep_succeeded = case when :changes::text::jsonb -> 'keep_succeeded'::text is null then q.keep_succeeded else excluded.keep_succeeded end,
       keep_dead = case when :changes::text::jsonb -> 'keep_dead'::text is null then q.keep_dead else excluded.keep_dead end,
       keep_cancelled = case when :changes::text::jsonb -> 'keep_cancelled'::text is null then q.keep_cancelled else excluded.keep_cancelled end,
       priority = case when :changes::text::jsonb -> 'priority'::text is null then q.priority else excluded.priority end,
       max_retries = case when :changes::text::jsonb -> 'max_retries'::text is null then q.max_retries else excluded.max_retries end,
       backoff = case when :changes::text::jsonb -> 'backoff'::text is null then q.backoff else excluded.backoff end,
       expires = case when :changes::text::jsonb -> 'expires'::text is null then q.expires else excluded.expires end,
       timeout = case when :changes::text::jsonb -> 'timeout'::text is null then q.timeout else excluded.timeout end
returning pgqueue.notify(q.name);

-- name: list_queues
-- The queues that have settings or are declared in code, the first thousand; or the one of a name.
select q.name, q.max_running, q.rate, q.burst, q.max_pending, extract(epoch from q.keep_succeeded)::float8,
       extract(epoch from q.keep_dead)::float8, extract(epoch from q.keep_cancelled)::float8, q.priority, q.max_retries,
       case when pg_column_size(q.backoff) <= 8192 then q.backoff::text end, extract(epoch from q.expires)::float8, extract(epoch from q.timeout)::float8,
       pgqueue.readable(q.paused_at), case when pg_column_size(q.declared) <= 16384 then q.declared::text end as declared
  from pgqueue.queues q
 where q.name <> '*' and (:name::text is null or q.name = :name::text)
 order by q.name
 limit 1000;

-- name: known_names
-- The names of queues and tasks that jobs, settings, schedules and workers have; of jobs the newest thousand. Not more
-- than some ten thousand.
select 'queue', n.queue from pgqueue.queue_names n
union
(select 'queue', q.name from pgqueue.workers w cross join lateral unnest(w.queues) as q(name) limit 10000)
union
(select 'task', t.name from pgqueue.tasks t limit 10000)
union
(select 'task', s.task from pgqueue.schedule_list s limit 10000)
union
select 'task', j.task from (select r.task from pgqueue.jobs r order by r.id desc limit 1000) j;
