alter table pgqueue.jobs
    add column unique_key text,
    add column unique_until text,
    add column unique_expires_at timestamptz,
    add column expires_at timestamptz,
    add column limit_key text,
    add column progress jsonb,
    add column result jsonb;
comment on column pgqueue.jobs.unique_key is 'No other job that holds its key has the same key and until';
comment on column pgqueue.jobs.unique_until is
    'How long it holds its key: until it started, finished, succeeded, was removed, or for a time (expired)';
comment on column pgqueue.jobs.unique_expires_at is 'With until expired: when a new job may take the key';
comment on column pgqueue.jobs.expires_at is 'It is not started after this';
comment on column pgqueue.jobs.limit_key is 'Jobs with one are claimed under the limits of their task, key by key in turn';
comment on column pgqueue.jobs.progress is '{"done": n, "total": n, "message": text} as the handler last said';
comment on column pgqueue.jobs.result is 'What the handler returned, for tasks that keep it';
alter table pgqueue.attempts add column log text;
comment on column pgqueue.attempts.log is 'What the handler logged with ctx.log';
comment on table pgqueue.attempts is 'Attempts that did not succeed, and those that logged; append-only; pruned with their job';

-- Closed under all moves between statuses but one, dead or cancelled to pending (retry_keyed): so no
-- move of a worker can ever meet a key that another job holds.
create function pgqueue.held_key(unique_key text, unique_until text, status text, claimed_at timestamptz) returns text
    language sql immutable parallel safe
    set search_path = pg_catalog, pg_temp
as $$
    select case unique_until
               when 'started' then case when status = 'pending' and claimed_at is null then 'started:' || unique_key end
               when 'finished' then case when status in ('pending', 'running') then 'finished:' || unique_key end
               when 'succeeded' then case when status <> 'succeeded' then 'succeeded:' || unique_key end
               else unique_until || ':' || unique_key
           end
$$;
comment on function pgqueue.held_key is 'The key that a job holds as it is, so that no other may hold it; null if it holds none';

-- A row named * stands for all queues.
alter table pgqueue.queues
    add column max_running integer constraint queues_max_running check (max_running >= 0),
    add column rate float8 constraint queues_rate check (rate > 0 and rate < 'infinity'),
    add column burst integer constraint queues_burst check (burst >= 1),
    add column declared jsonb;
comment on column pgqueue.queues.max_running is 'Jobs of it that may run at once, over all workers; null: any number';
comment on column pgqueue.queues.rate is 'Jobs of it that may be started per second, over all workers; null: any number';
comment on column pgqueue.queues.burst is 'How many may be started at once after a quiet time; default 1';
comment on column pgqueue.queues.declared is 'What the code declares; written again when that changes, not when a row is changed by hand';
alter table pgqueue.queues drop constraint queues_name;
alter table pgqueue.queues add constraint queues_name check (name ~ '^([A-Za-z0-9_.:-]{1,64}|[*])$');

create table pgqueue.tasks (
    name      text primary key constraint tasks_name check (length(name) between 1 and 200),
    paused_at timestamptz,
    max_running integer constraint tasks_max_running check (max_running >= 0),
    rate float8 constraint tasks_rate check (rate > 0 and rate < 'infinity'),
    burst integer constraint tasks_burst check (burst >= 1),
    ordered text constraint tasks_ordered check (ordered in ('strict', 'skip')),
    weights jsonb constraint tasks_weights check (jsonb_typeof(weights) = 'object'),
    declared jsonb
);
comment on column pgqueue.tasks.max_running is 'Jobs of one limit_key that may run at once, over all workers; null: any number';
comment on column pgqueue.tasks.rate is 'Jobs of one limit_key that may be started per second; null: any number';
comment on column pgqueue.tasks.burst is 'How many may be started at once after a quiet time; default 1';
comment on column pgqueue.tasks.ordered is
    'Jobs of one limit_key run one by one in the order of their ids; strict: one that waits for its time holds up the rest';
comment on column pgqueue.tasks.weights is '{"value of the key": n}: n jobs a turn instead of 1';

create table pgqueue.buckets (
    name    text primary key,
    tokens  float8 not null,
    at      timestamptz not null
) with (fillfactor = 50);
comment on table pgqueue.buckets is 'Token buckets of rates: a queue, or queue/limit_key';
create index tasks_paused on pgqueue.tasks (name) where paused_at is not null;
comment on table pgqueue.tasks is 'Settings of a task; a task needs no row here to be used';

