-- The relations behind the target: name, kind, and for a partitioned one
-- the strategy, whether there is a default partition, and the bounds of its partitions.
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), c.relkind::text,
       p.partstrat::text, coalesce(p.partdefid <> 0, false),
       ARRAY(SELECT pg_catalog.pg_get_expr(child.relpartbound, child.oid)
             FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS child ON child.oid = i.inhrelid
             WHERE i.inhparent = c.oid AND child.relpartbound IS NOT NULL),
       c.relkind = 'v' AND c.reloptions::text LIKE '%%check_option=%%'
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_partitioned_table AS p ON p.partrelid = c.oid
WHERE c.oid = ANY (%(behind)s::oid[])
ORDER BY 1
