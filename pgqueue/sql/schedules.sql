-- part: seen
s.name, s.expression, s.tz, s.catch_up, s.overlap, case when s.last_tick = pgqueue.readable(s.last_tick) then s.last_tick end,
       s.recent_job_ids[1], now()

-- name: look_at_schedules
-- The schedules that are due, and the first that is not: three probes of one index. A time that no expression gives is
-- none to wait for: next_tick may hold anything after an update by hand.
(select
-- include: seen
       , 0::float8 as wait
   from pgqueue.schedules s
  where s.paused_at is null and s.next_tick <= now()
  order by s.next_tick
  limit :limit::integer)
union all
(select
-- include: seen
       , 0
   from pgqueue.schedules s
  where s.paused_at is null and s.next_tick > now() + interval '100 years'
  order by s.next_tick
  limit :limit::integer)
union all
(select
-- include: seen
       , extract(epoch from s.next_tick - clock_timestamp())::float8
   from pgqueue.schedules s
  where s.paused_at is null and s.next_tick > now() and s.next_tick <= now() + interval '100 years'
  order by s.next_tick
  limit 1);

-- name: fire_schedules
-- Insert the jobs of ticks and move their schedules on, each only if nobody moved it, or ran it by hand, since it was
-- seen: a run that was committed after this statement began is not among the jobs that it sees.
with wanted as (
    select * from unnest(:names::text[], :seen::timestamptz[], :last_job_ids::bigint[], :last_ticks::timestamptz[],
                         :next_ticks::timestamptz[], :errors::text[]) as w(name, seen, last_job_id, last_tick, next_tick, error)
), chosen as materialized (
    select s.name, s.last_tick as seen,
           w.last_tick, w.next_tick, w.error,
           s.overlap = 'skip' and (
               select j.id from pgqueue.jobs j
                where j.schedule is not null
                  and (case when j.status in ('blocked', 'pending', 'running') then j.schedule end) = s.name
                limit 1) is not null as busy
      from wanted w
      join pgqueue.schedules s on s.name = w.name
     where case when s.last_tick = pgqueue.readable(s.last_tick) then s.last_tick end is not distinct from w.seen
       and s.recent_job_ids[1] is not distinct from w.last_job_id
       and (s.next_tick <= clock_timestamp() or s.next_tick > now() + interval '100 years') and s.paused_at is null
     order by s.name
     for no key update of s skip locked
), ticked as materialized (
    select c.name, t.tick
      from unnest(:tick_names::text[], :ticks::timestamptz[]) as t(name, tick)
      join chosen c on c.name = t.name
     where t.tick > c.seen and t.tick <= clock_timestamp()
), added as (
    insert into pgqueue.jobs (task, args, queue, priority, max_retries, backoff, expires_at, limit_key, schedule, tick)
    select s.task, s.args, s.queue, s.priority, s.max_retries, s.backoff, clock_timestamp() + s.expires, s.limit_key, s.schedule, t.tick
      from ticked t
      join chosen c on c.name = t.name
      join pgqueue.scheduled_jobs(array(select c.name from chosen c)) s on s.schedule = t.name
     where not c.busy
     order by t.tick
    returning id, queue, schedule, tick
), moved as (
    update pgqueue.schedules s
       set last_tick = greatest(s.last_tick, c.last_tick), next_tick = c.next_tick, error = c.error,
           skipped = s.skipped + (select count(*) from ticked t where t.name = s.name and c.busy),
           recent_job_ids = (array_cat(array(select a.id from added a where a.schedule = s.name order by a.tick desc),
                                       s.recent_job_ids))[1:50]
      from chosen c
     where s.name = c.name
    returning s.name
), woken as (
    select count(pgqueue.notify(q.queue)) as n from (select distinct a.queue from added a) q
)
select moved.name, (select count(*) from added a where a.schedule = moved.name)
  from moved cross join woken;

-- name: changed_schedules
-- Of the schedules of code those that are to be looked at: they are not as this code declares them, or it is to be noted that a
-- worker declares them as they are.
select s.name
  from unnest(:names::text[], :declarations::text[]) as d(name, declaration)
  join pgqueue.schedules s on s.name = d.name
 where s.source = 'code' and (s.declaration is distinct from d.declaration or s.missing_at is not null or s.synced)
 order by s.name;

