alter table pgqueue.jobs drop constraint jobs_queue;
alter table pgqueue.jobs add constraint jobs_queue check (queue ~ '^[A-Za-z0-9_.:-]{1,64}$') not valid;

comment on schema pgqueue is 'pgqueue schema 8, serves schema 1';
