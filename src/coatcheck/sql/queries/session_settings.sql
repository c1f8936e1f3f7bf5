-- The settings that our statements, and what psycopg makes of their answers, depend on. Returns those that are not as they
-- have to be: name, value, what it was, and whether the session has the value now. Without `path` the search_path stays.
-- A session of our own gets them here. Behind a pooler (the server's process is not the one that we were given) sessions are
-- shared: only what poolers keep for each client is set, the rest is left to each transaction.
-- Nothing here depends on a setting, search_path included.
WITH ours (name, value, kept) AS (
    VALUES ('client_encoding', 'UTF8', true),             -- text travels as UTF-8 bytes in binary arrays
           ('search_path', 'pg_catalog, pg_temp', false),  -- nobody else's function, operator, type or table is meant
           ('DateStyle', 'ISO, MDY', true),               -- psycopg reads timestamps in ISO's form only
           ('IntervalStyle', 'postgres', true),           -- and intervals in this one
           ('TimeZone', 'UTC', true),                     -- days of partitions and bounds are UTC's
           ('standard_conforming_strings', 'on', true),   -- our literals hold backslashes (LIKE 'pg\_%%')
           ('backslash_quote', 'safe_encoding', false),
           ('quote_all_identifiers', 'off', false),       -- names are compared with what format and pg_get_* make of them
           ('bytea_output', 'hex', false),
           ('extra_float_digits', '1', false),
           ('array_nulls', 'on', false),                  -- lists travel as text where they are not on the hot path
           ('transform_null_equals', 'off', false),
           ('row_security', 'on', false),                 -- off: what a policy would filter is an error instead
           ('restrict_nonsystem_relation_kind', '', false),  -- views are read
           ('default_table_access_method', 'heap', false),   -- the ledger needs unique indexes
           ('default_transaction_isolation', 'read committed', false),
           ('default_transaction_deferrable', 'off', false),
           ('exit_on_error', 'off', false),               -- errors are expected, and sorted
           ('log_parameter_max_length_on_error', '0', false),  -- parameters do not go to the server's log
           ('session_replication_role', 'origin', false), -- replica: triggers and foreign keys do not hold
           ('synchronous_commit', 'on', false)            -- an ack after a commit that may be lost is a lie
), found AS (
    SELECT name, value, kept, pg_catalog.current_setting(name, true) AS actual FROM ours
), wrong AS (
    SELECT name, value, actual, kept OPERATOR(pg_catalog.=) true
           OR pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) %(pid)s::pg_catalog.int4 AS settable
    FROM found
    WHERE CASE WHEN name OPERATOR(pg_catalog.=) 'synchronous_commit' THEN actual OPERATOR(pg_catalog.=) 'off'  -- local, remote_*: somebody's choice
               WHEN name OPERATOR(pg_catalog.=) 'session_replication_role' THEN actual OPERATOR(pg_catalog.=) 'replica'
               WHEN name OPERATOR(pg_catalog.=) 'search_path' AND NOT %(path)s THEN false
               ELSE actual OPERATOR(pg_catalog.<>) value END
)
SELECT name, value, actual,
       CASE WHEN settable THEN pg_catalog.set_config(name, value, false) IS NOT NULL ELSE false END AS done
FROM wrong
