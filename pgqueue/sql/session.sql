-- name: pin_session
-- Settings of the worker's own connections: the index plans for any statistics, READ COMMITTED.
select set_config('plan_cache_mode', 'force_generic_plan', false),
       set_config('enable_seqscan', 'off', false),
       set_config('enable_bitmapscan', 'off', false),
       set_config('enable_hashjoin', 'off', false),
       set_config('enable_mergejoin', 'off', false),
       set_config('max_parallel_workers_per_gather', '0', false),
       set_config('jit', 'off', false),
       set_config('default_transaction_isolation', 'read committed', false),
       set_config('idle_in_transaction_session_timeout', '60s', false);

-- name: limit_statements
-- The server's own limit of a statement: what the client no longer waits for is to end there too.
select set_config('statement_timeout', :limit::text, false);

-- name: read_only
-- A sign of life, and whether the server refuses writes.
select current_setting('transaction_read_only') = 'on';

-- name: schema_comment
-- The version stamp of the schema, null if there is none.
select obj_description(to_regnamespace(:schema::text)::oid, 'pg_namespace');