-- What a bucket holds now. https://en.wikipedia.org/wiki/Token_bucket
create function pgqueue.tokens(name text, rate float8, burst integer) returns float8
    language sql volatile
    set search_path = pg_catalog, pg_temp
as $$
    insert into pgqueue.buckets as b (name, tokens, at) values (name, greatest(burst, 1), clock_timestamp())
    on conflict on constraint buckets_pkey do update
       set tokens = least(greatest(burst, 1), b.tokens + rate * greatest(extract(epoch from clock_timestamp() - b.at), 0)),
           at = greatest(b.at, clock_timestamp())
    returning tokens
$$;
comment on function pgqueue.tokens is 'Jobs that a rate lets start now, as a fraction: at most burst, growing by rate a second';

-- One claim of a queue at a time, and each statement after the lock has a snapshot of its own, so the
-- counts see every claim before this one: in one statement with the lock they would be older than it.
create function pgqueue.claim_limited(
    of_queue text, most integer, claim_id uuid, worker_id uuid, lease float8, after_key text
)
    returns table (last_key text, wait float8, id bigint, task text, args text, priority smallint, attempt integer,
                   max_retries integer, crashes integer, run_at timestamptz)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    here pgqueue.queues;
    head record;
    busy jsonb;
    there float8;
    allowed integer;
    room integer := most;
    visited integer := 0;
    around boolean := false;
    at_key text := coalesce(after_key, '');
    next_key text;
    until_token float8;
    keys text[] := '{}';
    allows integer[] := '{}';
    weights integer[] := '{}';
    rates jsonb := '{}';
    first_in_order bigint[] := '{}';
    chosen bigint[] := '{}';
