-- Relations that hold what is acked and do not survive a crash: (name, persistence or kind). Those of the target, its
-- partitions and what a plain view over one table shows; and coatcheck's own. Only what stores rows counts: a partitioned
-- table is as durable as its partitions.
WITH RECURSIVE target AS (
    SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
    WHERE relname = %(name)s
      AND CASE WHEN %(schema)s::text IS NULL THEN c.oid = to_regclass(quote_ident(%(name)s)) ELSE nspname = %(schema)s END
), behind AS (
    SELECT oid FROM target
    UNION
    SELECT step.oid FROM behind CROSS JOIN LATERAL (
        SELECT inhrelid AS oid FROM pg_inherits WHERE inhparent = behind.oid
        UNION ALL
        SELECT min(d.refobjid::oid::bigint)::oid FROM pg_rewrite AS w JOIN pg_depend AS d ON d.objid = w.oid
        WHERE w.ev_class = behind.oid AND d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
          AND d.refobjid <> behind.oid
          AND EXISTS (SELECT FROM pg_class AS v WHERE v.oid = behind.oid AND v.relkind = 'v')
        HAVING count(DISTINCT d.refobjid) = 1
    ) AS step
), stored AS (
    SELECT oid FROM behind
    UNION
    SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace WHERE nspname = 'coatcheck'
)
SELECT format('%%I.%%I', nspname, relname), CASE relkind WHEN 'f' THEN 'f' ELSE relpersistence::text END
FROM stored JOIN pg_class AS c USING (oid) JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE (relkind = 'r' AND relpersistence <> 'p') OR relkind = 'f'
ORDER BY 1
