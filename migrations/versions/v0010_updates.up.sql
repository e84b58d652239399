-- The strongest lock first: who has read the jobs in a transaction and then writes them would wait for a weaker lock of
-- this one, which waits for that transaction.
alter table pgqueue.jobs drop constraint jobs_queue, drop constraint jobs_task;

-- Each statement that writes a row parses all check constraints of its table anew, and asks them for each row; claims and
-- completions do not write these columns. A trigger is asked only where they are written.
create function pgqueue.refuse_name() returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    broken constant text := case when length(new.task) between 1 and 200 then 'jobs_queue' else 'jobs_task' end;
begin
    raise exception 'new row for relation "jobs" violates check constraint "%"', broken
        using errcode = 'check_violation', schema = tg_table_schema, table = tg_table_name, constraint = broken,
              hint = case broken when 'jobs_task' then 'The name of a task has 1 to 200 characters.'
                                 else 'The name of a queue has 1 to 64 characters: letters, digits, and _ . : -' end;
end $$;
comment on function pgqueue.refuse_name is 'Refuses a job whose queue or task has no proper name';
create trigger names after insert or update of queue, task on pgqueue.jobs
    for each row when (new.queue ~ '[^A-Za-z0-9_.:-]' or octet_length(new.queue) not between 1 and 64
                       or length(new.task) not between 1 and 200)
    execute function pgqueue.refuse_name();

-- A claim and a completion write a version of the row each: half of a page takes them where the row lies.
alter table pgqueue.jobs set (fillfactor = 50);

comment on schema pgqueue is 'pgqueue schema 10, serves schema 1';