begin
    insert into pgqueue.queues (name) values (of_queue) on conflict do nothing;
    select q.* into here from pgqueue.queues q where q.name = of_queue for update skip locked;
    if here.name is null or here.paused_at is not null
       or exists (select from pgqueue.queues q where q.name = '*' and q.paused_at is not null) then
        return query select after_key, null::float8, null::bigint, null::text, null::text, null::smallint,
                            null::integer, null::integer, null::integer, null::timestamptz;
        return;
    end if;
    select coalesce(jsonb_object_agg(r.key, r.n), '{}'), least(room, here.max_running - coalesce(sum(r.n), 0)::integer)
      into busy, room
      from (select coalesce(j.limit_key, '') as key, count(*)::integer as n
              from pgqueue.jobs j where j.worker_id is not null and j.queue = of_queue group by 1) r;
    if here.rate is not null then
        there := pgqueue.tokens(of_queue, here.rate, here.burst);
        until_token := case when there < 1 then (1 - there) / here.rate end;
        room := least(room, floor(there + 1e-9)::integer);
    end if;
    while room > 0 and visited < 500 and cardinality(keys) + cardinality(first_in_order) < room loop
        select (case when j.status = 'pending' then j.limit_key end) into next_key from pgqueue.jobs j
         where j.limit_key is not null and j.queue = of_queue and (case when j.status = 'pending' then j.limit_key end) > at_key
         order by (case when j.status = 'pending' then j.limit_key end) limit 1;
        if next_key is null or around and next_key > coalesce(after_key, '') then
            exit when around;
            around := true;
            at_key := '';
            continue;
        end if;
        at_key := next_key;
        visited := visited + 1;
        select j.id, t.max_running, t.rate, t.burst, t.ordered, t.paused_at,
               greatest(coalesce((t.weights ->> substr(j.limit_key, length(j.task) + 2))::integer, 1), 1) as weight
          into head
          from pgqueue.jobs j left join pgqueue.tasks t on t.name = j.task
         where j.limit_key is not null and j.queue = of_queue and (case when j.status = 'pending' then j.limit_key end) = at_key
           and j.run_at <= now()
         order by j.priority desc, j.run_at, j.id limit 1;
        continue when head.id is null or head.paused_at is not null;
        allowed := least(room, head.max_running - coalesce((busy ->> at_key)::integer, 0));
        if head.rate is not null then
            there := pgqueue.tokens(of_queue || '/' || at_key, head.rate, head.burst);
            allowed := least(allowed, floor(there + 1e-9)::integer);
            if there < 1 then
                until_token := least(until_token, (1 - there) / head.rate);
            end if;
            rates := rates || jsonb_build_object(at_key, true);
        end if;
        continue when allowed <= 0;
        if head.ordered is null then
            keys := keys || at_key;
            allows := allows || allowed;
            weights := weights || head.weight;
        elsif not busy ? at_key then
            select j.id, j.run_at into head from pgqueue.jobs j
             where j.queue = of_queue and (case when j.status = 'pending' then j.limit_key || '' end) = at_key
               and j.limit_key is not null and (case when j.status = 'pending' then j.limit_key end) is not null
               and (head.ordered = 'strict' or j.run_at <= now())
             order by j.id limit 1;
            if head.run_at <= now() then
                first_in_order := first_in_order || head.id;
            end if;
        end if;
    end loop;
    select array_agg(c.id order by c.turn, c.nth) into chosen
      from (select found.id, (found.nth - 1) / k.weight as turn, k.n as nth
              from unnest(keys, allows, weights) with ordinality as k(key, allowed, weight, n)
             cross join lateral (
                 select x.id, row_number() over (order by x.priority desc, x.run_at, x.id) as nth
                   from (select j.id, j.priority, j.run_at from pgqueue.jobs j
                          where j.limit_key is not null and j.queue = of_queue and (case when j.status = 'pending' then j.limit_key end) = k.key
                            and j.run_at <= now()
                            and (j.expires_at is null or j.expires_at > now())
                          order by j.priority desc, j.run_at, j.id
                          limit least(k.allowed, greatest(k.weight, 2 * room / cardinality(keys) + 1))) x) found
            union all
            select o.id, 0, o.n from unnest(first_in_order) with ordinality as o(id, n)) c;
    chosen := coalesce(chosen, '{}');
    if here.max_running is not null or here.rate is not null then
        -- Those without a key are nobody's but ours; half of the time they come first.
        with plain as (
            select j.id from pgqueue.jobs j
             where j.status = 'pending' and j.queue = of_queue and j.limit_key is null and j.run_at <= now()
               and (j.expires_at is null or j.expires_at > now())
               and j.task <> all (array(select t.name from pgqueue.tasks t where t.paused_at is not null))
             order by j.priority desc, j.run_at, j.id
             limit greatest(room, 0)
        ) select case when random() < 0.5 then chosen || array(select p.id from plain p)
                      else array(select p.id from plain p) || chosen end into chosen;
    end if;
    return query
    with pick as materialized (
        select j.id from pgqueue.jobs j
         where j.id = any (chosen[1:greatest(room, 0)]) and j.status = 'pending'
         order by j.id
         for update of j skip locked
    ), taken as (
        update pgqueue.jobs j
           set status = 'running', attempt = least(j.attempt, 2147483646) + 1, claim_id = claim_limited.claim_id,
               worker_id = claim_limited.worker_id, claimed_at = clock_timestamp(),
               lease_expires_at = clock_timestamp() + make_interval(secs => lease)
          from pick
         where j.id = pick.id
        returning j.*
    ), spent as (
        update pgqueue.buckets b
           set tokens = b.tokens - s.n
          from (select of_queue as name, count(*) as n from taken
                union all
                select of_queue || '/' || t.limit_key, count(*) from taken t where rates ? t.limit_key group by 1) s
         where b.name = s.name
    )
    select at_key, until_token, null::bigint, null::text, null::text, null::smallint, null::integer, null::integer,
           null::integer, null::timestamptz
    union all
    select null, null, t.id, t.task, left(t.args::text, 2097153), t.priority, t.attempt, t.max_retries, t.crashes,
           greatest(t.run_at, timestamptz 'epoch')
      from taken t;
end $$;
comment on function pgqueue.claim_limited is
    'Claim due jobs of a queue under its limits and those of its keys, key by key in turn from one on';

create function pgqueue.wrong_with(
    task text, args jsonb, queue text, priority integer, run_at timestamptz, delay interval, max_retries integer,
    backoff jsonb, unique_key text, unique_until text, unique_for interval, on_conflict text, expires interval, limit_key text
) returns text
    language plpgsql immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    size integer := octet_length(args::text);
