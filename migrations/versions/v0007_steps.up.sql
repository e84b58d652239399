create table pgqueue.steps (
    job_id      bigint not null,
    name        text not null constraint steps_name check (length(name) between 1 and 200),
    event       text,
    event_id    bigint,
    wakes_at    timestamptz,
    result      jsonb,
    started_at  timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    primary key (job_id, name)
);
comment on table pgqueue.steps is 'What jobs have done already, and what they sleep or wait for; pruned with their job';
comment on column pgqueue.steps.event is 'The name of the event that it waits or waited for';
comment on column pgqueue.steps.event_id is 'The event that came; null after a timeout';
comment on column pgqueue.steps.wakes_at is 'When its sleep, or its wait for an event, is over';
create index steps_waiting on pgqueue.steps (event) where event is not null and finished_at is null;

create table pgqueue.events (
    id           bigint generated always as identity primary key,
    name         text not null constraint events_name check (length(name) between 1 and 200),
    payload      jsonb,
    created_at   timestamptz not null default clock_timestamp(),
    delivered_at timestamptz
);
comment on table pgqueue.events is 'What was emitted';
comment on column pgqueue.events.delivered_at is 'When no job that waited for it needed to be woken any more';
create index events_name on pgqueue.events (name, id);
create index events_undelivered on pgqueue.events (id) where delivered_at is null;
create index events_created on pgqueue.events (created_at);

-- The row stays locked to the end of the transaction: no rescue comes between this look and the commit.
create function pgqueue.check_claim(job_id bigint, claim_id uuid) returns void
    language plpgsql volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform 1 from pgqueue.jobs j
      where j.id = check_claim.job_id and j.claim_id = check_claim.claim_id and j.status = 'running'
        for no key update;
    if not found then
        raise exception 'job % is no longer held by claim %', job_id, claim_id
            using errcode = 'PQ001', hint = 'Its lease ran out or it was taken back; this transaction must roll back.';
    end if;
end $$;
comment on function pgqueue.check_claim is 'Raises PQ001 unless the claim holds the job';

create function pgqueue.save_step(job_id bigint, claim_id uuid, name text, result jsonb) returns jsonb
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    stored jsonb;
begin
    perform pgqueue.check_claim(save_step.job_id, save_step.claim_id);
    insert into pgqueue.steps (job_id, name, result, finished_at)
    values (save_step.job_id, save_step.name, save_step.result, clock_timestamp())
    on conflict do nothing;
    select s.result into stored from pgqueue.steps s where s.job_id = save_step.job_id and s.name = save_step.name;
    return stored;
end $$;
comment on function pgqueue.save_step is 'Stores what a step of a running job returned, once; returns what is stored';

create function pgqueue.start_sleep(job_id bigint, claim_id uuid, name text, seconds float8) returns float8
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    seconds_left float8;
begin
    perform pgqueue.check_claim(start_sleep.job_id, start_sleep.claim_id);
    insert into pgqueue.steps (job_id, name, wakes_at)
    values (start_sleep.job_id, start_sleep.name, clock_timestamp() + make_interval(secs => seconds))
    on conflict do nothing;
    update pgqueue.steps s
       set finished_at = coalesce(s.finished_at, case when s.wakes_at <= clock_timestamp() then clock_timestamp() end)
     where s.job_id = start_sleep.job_id and s.name = start_sleep.name
    returning case when s.finished_at is null then greatest(extract(epoch from s.wakes_at - clock_timestamp()), 0.001) else 0 end
      into seconds_left;
    return seconds_left;
end $$;
comment on function pgqueue.start_sleep is 'Begins a sleep of a running job, once; returns the seconds that are left, 0 when it is over';

-- Called twice, in two transactions: an event that commits before the second is found by it, and one after it is
-- not delivered yet and finds the step.
create function pgqueue.await_event(
    job_id bigint, claim_id uuid, name text, event text, timeout float8,
    out arrived boolean, out payload jsonb, out seconds_left float8
)
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    step pgqueue.steps;
    came record;
begin
    perform pgqueue.check_claim(await_event.job_id, await_event.claim_id);
    insert into pgqueue.steps (job_id, name, event, wakes_at)
    values (await_event.job_id, await_event.name, await_event.event, clock_timestamp() + make_interval(secs => timeout))
    on conflict do nothing;
    select s.* into step from pgqueue.steps s where s.job_id = await_event.job_id and s.name = await_event.name;
    if step.finished_at is null then
        select e.id, e.payload into came from pgqueue.events e
         where e.name = step.event
           and e.created_at >= (select j.created_at from pgqueue.jobs j where j.id = await_event.job_id)
           and not exists (select from pgqueue.steps o where o.job_id = await_event.job_id and o.event_id = e.id)
         order by e.id limit 1;
        if came.id is not null or step.wakes_at <= clock_timestamp() then
            update pgqueue.steps s
               set event_id = came.id, result = came.payload, finished_at = clock_timestamp()
             where s.job_id = await_event.job_id and s.name = await_event.name
            returning s.* into step;
        end if;
    end if;
    arrived := step.event_id is not null;
    payload := step.result;
    seconds_left := case when step.finished_at is null then greatest(extract(epoch from step.wakes_at - clock_timestamp()), 0.001) else 0 end;
