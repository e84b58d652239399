-- Not valid: the trigger has seen to the rows that are there.
alter table pgqueue.jobs
    add constraint jobs_queue check (queue !~ '[^A-Za-z0-9_.:-]' and octet_length(queue) between 1 and 64) not valid,
    add constraint jobs_task check (length(task) between 1 and 200) not valid;
drop trigger names on pgqueue.jobs;
drop function pgqueue.refuse_name();

alter table pgqueue.jobs set (fillfactor = 85);

comment on schema pgqueue is 'pgqueue schema 9, serves schema 1';
