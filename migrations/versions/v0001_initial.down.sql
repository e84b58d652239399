drop view pgqueue.dead_jobs, pgqueue.task_stats, pgqueue.throughput, pgqueue.queue_stats, pgqueue.queue_names;
drop function pgqueue.complete_job(bigint, uuid);
drop function pgqueue.enqueue(text, jsonb, text, integer, timestamptz, interval, integer, jsonb, boolean);
drop function pgqueue.backoff(integer, jsonb);
drop function pgqueue.channel(text);
drop table pgqueue.workers, pgqueue.queues, pgqueue.attempts, pgqueue.jobs;
comment on schema pgqueue is null;