end $$;
comment on function pgqueue.await_event is
    'Waits for the first event of a name since the job was enqueued that it has not had; seconds left until the timeout, 0 when it is over';

create function pgqueue.wake_waiting(event_ids bigint[]) returns bigint
    language sql volatile
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
    with chosen as materialized (
        select j.id from pgqueue.jobs j
         where j.status = 'pending' and j.run_at > clock_timestamp()
           and j.id in (select s.job_id from pgqueue.events e
                          join pgqueue.steps s on s.event = e.name and s.event is not null and s.finished_at is null
                         where e.id = any (event_ids))
         order by j.id
         for update of j skip locked
    ), woken as (
        update pgqueue.jobs j set run_at = clock_timestamp() from chosen c where j.id = c.id returning j.queue
    ), told as (
        select count(pg_notify(pgqueue.channel(q.queue), '')) as n from (select distinct w.queue from woken w) q
    )
    select count(*) from told left join woken on true where woken.queue is not null
$$;
comment on function pgqueue.wake_waiting is 'Makes jobs due that wait for these events; how many';

create function pgqueue.emit(name text, payload jsonb default null) returns bigint
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    new_id bigint;
begin
    if name is null or length(name) not between 1 and 200 then
        raise exception 'the name of an event must have 1 to 200 characters' using errcode = '22023';
    end if;
    if octet_length(payload::text) > 1048576 then
        raise exception 'the payload of event % is over 1 MB: store the document and pass its id', name using errcode = '22023';
    end if;
    insert into pgqueue.events (name, payload) values (emit.name, emit.payload) returning id into new_id;
    perform pgqueue.wake_waiting(array[new_id]);
    return new_id;
end $$;
comment on function pgqueue.emit is 'Emit an event in the caller''s transaction, for all jobs that wait for its name; returns its id';

create function pgqueue.deliver_events(most integer default 1000) returns bigint
    language plpgsql volatile security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    fresh bigint[];
    woken bigint;
begin
    fresh := array(select e.id from pgqueue.events e where e.delivered_at is null order by e.id limit most for update skip locked);
    woken := pgqueue.wake_waiting(fresh);
    -- One that is about to sleep is not woken by this look but by the next.
    update pgqueue.events e set delivered_at = clock_timestamp()
     where e.id = any (fresh)
       and not exists (select from pgqueue.steps s join pgqueue.jobs j on j.id = s.job_id
                        where s.event = e.name and s.event is not null and s.finished_at is null
                          and (j.status = 'running' or j.status = 'pending' and j.run_at > clock_timestamp()));
    return woken;
end $$;
comment on function pgqueue.deliver_events is 'Wakes the jobs that wait for events that nobody has delivered; how many';

revoke execute on function pgqueue.check_claim(bigint, uuid), pgqueue.save_step(bigint, uuid, text, jsonb),
    pgqueue.start_sleep(bigint, uuid, text, float8), pgqueue.await_event(bigint, uuid, text, text, float8),
    pgqueue.wake_waiting(bigint[]), pgqueue.emit(text, jsonb), pgqueue.deliver_events(integer) from public;
-- Whoever may enqueue may emit; whoever may complete a job may do its steps.
do $$
declare
    command text;
begin
    for command in
        select distinct format('grant execute on function %s to %s', f.signature,
                      case when acl.grantee = 0 then 'public' else acl.grantee::regrole::text end)
          from (values ('pgqueue.enqueue_jobs(jsonb, boolean)', 'pgqueue.emit(text, jsonb)'),
                       ('pgqueue.complete_job(bigint, uuid)', 'pgqueue.save_step(bigint, uuid, text, jsonb)'),
                       ('pgqueue.complete_job(bigint, uuid)', 'pgqueue.start_sleep(bigint, uuid, text, float8)'),
                       ('pgqueue.complete_job(bigint, uuid)', 'pgqueue.await_event(bigint, uuid, text, text, float8)'),
                       ('pgqueue.complete_job(bigint, uuid)', 'pgqueue.deliver_events(integer)')) as f(as_before, signature)
         cross join lateral (select (aclexplode(proacl)).* from pg_proc where oid = f.as_before::regprocedure) acl
         where acl.privilege_type = 'EXECUTE'
    loop
        execute command;
    end loop;
end $$;

comment on schema pgqueue is 'pgqueue schema 7, serves schema 1';
