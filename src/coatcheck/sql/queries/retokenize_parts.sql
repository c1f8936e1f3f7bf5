-- The tables that hold the target's rows, with their size in blocks: its partitions, or the table itself.
SELECT c.oid::regclass::text, n.nspname, c.relname, pg_relation_size(c.oid) / current_setting('block_size')::int8
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE c.relkind = 'r'
  AND c.oid IN (SELECT relid FROM pg_partition_tree(to_regclass(%(target)s))
                UNION SELECT to_regclass(%(target)s))
ORDER BY c.oid
