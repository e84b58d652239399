-- Without CONCURRENTLY where the table is empty, and in printed SQL, which may run in a transaction.
create unique index concurrently jobs_unique on pgqueue.jobs (pgqueue.held_key(unique_key, unique_until, status, claimed_at))
    where unique_key is not null;
-- By an expression, so that no statistics can lead a search for it to jobs_ready.
create index concurrently jobs_expiring on pgqueue.jobs ((case when status = 'pending' then expires_at end))
    where expires_at is not null;
-- For claims under limits: the keys of a queue by a loose index scan, then the first jobs of each. By
-- expressions, so that no statistics can lead these searches to jobs_ready, or one of them to the other.
create index concurrently jobs_keyed on pgqueue.jobs
    (queue, (case when status = 'pending' then limit_key end), priority desc, run_at, id)
    where limit_key is not null and (case when status = 'pending' then limit_key end) is not null;
create index concurrently jobs_ordered on pgqueue.jobs (queue, (case when status = 'pending' then limit_key || '' end), id)
    where limit_key is not null and (case when status = 'pending' then limit_key end) is not null;
comment on schema pgqueue is 'pgqueue schema 5, serves schema 1';
