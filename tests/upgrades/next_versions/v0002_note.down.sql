alter table pgqueue.jobs drop column note;
drop function pgqueue.note(bigint);
create or replace function pgqueue.schema_version(out version integer, out serves integer)
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$ select 1, 1 $$;
