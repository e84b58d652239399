create index concurrently jobs_note on pgqueue.jobs (note) where note is not null;
create unique index concurrently jobs_noted on pgqueue.jobs (id, note) where note is not null;
comment on schema pgqueue is 'pgqueue schema 3, serves schema 1';
