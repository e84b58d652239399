alter table pgqueue.jobs add column schedule text, add column tick timestamptz;
comment on column pgqueue.jobs.schedule is 'The schedule that this is a run of';
comment on column pgqueue.jobs.tick is 'The tick of the schedule; null when run by hand';

-- Firing copies a row into jobs, many in one statement: so its constraints are those of jobs.
create table pgqueue.schedules (
    name           text primary key constraint schedules_name check (length(name) between 1 and 200),
    expression     text        not null constraint schedules_expression check (length(expression) between 1 and 200),
    tz             text        not null default 'UTC' constraint schedules_tz check (length(tz) between 1 and 100),
    task           text        not null constraint schedules_task check (length(task) between 1 and 200),
    args           jsonb       not null default '{}',
    queue          text        not null default 'default'
        constraint schedules_queue check (queue ~ '^[A-Za-z0-9_.:-]{1,64}$'),
    priority       smallint    not null default 0,
    max_retries    integer     not null default 10,
    backoff        jsonb,
    catch_up       text        not null default 'latest'
        constraint schedules_catch_up check (catch_up in ('none', 'latest', 'all')),
    overlap        text        not null default 'allow' constraint schedules_overlap check (overlap in ('allow', 'skip')),
    paused_at      timestamptz,
    last_tick      timestamptz not null default clock_timestamp(),
    next_tick      timestamptz not null default '-infinity',
    error          text,
    recent_job_ids bigint[]    not null default '{}',
    skipped        bigint      not null default 0,
    source         text        not null default 'hand' constraint schedules_source check (source in ('hand', 'code')),
    declaration    text,
    replaced       text,
    declared_at    timestamptz,
    created_at     timestamptz not null default clock_timestamp(),
    updated_at     timestamptz not null default clock_timestamp()
) with (fillfactor = 70);
comment on table pgqueue.schedules is 'Cron entries; each run is a job';
comment on column pgqueue.schedules.expression is 'Five cron fields, six with seconds first, @daily and the like, or every 30s';
comment on column pgqueue.schedules.tz is 'The time zone of the fields, of the IANA database';
comment on column pgqueue.schedules.catch_up is 'Which ticks that nobody saw are made up for: none, latest, all (100 at most)';
comment on column pgqueue.schedules.overlap is 'While the run before is pending or running: allow or skip the next';
comment on column pgqueue.schedules.last_tick is 'Ticks up to here are dealt with; never goes back, so that no tick gives two jobs';
comment on column pgqueue.schedules.next_tick is 'When a worker looks at it again; -infinity: at once';
comment on column pgqueue.schedules.error is 'Why it does not tick: workers cannot read the expression or time zone';
comment on column pgqueue.schedules.recent_job_ids is 'The latest 50 runs, newest first';
comment on column pgqueue.schedules.skipped is 'Ticks without a job because the run before had not ended';
comment on column pgqueue.schedules.source is 'code: declared by an app, which may change it; hand: added or changed at run time';
comment on column pgqueue.schedules.declaration is 'Digest of what the code declares';
comment on column pgqueue.schedules.replaced is 'Digest of the declaration before, which an older version would write again';
create index schedules_due on pgqueue.schedules (next_tick) where paused_at is null;

create function pgqueue.schedule_changed() returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    -- The new times count from now on: none before is missed.
    new.last_tick := greatest(old.last_tick, clock_timestamp());
    new.next_tick := '-infinity';
    new.error := null;
    return new;
end $$;
comment on function pgqueue.schedule_changed is 'Lets workers compute the next tick of a changed schedule';
create trigger changed before update of expression, tz on pgqueue.schedules
    for each row when ((old.expression, old.tz) is distinct from (new.expression, new.tz))
    execute function pgqueue.schedule_changed();

create function pgqueue.add_schedule(
    name text, expression text, task text, args jsonb default '{}', tz text default 'UTC',
    queue text default 'default', priority integer default 0, max_retries integer default 10,
    backoff jsonb default null, catch_up text default 'latest', overlap text default 'allow'
) returns text
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    wrong text := case
        when add_schedule.name is null or length(add_schedule.name) not between 1 and 200
                or add_schedule.name ~ '[[:cntrl:]]' then
            'the name of a schedule must be 1 to 200 printable characters'
        when add_schedule.expression is null or length(add_schedule.expression) > 200 or add_schedule.expression !~*
                '^\s*(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|every\s+\S.*|(\S+\s+){4,5}\S+)\s*$' then
            format('schedule %L is not usable: five cron fields, six with seconds first, @daily or every 30s',
                   left(add_schedule.expression, 80))
        when add_schedule.tz is null or add_schedule.tz !~ '^[A-Za-z][A-Za-z0-9_+/-]{1,99}$' then
            format('time zone %L is not usable: one such as Europe/Oslo or UTC', left(add_schedule.tz, 80))
        when add_schedule.task is null or length(add_schedule.task) not between 1 and 200 then
            'task must have 1 to 200 characters'
        when jsonb_typeof(add_schedule.args) is distinct from 'object' then
            'args must be a JSON object with one key per parameter of the task'
        when octet_length(add_schedule.args::text) > 1048576 then
            'args are over 1 MB: store the document and pass its id'
        when add_schedule.queue is null or add_schedule.queue !~ '^[A-Za-z0-9_.:-]{1,64}$' then
            format('queue %L is not usable: 1 to 64 characters of A-Z a-z 0-9 _ . : -', left(add_schedule.queue, 80))
        when add_schedule.priority is null or add_schedule.priority not between -32768 and 32767 then
            'priority must be from -32768 to 32767'
        when add_schedule.max_retries is null or add_schedule.max_retries not between 0 and 1000 then
            'max_retries must be from 0 to 1000'
        when not pgqueue.is_backoff(add_schedule.backoff) then
            'backoff must be a JSON object of numbers: base, cap, factor, jitter'
        when add_schedule.catch_up is null or add_schedule.catch_up not in ('none', 'latest', 'all') then
            'catch_up must be none, latest or all'
        when add_schedule.overlap is null or add_schedule.overlap not in ('allow', 'skip') then
            'overlap must be allow or skip'
    end;
