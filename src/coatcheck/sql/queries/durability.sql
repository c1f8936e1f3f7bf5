-- What a commit is worth here: one row of the server and of this session's own defaults.
-- reset_val is what the session began with: what coatcheck has set since does not hide it.
SELECT version(),
       ARRAY(SELECT extname::text FROM pg_extension WHERE extname IN ('citus', 'orioledb', 'timescaledb')
             UNION ALL SELECT 'dsql' WHERE to_regclass('sys.iam_pg_role_mappings') IS NOT NULL),
       getdatabaseencoding()::text,
       ARRAY(SELECT name::text FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'
             AND current_setting('cluster_name') <> 'coatcheck-throwaway'),  -- demo.servers: its data ends with it
       (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'),
       coalesce(current_setting('synchronous_standby_names', true), '') <> '',
       (SELECT count(*)::int FROM pg_stat_replication AS r
        WHERE NOT EXISTS (SELECT FROM pg_replication_slots AS s WHERE s.active_pid = r.pid AND s.slot_type = 'logical'))
