drop index pgqueue.jobs_note, pgqueue.jobs_noted;
create or replace function pgqueue.schema_version(out version integer, out serves integer)
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$ select 2, 1 $$;