begin
    if wrong is not null then
        raise exception using message = wrong, errcode = '22023';
    end if;
    insert into pgqueue.schedules as s
           (name, expression, tz, task, args, queue, priority, max_retries, backoff, catch_up, overlap)
    values (add_schedule.name, add_schedule.expression, add_schedule.tz, add_schedule.task, add_schedule.args,
            add_schedule.queue, add_schedule.priority, add_schedule.max_retries, add_schedule.backoff,
            add_schedule.catch_up, add_schedule.overlap)
    on conflict (name) do update
       set expression = excluded.expression, tz = excluded.tz, task = excluded.task, args = excluded.args,
           queue = excluded.queue, priority = excluded.priority, max_retries = excluded.max_retries,
           backoff = excluded.backoff, catch_up = excluded.catch_up, overlap = excluded.overlap,
           source = 'hand', updated_at = clock_timestamp();
    return add_schedule.name;
end $$;
comment on function pgqueue.add_schedule is
    'Add a schedule, or change the one of this name; workers see it within five seconds';

create function pgqueue.remove_schedule(name text) returns boolean
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
    with gone as (delete from pgqueue.schedules s where s.name = remove_schedule.name returning 1)
    select exists (select from gone)
$$;
comment on function pgqueue.remove_schedule is 'Remove a schedule, its runs stay; false if there is none';

create function pgqueue.pause_schedule(name text) returns boolean
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
    with paused as (
        update pgqueue.schedules s set paused_at = coalesce(s.paused_at, clock_timestamp())
         where s.name = pause_schedule.name returning 1)
    select exists (select from paused)
$$;
comment on function pgqueue.pause_schedule is 'Let a schedule give no jobs; false if there is none';

create function pgqueue.resume_schedule(name text) returns boolean
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
    with resumed as (
        update pgqueue.schedules s set paused_at = null, next_tick = '-infinity'
         where s.name = resume_schedule.name returning 1)
    select exists (select from resumed)
$$;
comment on function pgqueue.resume_schedule is
    'Let a paused schedule tick again; its catch_up decides about the ticks meanwhile; false if there is none';

create function pgqueue.run_schedule(name text) returns bigint
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    job_id bigint;
    entry pgqueue.schedules;
begin
    select * into entry from pgqueue.schedules s where s.name = run_schedule.name for update;
    if not found then
        return null;
    end if;
    insert into pgqueue.jobs (task, args, queue, priority, max_retries, backoff, schedule)
    values (entry.task, entry.args, entry.queue, entry.priority, entry.max_retries, entry.backoff, entry.name)
    returning id into job_id;
    update pgqueue.schedules s set recent_job_ids = (job_id || s.recent_job_ids)[1:50] where s.name = entry.name;
    perform pg_notify(pgqueue.channel(entry.queue), '');
    return job_id;
end $$;
comment on function pgqueue.run_schedule is
    'Enqueue a run now, besides its ticks, also of a paused schedule; returns the job, null if there is none';

create view pgqueue.schedule_list as
select s.name, s.expression, s.tz, s.task, s.queue, s.priority, s.max_retries, s.catch_up, s.overlap, s.source,
       s.paused_at, s.last_tick, case when isfinite(s.next_tick) then s.next_tick end as next_tick, s.error, s.skipped,
       s.recent_job_ids[1] as last_job_id, j.status as last_status, j.created_at as last_run_at,
       s.created_at, s.updated_at
  from pgqueue.schedules s
  left join pgqueue.jobs j on j.id = s.recent_job_ids[1];
comment on view pgqueue.schedule_list is 'Schedules with their last run, without arguments';

create view pgqueue.schedule_runs as
select s.name as schedule, j.tick, j.id as job_id, j.status, j.attempt, j.created_at, j.finished_at, j.run_seconds
  from pgqueue.schedules s
 cross join lateral unnest(s.recent_job_ids) as r(id)
  join pgqueue.jobs j on j.id = r.id;
comment on view pgqueue.schedule_runs is 'The latest 50 runs of each schedule, as long as their jobs are kept';

revoke execute on function
    pgqueue.add_schedule(text, text, text, jsonb, text, text, integer, integer, jsonb, text, text),
    pgqueue.remove_schedule(text), pgqueue.pause_schedule(text), pgqueue.resume_schedule(text),
    pgqueue.run_schedule(text) from public;

comment on schema pgqueue is 'pgqueue schema 3, serves schema 1';
