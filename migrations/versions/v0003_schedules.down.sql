drop view pgqueue.schedule_runs;
drop view pgqueue.schedule_list;
drop function pgqueue.run_schedule(text);
drop function pgqueue.resume_schedule(text);
drop function pgqueue.pause_schedule(text);
drop function pgqueue.remove_schedule(text);
drop function pgqueue.add_schedule(text, text, text, jsonb, text, text, integer, integer, jsonb, text, text);
drop table pgqueue.schedules;
drop function pgqueue.schedule_changed();
alter table pgqueue.jobs drop column schedule, drop column tick;

comment on schema pgqueue is 'pgqueue schema 2, serves schema 1';