begin
    -- Checked here, not by constraints, whose errors print the row with its arguments.
    return case
        when task is null or length(task) not between 1 and 200 then
            'task must have 1 to 200 characters, got ' || coalesce(length(task)::text, 'null')
        when jsonb_typeof(args) is distinct from 'object' then
            'args must be a JSON object with one key per parameter of the task, got '
            || coalesce(jsonb_typeof(args), 'null')
        when size > 1048576 then
            format('args of task %s are over 1 MB: store the document and pass its id', task)
        when size > 128 and jsonb_path_exists(args,
                'strict $.**{64} ? (@.type() == "object" || @.type() == "array")') then
            format('args of task %s are nested deeper than 64', task)
        when queue is null or queue !~ '^[A-Za-z0-9_.:-]{1,64}$' then
            format('queue %L is not usable: 1 to 64 characters of A-Z a-z 0-9 _ . : -', left(queue, 80))
        when priority is null or priority not between -32768 and 32767 then
            'priority must be from -32768 to 32767, got ' || coalesce(priority::text, 'null')
        when max_retries is null or max_retries not between 0 and 1000 then
            'max_retries must be from 0 to 1000, got ' || coalesce(max_retries::text, 'null')
        when not isfinite(run_at) then 'run_at must be a time, got ' || run_at::text
        when delay not between interval '0' and interval '365 days' then
            'delay must be from 0 to 365 days, got ' || delay::text
        when not pgqueue.is_backoff(backoff) then
            'backoff must be a JSON object of numbers: base and cap from 0 to 31536000 (seconds),'
            || ' factor from 1 to 100, jitter from 0 to 1'
        when length(limit_key) not between 1 and 300 then
            'limit_key must have 1 to 300 characters, got ' || length(limit_key)
        when expires not between interval '0' and interval '365 days' then
            'expires must be from 0 to 365 days, got ' || expires::text
        when length(unique_key) not between 1 and 300 then
            'unique_key must have 1 to 300 characters, got ' || length(unique_key)
        when unique_key is null and unique_for is not null then 'unique_for needs a unique_key'
        when unique_for not between interval '1 millisecond' and interval '365 days' then
            'unique_for must be from 1 ms to 365 days, got ' || unique_for::text
        when unique_until is null or unique_until not in ('started', 'finished', 'succeeded', 'removed') then
            format('unique_until must be started, finished, succeeded or removed, got %L', unique_until)
        when on_conflict is null or on_conflict not in ('ignore', 'replace', 'reschedule', 'raise') then
            format('on_conflict must be ignore, replace, reschedule or raise, got %L', on_conflict)
        when on_conflict in ('replace', 'reschedule') and (unique_until <> 'started' or unique_for is not null) then
            format('on_conflict %s changes the waiting job, so it needs unique_until started', on_conflict)
    end;
end $$;
comment on function pgqueue.wrong_with is 'What is wrong with a job to be enqueued; null if nothing is';

create function pgqueue.insert_job(job pgqueue.jobs) returns bigint
    language sql volatile
    set search_path = pg_catalog, pg_temp
as $$
    insert into pgqueue.jobs (task, args, queue, priority, run_at, max_retries, backoff, expires_at,
                              limit_key, unique_key, unique_until, unique_expires_at)
    values (job.task, job.args, job.queue, job.priority, job.run_at, job.max_retries, job.backoff, job.expires_at,
            job.limit_key, job.unique_key, job.unique_until, job.unique_expires_at)
    on conflict do nothing
    returning id
$$;
comment on function pgqueue.insert_job is 'Inserts a job; null if another holds its key';

-- Each statement in the loop has a snapshot of its own, so the job that a conflict was with is found by
-- the next one, unless it has let its key go meanwhile: then the key is free.
create function pgqueue.place_job(job pgqueue.jobs, on_conflict text, out id bigint, out placed text)
    language plpgsql volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    held constant text := job.unique_until || ':' || job.unique_key;
begin
    for try in 1 .. 1000 loop
        if job.unique_until = 'expired' then
            update pgqueue.jobs as j set unique_key = null
             where j.unique_key is not null
               and pgqueue.held_key(j.unique_key, j.unique_until, j.status, j.claimed_at) = held
               and j.unique_expires_at <= clock_timestamp();
        end if;
        placed := 'inserted';
        if current_setting('transaction_isolation') = 'read committed' then
            id := pgqueue.insert_job(job);
        else
            begin
                id := pgqueue.insert_job(job);
            exception when serialization_failure then
                -- The other job is newer than this transaction's snapshot, so its id cannot be read.
                placed := 'existing';
                return;
            end;
        end if;
        exit when id is not null;
        if on_conflict in ('replace', 'reschedule') then
            placed := on_conflict || 'd';
            update pgqueue.jobs as j
               set args = job.args, queue = job.queue, priority = job.priority, max_retries = job.max_retries,
                   backoff = job.backoff, expires_at = job.expires_at, limit_key = job.limit_key,
                   run_at = case when on_conflict = 'reschedule' then job.run_at else j.run_at end
             where j.unique_key is not null
               and pgqueue.held_key(j.unique_key, j.unique_until, j.status, j.claimed_at) = held
            returning j.id into id;
        else
            placed := 'existing';
            select j.id into id from pgqueue.jobs j
             where j.unique_key is not null
               and pgqueue.held_key(j.unique_key, j.unique_until, j.status, j.claimed_at) = held;
        end if;
        exit when id is not null;
    end loop;
    if id is null then
        raise exception 'could not take the unique key of task %: others took and left it 1000 times', job.task
            using errcode = '55P03';
    end if;
