create index concurrently jobs_note on pgqueue.jobs (note) where note is not null;
create unique index concurrently jobs_noted on pgqueue.jobs (id, note) where note is not null;
create or replace function pgqueue.schema_version(out version integer, out serves integer)
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$ select 3, 1 $$;
