-- name: same_backend
-- A row if the process of this session is the one that the connection was told at its start.
select where pg_backend_pid() = :pid::bigint;

-- part: pinned
-- What a role, a database or a server may set otherwise, and statements of ours rely on.
       set_config('search_path', 'pg_catalog, pg_temp', :local::boolean),
       set_config('default_transaction_isolation', 'read committed', :local::boolean),
       set_config('row_security', 'on', :local::boolean),
       set_config('datestyle', 'ISO, MDY', :local::boolean),
       set_config('intervalstyle', 'postgres', :local::boolean),
       set_config('timezone', 'UTC', :local::boolean),
       set_config('bytea_output', 'hex', :local::boolean),
       set_config('extra_float_digits', '1', :local::boolean),
       set_config('standard_conforming_strings', 'on', :local::boolean),
       set_config('array_nulls', 'on', :local::boolean),
       set_config('idle_in_transaction_session_timeout', '60s', :local::boolean)
 where :local::boolean or pg_backend_pid() = :pid::bigint;

-- name: pin_session
-- Settings of the worker's own statements: an end to those that the client no longer waits for, and
-- the index plans for any statistics. A row that others have locked holds up no statement for long:
-- its result is recorded later, by itself. For one transaction, or for the session, but then only if the
-- session is ours alone: no row means that a pooler shares it.
select set_config('statement_timeout', :limit::text, :local::boolean),
       set_config('plan_cache_mode', 'force_generic_plan', :local::boolean),
       set_config('enable_seqscan', 'off', :local::boolean),
       set_config('enable_bitmapscan', 'off', :local::boolean),
       set_config('enable_hashjoin', 'off', :local::boolean),
       set_config('enable_mergejoin', 'off', :local::boolean),
       set_config('max_parallel_workers_per_gather', '0', :local::boolean),
       set_config('jit', 'off', :local::boolean),
       set_config('lock_timeout', '200ms', :local::boolean),
-- include: pinned

-- name: pin_client
-- Settings of the statements that an application's process sends on connections of pgqueue's own.
select set_config('statement_timeout', :limit::text, :local::boolean),
       set_config('lock_timeout', '0', :local::boolean),
-- include: pinned

-- name: pin_more
-- For a session that is ours alone: idle ones are not ended, and what the role or the database makes
-- read-only is not; but a server that was made read-only as a whole stays so, for it is being replaced.
select set_config(s.name, case when s.setting = text 'on' then 'off' else '0' end, false)
  from pg_catalog.pg_settings s
 where s.name = any (array[text 'idle_session_timeout', 'transaction_timeout'])
    or s.name = text 'default_transaction_read_only' and s.setting = text 'on'
       and s.source = any (array[text 'database', 'user', 'database user']);

-- name: begin_pinned
-- Starts the transaction of one statement through a pooler, whatever isolation the role defaults to.
begin isolation level read committed;

-- name: commit_pinned
-- Ends it.
commit;

-- name: read_only
-- A sign of life, and whether the server refuses writes.
select current_setting('transaction_read_only') = 'on';

-- name: schema_version
-- The body of the function that says the version of the schema. It is read, not called: the schema may be missing.
select p.prosrc from pg_proc p
 where p.proname = 'schema_version' and p.pronamespace = to_regnamespace(:schema::text)::oid;

-- name: lock_holders
-- Sessions with locks on the tables of the schema, longest transaction first.
select format('pid %s, %s, user %s, in a transaction for %s s', a.pid,
              coalesce(nullif(a.application_name, ''), 'unnamed'), a.usename,
              coalesce(round(extract(epoch from clock_timestamp() - a.xact_start))::text, '?'))
  from pg_stat_activity a
 where a.pid <> pg_backend_pid()
   and a.pid in (select l.pid from pg_locks l join pg_class c on c.oid = l.relation
                  where l.granted and c.relnamespace = to_regnamespace(:schema::text)::oid)
 order by a.xact_start
 limit 3;

-- name: preflight
-- What this session's server, database and role are like: what cannot be worked with is refused before anything begins.
-- Last the tables of the schema of which row-level security hides rows, and whether a policy shows it some of each.
select current_setting('server_version_num')::integer, current_database()::text, current_user::text,
       current_setting('server_encoding'), current_setting('transaction_read_only') = text 'on',
       (select s.source from pg_catalog.pg_settings s
         where s.name = text 'default_transaction_read_only' and s.setting = text 'on' and not pg_is_in_recovery()),
       coalesce(array_agg(h.name order by h.name), array[]::text[]),
       coalesce(array_agg(h.shown order by h.name), array[]::boolean[])
  from (
      select c.relname::text as name,
             exists (select from pg_catalog.pg_policy p, unnest(p.polroles) as r(role)
                      where p.polrelid = c.oid and p.polcmd = any (array["char" 'r', '*'])
                        and (r.role = oid '0' or pg_has_role(r.role, 'member'))) as shown
        from pg_catalog.pg_class c
       where c.relnamespace = to_regnamespace(:schema::text)::oid and c.relkind = any (array["char" 'r', 'p'])
         and row_security_active(c.oid)) h;

-- name: any_job
-- Whether there is any job at all.
select exists (select from pgqueue.jobs);

-- name: index_exists
-- A row if there is an index of this name.
select 1 from pg_indexes where schemaname = :schema::text and indexname = :name::text;

-- name: unfinished_indexes
-- Those of these indexes that a migration began to build and that are of no use.
select quote_ident(n.nspname) || '.' || quote_ident(c.relname)
  from pg_index i
  join pg_class c on c.oid = i.indexrelid
  join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = :schema::text and c.relname = any (:names::text[]) and not i.indisvalid;

-- name: current_role
-- Whose rights this session has.
select current_user::text;

-- name: session_setting
-- A setting as it is in a new session.
select s.reset_val || coalesce(s.unit, ''::text) from pg_settings s where s.name = :name::text;

-- name: search_path
-- Where names are looked up now.
select current_setting('search_path');

-- name: set_search_path
-- Look up names there, for the rest of the transaction.
select set_config('search_path', :search_path::text, true);

-- name: migrate_beside
-- For a statement outside of transactions: the role anew, and no limit to its waits, which hold up nobody.
select set_config('role', :role::text, false), set_config('lock_timeout', '0', false),
       set_config('statement_timeout', '0', false),
       set_config('search_path', 'pg_catalog, pg_temp', false);

-- name: migrate_inside
-- Takes that back.
select set_config('role', 'none', false), set_config('lock_timeout', :lock_timeout::text, false),
       set_config('statement_timeout', :statement_timeout::text, false),
       set_config('search_path', :search_path::text, false);
