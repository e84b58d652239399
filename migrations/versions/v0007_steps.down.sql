drop function pgqueue.deliver_events(integer);
drop function pgqueue.emit(text, jsonb);
drop function pgqueue.wake_waiting(bigint[]);
drop function pgqueue.await_event(bigint, uuid, text, text, float8);
drop function pgqueue.start_sleep(bigint, uuid, text, float8);
drop function pgqueue.save_step(bigint, uuid, text, jsonb);
drop function pgqueue.check_claim(bigint, uuid);
drop table pgqueue.events;
drop table pgqueue.steps;

comment on schema pgqueue is 'pgqueue schema 6, serves schema 1';