-- name: declare_schedules
-- Write what the code declares. What was changed by hand is left as it is, unless forced. So is what a newer version has
-- declared, one whose declaration came later, while a live worker declares that: it is marked when none does, and written
-- when that was so already for a while.
with declared as materialized (
    select d.* from jsonb_to_recordset(:schedules::text::jsonb) as d(
           name text, expression text, tz text, task text, args jsonb, queue text, priority smallint,
           max_retries integer, backoff jsonb, expires float8, catch_up text, overlap text, declaration text)
), found as materialized (
    select d.name, d.declaration, s.declaration as present, s.source, s.declarations, s.missing_at, s.synced,
           s.name is null as absent, array_position(s.declarations, d.declaration) as place,
           array_position(s.declarations, s.declaration) as present_place
      from declared d
      left join pgqueue.schedules s on s.name = d.name
), judged as materialized (
    select f.name, f.source, f.present,
           case when f.absent then 'write'
                when :force::boolean then
                    case when f.source = 'hand' or f.declaration is distinct from f.present
                              or f.place is distinct from cardinality(f.declarations) then 'write' else 'same' end
                when f.source = 'hand' then 'hand'
                when f.declaration = f.present then 'same'
                when f.place is null or f.place > f.present_place then 'write'
                when f.synced then 'older'
                when exists (select from pgqueue.workers w
                              where w.live_until > clock_timestamp() and w.declarations && f.declarations[f.present_place:]) then 'older'
                when exists (select from pgqueue.workers w
                              where w.live_until > clock_timestamp() and w.declarations && f.declarations[f.place + 1:]) then 'wait'
                when f.missing_at is null then 'missing'
                when f.missing_at <= clock_timestamp() - make_interval(secs => :patience::float8) then 'write'
                else 'wait' end as verdict
      from found f
), noted as (
    update pgqueue.schedules s
       set missing_at = case when j.verdict = 'missing' then clock_timestamp() end,
           synced = s.synced and (j.verdict <> 'same' or :force::boolean)
      from judged j
     where s.name = j.name and s.source = j.source and s.declaration is not distinct from j.present
       and case j.verdict when 'missing' then s.missing_at is null when 'same' then s.missing_at is not null or s.synced
                          when 'older' then s.missing_at is not null else false end
    returning s.name
), written as (
    insert into pgqueue.schedules as s
           (name, expression, tz, task, args, queue, priority, max_retries, backoff, expires, catch_up, overlap,
            declaration, declarations, synced, source, declared_at)
    select d.name, d.expression, d.tz, d.task, d.args, d.queue, d.priority, d.max_retries, d.backoff,
           make_interval(secs => d.expires), d.catch_up, d.overlap, d.declaration, array[d.declaration], :force::boolean, 'code',
           clock_timestamp()
      from declared d
      join judged j on j.name = d.name and j.verdict = 'write'
     order by d.name
    on conflict (name) do update
       set expression = excluded.expression, tz = excluded.tz, task = excluded.task, args = excluded.args,
           queue = excluded.queue, priority = excluded.priority, max_retries = excluded.max_retries,
           backoff = excluded.backoff, expires = excluded.expires, catch_up = excluded.catch_up, overlap = excluded.overlap,
           declaration = excluded.declaration,
           declarations = case when not :force::boolean and excluded.declaration = any (s.declarations) then s.declarations
                               else (array_cat(array_remove(s.declarations, excluded.declaration), array[excluded.declaration]))
                                    [greatest(cardinality(array_remove(s.declarations, excluded.declaration)) - 48, 1):] end,
           missing_at = null, synced = excluded.synced, source = 'code',
           declared_at = clock_timestamp(), updated_at = clock_timestamp()
     where :force::boolean
        or exists (select from judged j where j.name = excluded.name and j.source = s.source and j.present is not distinct from s.declaration)
    returning s.name
)
select d.name, w.name is not null, s.source = 'hand', s.declaration is distinct from d.declaration
  from declared d
  left join written w on w.name = d.name
  left join pgqueue.schedules s on s.name = d.name
 order by d.name;

