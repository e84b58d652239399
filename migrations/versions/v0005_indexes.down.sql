drop index pgqueue.jobs_keyed;
drop index pgqueue.jobs_ordered;
drop index pgqueue.jobs_unique;
drop index pgqueue.jobs_expiring;
comment on schema pgqueue is 'pgqueue schema 3, serves schema 1';