end $$;
comment on function pgqueue.place_job is 'Inserts a job that holds a key, or finds or changes the one that holds it';

create function pgqueue.add_job(
    task text, args jsonb, queue text, priority integer, run_at timestamptz, delay interval, max_retries integer,
    backoff jsonb, unique_key text, unique_until text, unique_for interval, on_conflict text, expires interval, limit_key text,
    out id bigint, out placed text, out due boolean
)
    language plpgsql volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    job pgqueue.jobs;
begin
    job.task := task;
    job.args := args;
    job.queue := queue;
    job.priority := priority;
    job.run_at := coalesce(run_at, clock_timestamp() + coalesce(delay, interval '0'));
    job.max_retries := max_retries;
    job.backoff := backoff;
    job.expires_at := job.run_at + expires;
    job.limit_key := task || ':' || limit_key;
    if unique_key is null then
        placed := 'inserted';
        id := pgqueue.insert_job(job);
    else
        job.unique_key := task || ':' || unique_key;
        job.unique_until := case when unique_for is null then unique_until else 'expired' end;
        job.unique_expires_at := clock_timestamp() + unique_for;
        select p.id, p.placed into id, placed from pgqueue.place_job(job, on_conflict) p;
    end if;
    due := placed <> 'existing' and job.run_at <= clock_timestamp();
end $$;
comment on function pgqueue.add_job is 'Inserts a checked job, or finds the one that holds its key; wakes nobody';

create function pgqueue.enqueue(
    task text, args jsonb default '{}', queue text default 'default', priority integer default 0,
    run_at timestamptz default null, delay interval default null, max_retries integer default 10,
    backoff jsonb default null, notify boolean default true, unique_key text default null,
    unique_until text default 'finished', unique_for interval default null, on_conflict text default 'ignore',
    expires interval default null, limit_key text default null
) returns bigint
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    added record;
    wrong text := pgqueue.wrong_with(task, args, queue, priority, run_at, delay, max_retries, backoff, unique_key,
                                     unique_until, unique_for, on_conflict, expires, limit_key);
begin
    if wrong is not null then
        raise exception using message = wrong, errcode = '22023';
    end if;
    added := pgqueue.add_job(task, args, queue, priority, run_at, delay, max_retries, backoff, unique_key,
                             unique_until, unique_for, on_conflict, expires, limit_key);
    if added.placed = 'existing' and on_conflict = 'raise' then
        raise exception 'job % has the unique key of this one', coalesce(added.id::text, 'of another transaction')
            using errcode = 'PQ002';
    end if;
    if notify and added.due then
        perform pg_notify(pgqueue.channel(queue), '');
    end if;
    return added.id;
end $$;

-- Keys are taken in one order by everybody.
create function pgqueue.add_jobs(jobs jsonb, notify boolean) returns table (ordinal bigint, id bigint, placed text)
    language plpgsql volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    each record;
    added record;
    wrong text;
    queues text[] := '{}';