-- name: review_schedules
-- Compare the schedules that code declared with what live workers, and this one, declare. One that none declares is marked,
-- and paused when that was so already for a while; one that is declared again loses the mark, and goes on if that is why it
-- was paused. What was paused, resumed or written by hand stays as it is.
with declared as materialized (
    select name from unnest(:own::text[]) as name
    union
    select unnest(w.schedules) from pgqueue.workers w where w.live_until > clock_timestamp()
), found as materialized (
    select s.name, s.undeclared_at, s.paused_at, s.pause_reason, d.name is not null as declared
      from pgqueue.schedules s
      left join declared d on d.name = s.name
     where s.source = 'code'
       and case when d.name is not null then s.undeclared_at is not null or s.kept or s.pause_reason = 'undeclared'
                else not s.kept and (s.undeclared_at is null
                     or s.paused_at is null and s.undeclared_at <= clock_timestamp() - make_interval(secs => :patience::float8))
                end
     order by s.name
     for no key update of s skip locked
), judged as (
    select f.name,
           case when f.declared and f.pause_reason = 'undeclared' then 'resumed' when f.declared then 'declared'
                when f.undeclared_at is null then 'undeclared' else 'paused' end as became
      from found f
)
update pgqueue.schedules s
   set undeclared_at = case when j.became in ('undeclared', 'paused') then coalesce(s.undeclared_at, clock_timestamp()) end,
       kept = false,
       paused_at = case j.became when 'paused' then clock_timestamp() when 'resumed' then null else s.paused_at end,
       pause_reason = case j.became when 'paused' then 'undeclared' when 'resumed' then null else s.pause_reason end
  from judged j
 where s.name = j.name
returning s.name, j.became, pgqueue.readable(s.undeclared_at);

-- name: keep_schedules
-- Let schedules of the code tick whether or not a live worker declares them, until one has.
update pgqueue.schedules s
   set kept = true, undeclared_at = null,
       paused_at = case when s.pause_reason = 'undeclared' then null else s.paused_at end,
       pause_reason = case when s.pause_reason = 'undeclared' then null else s.pause_reason end
 where s.name = any (:names::text[])
   and (not s.kept or s.undeclared_at is not null or s.pause_reason = 'undeclared')
returning s.name;

-- name: list_schedules
-- Schedules with their last run, by name.
select v.name, v.expression, v.tz, v.task, v.queue, v.priority, v.max_retries, v.catch_up, v.overlap, v.source,
       pgqueue.readable(v.paused_at), v.pause_reason, pgqueue.readable(v.undeclared_at), pgqueue.readable(v.last_tick),
       pgqueue.readable(v.next_tick), left(v.error, 1000), v.skipped, v.last_job_id, v.last_status,
       pgqueue.readable(v.last_run_at), pgqueue.readable(v.created_at), pgqueue.readable(v.updated_at), clock_timestamp()
  from pgqueue.schedule_list v
 where :name::text is null or v.name = :name::text
 order by v.name;

-- name: list_runs
-- The runs of a schedule, newest first.
select pgqueue.readable(r.tick), r.job_id, r.status, r.attempt, pgqueue.readable(r.created_at), pgqueue.readable(r.finished_at), r.run_seconds::float8
  from pgqueue.schedule_runs r
 where r.schedule = :name::text
 order by r.job_id desc
 limit :limit::integer;

-- name: encrypted_schedules
-- Schedules with encrypted arguments.
select s.name, s.task, s.args::text from pgqueue.schedules s where strpos(s.args::text, '"$encrypted"') > 0 order by s.name;

-- name: replace_schedule_args
-- Other arguments for a schedule that still has the old ones.
update pgqueue.schedules s set args = :new_args::text::jsonb
 where s.name = :name::text and s.args = :old_args::text::jsonb
returning s.name;

-- name: add_schedule
-- Add a schedule, or change the one of this name.
select pgqueue.add_schedule(
    name => :name::text, expression => :expression::text, task => :task::text, args => :args::text::jsonb,
    tz => :tz::text, queue => :queue::text, priority => :priority::integer, max_retries => :max_retries::integer,
    backoff => :backoff::text::jsonb, catch_up => :catch_up::text, overlap => :overlap::text,
    expires => make_interval(secs => :expires::float8));

-- name: remove_schedule
-- Remove a schedule; its runs stay.
select pgqueue.remove_schedule(:name::text);

-- name: pause_schedule
-- Let a schedule give no jobs.
select pgqueue.pause_schedule(:name::text);

-- name: resume_schedule
-- Let a paused schedule tick again.
select pgqueue.resume_schedule(:name::text);

-- name: run_schedule
-- Enqueue a run now, besides its ticks.
select pgqueue.run_schedule(:name::text);
