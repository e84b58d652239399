-- What jobs and the database itself note while things break. No key is unique: twice must be seen.
create schema chaos;

create table chaos.ledger (
    number   bigint  not null,
    event    text    not null,
    job      bigint  not null,
    attempt  integer not null,
    claim_id uuid    not null,
    pid      integer not null,
    at       float8  not null
);
comment on table chaos.ledger is 'Written by the jobs: start, and done, failed or stopped, for each run; unsure: the run did not learn that done was written';

create table chaos.effects (
    number   bigint not null,
    claim_id uuid   not null
);
comment on table chaos.effects is 'Written by jobs in the transaction that completes them';

create table chaos.outcomes (
    number    bigint not null,
    claim_id  uuid,
    worker_id uuid,
    was       text   not null,
    became    text   not null,
    lease_end float8,
    at        float8 not null default extract(epoch from clock_timestamp())
);
comment on table chaos.outcomes is 'Written by a trigger: every end of a claim, and every change of a finished job';

create function chaos.note_outcome() returns trigger language plpgsql as $$
begin
    insert into chaos.outcomes (number, claim_id, worker_id, was, became, lease_end)
    values ((old.args ->> 'number')::bigint, old.claim_id, old.worker_id, old.status, new.status,
            extract(epoch from old.lease_expires_at));
    return null;
end $$;

create trigger chaos_outcome after update on pgqueue.jobs for each row
    when (old.status in ('succeeded', 'dead', 'cancelled')
          or old.status = 'running' and (new.status <> 'running' or new.claim_id is distinct from old.claim_id))
    execute function chaos.note_outcome();