begin
    for each in
        select e.ordinality, r.task, r.args, r.queue, r.priority, r.max_retries, r.backoff, r.run_at, r.delay,
               r.unique_key, coalesce(r.unique_until, 'finished') as unique_until, r.unique_for,
               coalesce(r.on_conflict, 'ignore') as on_conflict, r.expires, r.limit_key
          from jsonb_array_elements(jobs) with ordinality as e(job, ordinality)
         cross join lateral jsonb_to_record(e.job) as r(
               task text, args jsonb, queue text, priority integer, max_retries integer, backoff jsonb,
               run_at timestamptz, delay float8, unique_key text, unique_until text, unique_for float8,
               on_conflict text, expires float8, limit_key text)
         order by r.task, r.unique_key nulls first, e.ordinality
    loop
        wrong := pgqueue.wrong_with(
            each.task, each.args, each.queue, each.priority, each.run_at, make_interval(secs => each.delay),
            each.max_retries, each.backoff, each.unique_key, each.unique_until,
            make_interval(secs => each.unique_for), each.on_conflict, make_interval(secs => each.expires), each.limit_key);
        if wrong is not null then
            raise exception using message = wrong, errcode = '22023';
        end if;
        added := pgqueue.add_job(
            each.task, each.args, each.queue, each.priority, each.run_at, make_interval(secs => each.delay),
            each.max_retries, each.backoff, each.unique_key, each.unique_until,
            make_interval(secs => each.unique_for), each.on_conflict, make_interval(secs => each.expires), each.limit_key);
        ordinal := each.ordinality;
        id := added.id;
        placed := added.placed;
        if placed = 'existing' and each.on_conflict = 'raise' then
            raise exception 'taken' using errcode = 'PQ002', detail = coalesce(id::text, '');
        end if;
        if added.due then
            queues := queues || each.queue;
        end if;
        return next;
    end loop;
    if notify then
        perform pg_notify(pgqueue.channel(q.queue), '') from (select distinct unnest(queues) as queue) q;
    end if;
end $$;
comment on function pgqueue.add_jobs is 'Adds jobs; raises PQ002 at a conflict that is to raise';

create function pgqueue.enqueue_jobs(jobs jsonb, notify boolean default true)
    returns table (ordinal bigint, id bigint, placed text)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    holder text;
begin
    if jsonb_path_exists(jobs, '$[*] ? (@.on_conflict == "raise")') then
        begin
            return query select a.ordinal, a.id, a.placed from pgqueue.add_jobs(jobs, notify) a;
        exception when sqlstate 'PQ002' then
            -- Nothing was inserted, and the caller's transaction can go on.
            get stacked diagnostics holder = pg_exception_detail;
            return query select 0::bigint, nullif(holder, '')::bigint, 'refused';
            return;
        end;
    else
        return query select a.ordinal, a.id, a.placed from pgqueue.add_jobs(jobs, notify) a;
    end if;
end $$;
comment on function pgqueue.enqueue_jobs is
    'Enqueue jobs, all or none; a conflict that is to raise gives one row, refused, with the id of the job that holds the key';

create function pgqueue.retry_keyed(job_id bigint, args jsonb default null) returns boolean
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    update pgqueue.jobs as j
       set status = 'pending', attempt = 0, crashes = 0, run_at = clock_timestamp(), finished_at = null,
           cancel_requested = false, run_seconds = null, expires_at = null, progress = null,
           args = coalesce(retry_keyed.args, j.args)
     where j.id = job_id and j.status in ('dead', 'cancelled');
    return found;
exception when unique_violation then
    return false;
end $$;
comment on function pgqueue.retry_keyed is
    'Puts a dead or cancelled job with a unique key back; false if another job holds the key now';

revoke execute on function pgqueue.claim_limited(text, integer, uuid, uuid, float8, text),
    pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean, text, text, interval, text, interval, text),
    pgqueue.enqueue_jobs(jsonb, boolean), pgqueue.retry_keyed(bigint, jsonb),
    pgqueue.add_job(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, text, text, interval, text, interval, text),
    pgqueue.add_jobs(jsonb, boolean), pgqueue.place_job(pgqueue.jobs, text), pgqueue.insert_job(pgqueue.jobs)
    from public;
-- Whoever could insert a column of jobs, or call enqueue(), may call the new ones.
do $$
declare
    command text;
begin
    for command in
        select distinct format('grant execute on function %s to %s', f.signature,
                      case when acl.grantee = 0 then 'public' else acl.grantee::regrole::text end)
          from (values ('INSERT', 'pgqueue.enqueue_jobs(jsonb, boolean)'),
                       ('EXECUTE', 'pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean, text, text, interval, text, interval, text)'))
               as f(privilege, signature)
          join (select (aclexplode(relacl)).* from pg_class where oid = 'pgqueue.jobs'::regclass
                union all
                select (aclexplode(attacl)).* from pg_attribute where attrelid = 'pgqueue.jobs'::regclass
                union all
                select (aclexplode(proacl)).* from pg_proc
                 where oid = 'pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean)'::regprocedure) acl
            on acl.privilege_type = f.privilege
    loop
        execute command;
    end loop;
end $$;
drop function pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean);
comment on function pgqueue.enqueue is
    'Enqueue a job in the caller''s transaction; returns its id, or that of the job that holds its unique key';
