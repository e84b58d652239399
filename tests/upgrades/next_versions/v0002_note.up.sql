-- The strongest lock on the jobs first: who has read them in a transaction may still write them.
alter table pgqueue.jobs add column note text;
create function pgqueue.note(id bigint) returns text
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$ select j.note from pgqueue.jobs j where j.id = note.id $$;
create or replace function pgqueue.schema_version(out version integer, out serves integer)
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$ select 2, 1 $$;
