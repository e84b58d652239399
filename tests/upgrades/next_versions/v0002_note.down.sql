alter table pgqueue.jobs drop column note;
drop function pgqueue.note(bigint);
comment on schema pgqueue is 'pgqueue schema 1';
