drop view pgqueue.workflow_list;
drop function pgqueue.retry_workflow(bigint);
drop function pgqueue.cancel_workflow(bigint);
drop function pgqueue.settle(bigint[]);
drop function pgqueue.worst(bigint);
drop function pgqueue.enqueue_workflow(jsonb, text, boolean);
drop table pgqueue.dependencies;
drop table pgqueue.workflow_jobs;
drop table pgqueue.workflows;
-- What waited for others waits for nothing then, and is not to run.
update pgqueue.jobs set status = 'cancelled', finished_at = clock_timestamp(), last_error = 'the schema went back'
 where status = 'blocked';
alter table pgqueue.jobs drop column workflow_id;
alter table pgqueue.jobs drop constraint jobs_status;
alter table pgqueue.jobs add constraint jobs_status
    check (status in ('pending', 'running', 'succeeded', 'dead', 'cancelled'));

comment on schema pgqueue is 'pgqueue schema 5, serves schema 1';
