drop index pgqueue.jobs_note, pgqueue.jobs_noted;
comment on schema pgqueue is 'pgqueue schema 2, serves schema 1';
